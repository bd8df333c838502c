"""A front door on Postgres, and what must be true of each of its answers, whatever it was asked."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import orjson

from perdure.security.vault import new_key
from tests.api.documented import check, check_event
from tests.support.processes import PERDURE, ROOT, heard, started, surroundings

Json = dict[str, Any]

INTERNAL_TEXT = "an internal error occurred"
"""As `api.codes` tells of a defect."""
BOUND = 10.0
"""Seconds within which every answer begins, and ends unless it is a stream."""
SETTINGS = {
    "LOG__FORMAT": "json",
    "QUEUE_TYPE": "inline",
    "STORAGE_TYPE": "postgres",
    "SERVER__WAIT_TIMEOUT": "1",
    "SERVER__SLOW_SENDER": "5",
}


@dataclass
class Served:
    """The front door. `tasks` are ids that were given out: some requests are made for them."""

    url: str
    process: subprocess.Popen[str]
    http: httpx.Client
    tasks: list[str] = field(default_factory=list)
    contexts: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    errors_told: Counter[str] = field(default_factory=Counter)
    said: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")

    @property
    def asked(self) -> int:
        """How many requests it was sent."""
        return self.statuses.total()

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None
    ) -> httpx.Response:
        """Its answer to one request, which holds all that every answer has to. Of a stream the first events are read."""
        encoded = {name: value.encode("latin-1") for name, value in (headers or {}).items()}
        began = time.monotonic()
        with self.http.stream(method, self.url + path, content=body, headers=encoded) as response:  # type: ignore[arg-type]
            streams = response.headers.get("Content-Type", "").startswith("text/event-stream")
            content = _head_of(response) if streams else response.read()
        took = time.monotonic() - began
        assert took < BOUND
        self.slowest = max(self.slowest, (took, f"{method} {path[:80]} {body[:200]!r} {headers}"))
        self.statuses[f"{response.status_code}"] += 1
        if streams:
            for data in _events(content):
                check_event(method, response.request.url.path, data)
                self._judge(data)
        else:
            check(response)
            if response.headers.get("Content-Type", "").partition(";")[0].endswith("json") and content:
                self._judge(orjson.loads(content))
        assert response.status_code < 500 or _documented(response), response.text
        return response

    def _judge(self, answer: Any) -> None:
        """No error of ours; and remember the ids."""
        if isinstance(answer, dict) and isinstance(error := answer.get("error"), dict):
            # Not the code: what 0.3 has no code for is an internal error by its name.
            assert error["code"] != 500, answer
            assert INTERNAL_TEXT not in error["message"], answer
            self.errors_told[str(error["code"])] += 1
        self._remember(answer)

    def _remember(self, answer: Any) -> None:
        match answer:
            case {"result": result}:
                self._remember(result)
            case {"task": task}:
                self._remember(task)
            case {"id": str(task_id), "contextId": str(context_id), "status": {}}:
                self.tasks.append(task_id)
                self.contexts.append(context_id)

    def errors(self) -> list[str]:
        """Lines of its log that tell of a defect."""
        return [
            line for line in self.said if not line.startswith("{") or orjson.loads(line)["level"] == "error"
        ]


def _documented(response: httpx.Response) -> bool:
    return response.status_code == 503 and "Retry-After" in response.headers


def _head_of(response: httpx.Response) -> bytes:
    """Up to the end of the first event, or all of a short stream."""
    content = b""
    for piece in response.iter_raw():
        content += piece
        if b"\n\n" in content:
            break
    return content


def _events(content: bytes) -> Iterator[Any]:
    for block in content.split(b"\n\n")[:-1]:
        for line in block.split(b"\n"):
            if line.startswith(b"data: "):
                yield orjson.loads(line.removeprefix(b"data: "))


@contextmanager
def served(folder: Path, database_url: str) -> Iterator[Served]:
    """A running front door. Its log is read all the time: a full pipe would stop it."""
    command = [PERDURE, "serve", str(ROOT / "tests" / "support" / "agents" / "fuzzed.py"), "--port", "0"]
    env = surroundings(**SETTINGS, DATABASE_URL=database_url, WEBHOOKS__KEYS=new_key())
    with (
        started(command, cwd=folder, env=env) as process,
        httpx.Client(timeout=BOUND, follow_redirects=False) as http,
    ):
        door = Served(heard(process, "serving")["url"], process, http)
        assert process.stdout is not None
        reader = Thread(target=door.said.extend, args=(process.stdout,), daemon=True)
        reader.start()
        yield door
        assert http.get(f"{door.url}/readyz").json()["status"] == "ready"
        process.terminate()
        assert process.wait(timeout=30) == 0
        reader.join(timeout=30)
