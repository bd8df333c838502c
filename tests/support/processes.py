"""Real processes: started, listened to until they serve, and stopped. Nothing waits longer than pytest's timeout for the test."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from perdure.reference import describe
from perdure.settings import Settings, environment

ROOT = Path(__file__).resolve().parents[2]
PERDURE = str(Path(sys.executable).parent / "perdure")


def surroundings(**settings: str) -> dict[str, str]:
    """This process's environment with these settings of ours and no others."""
    ours = {row.name for row in describe(Settings())} | {"NO_COLOR", "FORCE_COLOR"}
    return {name: value for name, value in environment().items() if name not in ours} | settings


def finished(
    command: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run to the end: `returncode`, `stdout`, `stderr`."""
    return subprocess.run(
        command,
        cwd=cwd,
        env=env or surroundings(),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@contextmanager
def started(
    command: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    """A process whose stdout and stderr are one pipe; killed at the end if it still runs."""
    with subprocess.Popen(
        command,
        cwd=cwd,
        env=env or surroundings(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


@contextmanager
def serving(command: Sequence[str], *, cwd: Path, env: dict[str, str] | None = None) -> Iterator[Server]:
    """A front door, once it listens."""
    with started(command, cwd=cwd, env=env) as process:
        server = Server(process, heard(process, "serving")["url"])
        try:
            yield server
        finally:
            server.close()


def heard(process: subprocess.Popen[str], event: str) -> dict[str, Any]:
    """The next log line (JSON) with this event. AssertionError with all that was said when the process ends first."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if line.startswith("{") and (found := json.loads(line))["event"] == event:
            return dict(found)
    raise AssertionError(f"it ended with {process.wait()} and said:\n{''.join(said)}")


class Server:
    """A running front door."""

    def __init__(self, process: subprocess.Popen[str], url: str) -> None:
        self.process = process
        self.url = url
        self._http = httpx.Client(timeout=30)  # one for all: making one takes longer than a call

    def close(self) -> None:
        """Let go of its connections."""
        self._http.close()

    def send(self, text: str, *, blocking: bool = True, **members: Any) -> dict[str, Any]:
        """`message/send` of A2A 0.3: the task, once it rests, or (not `blocking`) as it is now."""
        return self.call("message/send", sending(text, blocking=blocking, **members))

    def call(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """One call of A2A 0.3; its result."""
        answer = self.post(method, params).raise_for_status().json()
        assert "error" not in answer, answer
        result: dict[str, Any] = answer["result"]
        return result

    def post(self, method: str, params: dict[str, Any]) -> httpx.Response:
        """One call of A2A 0.3; whatever is answered."""
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        return self._http.post(self.url, json=request)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Its exit code after this signal."""
        self.process.send_signal(how)
        self.process.communicate(timeout=40)
        return self.process.returncode


def sending(text: str, *, blocking: bool = True, **members: Any) -> dict[str, Any]:
    """The params of `message/send`."""
    message = {
        "messageId": os.urandom(8).hex(),
        "role": "user",
        "parts": [{"kind": "text", "text": text}],
        **members,
    }
    return {"message": message, "configuration": {"blocking": blocking}}


def text_of(task: dict[str, Any]) -> str:
    """The text of a task's artifacts."""
    return "".join(part["text"] for artifact in task["artifacts"] for part in artifact["parts"])
