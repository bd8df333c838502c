"""A client of streams over real connections: reads events, folds them into the text that they build, resumes where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from tests.support.processes import Server, sending

Json = dict[str, Any]


class Listener:
    """What one client has heard of a task, over however many streams. `frames` are pairs of an event's number and its result."""

    def __init__(self) -> None:
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
                result = json.loads(value)["result"]
                self.frames.append((number, result))
                self._take(result)
                yield self.text

    def _take(self, result: Json) -> None:
        match result["kind"]:
            case "task":
                self.task_id, self.state = result["id"], result["status"]["state"]
            case "status-update":
                self.state = result["status"]["state"]
            case "artifact-update":
                artifact = result["artifact"]
                before = self.artifacts.get(artifact["artifactId"], "") if result["append"] else ""
                said = "".join(part["text"] for part in artifact["parts"])
                self.artifacts[artifact["artifactId"]] = before + said

    @contextmanager
    def sends(self, server: Server, text: str) -> Iterator[Iterator[str]]:
        """`message/stream`."""
        with self._posts(server, "message/stream", sending(text)) as texts:
            yield texts

    @contextmanager
    def resumes(self, server: Server) -> Iterator[Iterator[str]]:
        """`tasks/resubscribe` after the last event that it heard."""
        with self._posts(server, "tasks/resubscribe", {"id": self.task_id}, self.place) as texts:
            yield texts

    @contextmanager
    def _posts(self, server: Server, method: str, params: Json, place: str = "") -> Iterator[Iterator[str]]:
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        headers = {"Last-Event-ID": place} if place else {}
        with httpx.stream("POST", server.url, json=body, headers=headers, timeout=30) as response:
            assert response.headers["content-type"].startswith("text/event-stream"), response.read()
            yield self.hears(response.iter_lines())


def words(number: int) -> str:
    """What the agent `words` says."""
    return "".join(f"{word} " for word in range(number))
