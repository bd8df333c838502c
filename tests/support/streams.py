"""A client of streams over real connections: reads events, folds them into the text that they build, resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.processes import Server, sending

Json = dict[str, Any]


BINDINGS = ("0.3 JSON-RPC", "1.0 JSON-RPC", "1.0 HTTP+JSON")
_KINDS = {"statusUpdate": "status-update", "artifactUpdate": "artifact-update"}


class Listener:
    """What one client has heard of a task, over however many streams. `frames` are pairs of an event's number and its result."""

    def __init__(self, binding: str = BINDINGS[0]) -> None:
        assert binding in BINDINGS
        self.version, self.transport = binding.split()
        self.frames: list[tuple[int, Json]] = []
        self.artifacts: dict[str, str] = {}
        self.task_id = ""
        self.state = ""

    @property
    def text(self) -> str:
        """What the artifacts say now."""
        return "".join(self.artifacts.values())

    @property
    def place(self) -> str:
        """The id to resume from."""
        return str(self.frames[-1][0])

    def hears(self, lines: Iterable[str]) -> Iterator[str]:
        """Take event after event; after each one, the text so far."""
        number = 0
        for line in lines:
            name, _, value = line.partition(": ")
            if name == "id":
                number = int(value)
            elif name == "data":
                said = json.loads(value)
                result = said["result"] if self.transport == "JSON-RPC" else said
                self.frames.append((number, result))
                self._take(result)
                yield self.text

    def read(self, result: Json) -> tuple[str, Json]:
        """What kind of thing a result is, as 0.3 calls it, and the thing."""
        if self.version == "0.3":
            return result["kind"], result
        [(kind, thing)] = result.items()
        return _KINDS.get(kind, kind), thing

    def _take(self, result: Json) -> None:
        match self.read(result):
            case "task", task:
                self.task_id, self.state = task["id"], _state(task)
            case "status-update", update:
                self.state = _state(update)
            case "artifact-update", update:
                artifact = update["artifact"]
                before = self.artifacts.get(artifact["artifactId"], "") if update.get("append") else ""
                said = "".join(part["text"] for part in artifact["parts"])
                self.artifacts[artifact["artifactId"]] = before + said

    @contextmanager
    def sends(self, server: Server, text: str) -> Iterator[Iterator[str]]:
        """Send a message, and follow its task."""
        params = sending(text)
        if self.version == "1.0":
            params = {"message": {**params["message"], "role": "ROLE_USER", "parts": [{"text": text}]}}
        methods = {"0.3": "message/stream", "1.0": "SendStreamingMessage"}
        with self._posts(server, methods[self.version], "message:stream", params) as texts:
            yield texts

    @contextmanager
    def resumes(self, server: Server) -> Iterator[Iterator[str]]:
        """Follow the task after the last event that it heard."""
        methods = {"0.3": "tasks/resubscribe", "1.0": "SubscribeToTask"}
        path, params = f"tasks/{self.task_id}:subscribe", {"id": self.task_id}
        with self._posts(server, methods[self.version], path, params, self.place) as texts:
            yield texts

    @contextmanager
    def _posts(
        self, server: Server, method: str, path: str, params: Json, place: str = ""
    ) -> Iterator[Iterator[str]]:
        headers = {"Last-Event-ID": place} if place else {}
        url, body = server.url, {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        if self.version == "1.0":
            headers["A2A-Version"] = "1.0"
        if self.transport == "HTTP+JSON":
            url, body = f"{server.url.rstrip('/')}/{path}", params
        with httpx.stream("POST", url, json=body, headers=headers, timeout=30) as response:
            assert response.headers["content-type"].startswith("text/event-stream"), response.read()
            yield self.hears(response.iter_lines())


def _state(of: Json) -> str:
    """As 0.3 calls it."""
    name: str = of["status"]["state"]
    return name.removeprefix("TASK_STATE_").lower().replace("_", "-")


def words(number: int) -> str:
    """What the agent `words` says."""
    return "".join(f"{word} " for word in range(number))
