"""A whole deployment of real processes: front doors, workers, Postgres, Redis; and hands to break them."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from typing import Any

import asyncpg
import httpx
import pytest
import redis
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from perdure.local import LocalServices
from perdure.security.vault import new_key
from tests.support.processes import PERDURE, ROOT, Server, heard, started, surroundings

ARQ = str(Path(sys.executable).parent / "arq")

AGENTS = ROOT / "tests" / "support" / "agents"


class Process:
    """A running process whose log is read all the time: a full pipe would stop it."""

    def __init__(self, popen: subprocess.Popen[str]) -> None:
        self.popen = popen
        self.log: list[str] = []
        self._reader = Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.popen.stdout is not None
        with suppress(ValueError):  # closed under us at the end
            self.log.extend(self.popen.stdout)

    def said(self, event: str) -> int:
        """How many lines of its log have this event."""
        return sum(f'"{event}"' in line for line in self.log)

    def signal(self, how: signal.Signals) -> None:
        self.popen.send_signal(how)

    def ended(self) -> int:
        """Its exit code, once it has ended; its log is complete then."""
        code = self.popen.wait(timeout=30)
        self._reader.join(timeout=30)
        return code


class Stack:
    """Starts what a test asks for; everything is stopped at its end."""

    def __init__(self, folder: Path, services: LocalServices, stack: ExitStack) -> None:
        self.folder, self.services, self._stack = folder, services, stack
        self.processes: list[Process] = []
        self.settings = {
            "STORAGE_TYPE": "postgres",
            "DATABASE_URL": services.database_url,
            "QUEUE_TYPE": "arq",
            "REDIS_URL": services.redis_url,
            "AGENT": str(AGENTS / "gated.py"),
            "LOG__FORMAT": "json",
            "WORKER__LEASE": "1.5",
            "WORKER__LEASE_GRACE": "0.3",
            "WORKER__SWEEP_INTERVAL": "0.3",
            "WORKER__BEAT_INTERVAL": "0.5",
            "SERVER__REFRESH": "0.5",
            "STORAGE__RETRY_TIMEOUT": "1",
            "WEBHOOKS__KEYS": new_key(),
        }

    def start(self, command: list[str], event: str, **settings: str) -> tuple[Process, dict[str, Any]]:
        """A process, and the line of its log with this event."""
        env = surroundings(**{"PYTHONPATH": str(ROOT), **self.settings, **settings})
        popen = self._stack.enter_context(started(command, cwd=self.folder, env=env))
        first = heard(popen, event)
        self.processes.append(process := Process(popen))
        return process, first

    def front_door(self, **settings: str) -> tuple[Server, Process]:
        process, first = self.start([PERDURE, "serve", "--port", "0"], "serving", **settings)
        server = Server(process.popen, first["url"])
        self._stack.callback(server.close)
        return server, process

    def at(self, server: Server) -> Server:
        """Its connections are closed at the end."""
        self._stack.callback(server.close)
        return server

    def at_agent(self, server: Server, name: str) -> Server:
        """One of several agents behind a front door."""
        return self.at(Server(server.process, f"{server.url}/agents/{name}"))

    def worker(self, *agents: str, **settings: str) -> Process:
        return self.start([PERDURE, "worker", *agents], "worker.started", **settings)[0]

    def arq_worker(self, **settings: str) -> Process:
        return self.start([ARQ, "worker.settings.WorkerSettings"], "worker.started", **settings)[0]

    def rows(self, statement: str, *arguments: Any) -> list[Any]:
        """What Postgres says."""

        async def ask() -> list[Any]:
            connection = await asyncpg.connect(self.services.database_url)
            try:
                return list(await connection.fetch(statement, *arguments))
            finally:
                await connection.close()

        return asyncio.run(ask())

    def run(self, statements: str) -> None:
        """Do something to Postgres."""

        async def do() -> None:
            connection = await asyncpg.connect(self.services.database_url)
            try:
                await connection.execute(statements)
            finally:
                await connection.close()

        asyncio.run(do())

    def task(self, task_id: str) -> dict[str, Any]:
        """A task's row."""
        return dict(self.rows("SELECT * FROM tasks WHERE task_id = $1", task_id)[0])

    def events(self, task_id: str) -> list[dict[str, Any]]:
        """A task's whole log."""
        rows = self.rows("SELECT * FROM task_events WHERE task_id = $1 ORDER BY seq", task_id)
        return [{**row, "payload": json.loads(row["payload"])} for row in rows]

    def artifact_events(self, task_id: str) -> list[dict[str, Any]]:
        """What the handlers put out, of every attempt."""
        return [event for event in self.events(task_id) if event["kind"] == "artifact"]

    def held_for(self, task_id: str) -> float:
        """Seconds from the begin of its turn to the end of its lease, as it is now; 0.0 when nobody holds it."""
        [row] = self.rows(
            "SELECT lease_until - status_timestamp AS held FROM tasks WHERE task_id = $1", task_id
        )
        return float(row["held"].total_seconds()) if row["held"] else 0.0

    def log_is_whole(self, task_id: str) -> None:
        """Its events are 1, 2, 3 ... and one of them ends it, the last."""
        events = self.events(task_id)
        assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
        states = [event["payload"]["status"]["state"] for event in events if event["kind"] == "status"]
        ends = [
            state.rpartition("_")[2] in ("COMPLETED", "FAILED", "CANCELED", "REJECTED") for state in states
        ]
        assert ends.count(True) == 1
        assert ends[-1]

    def empty_redis(self) -> None:
        """FLUSHALL; there has to be something."""
        with redis.Redis.from_url(self.services.redis_url) as client:
            assert client.dbsize() > 0
            client.flushall()

    def gate(self, name: str) -> Gate:
        """A file that a turn waits for."""
        return Gate(self.folder / name)


class Gate:
    """Its path, sent as a message, makes a turn that goes on until the gate is opened."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self, pid: int | None = None) -> None:
        """For all, or for one process."""
        Path(f"{self.path}.{pid}" if pid else self.path).touch()

    @property
    def lines(self) -> list[str]:
        """What the handlers wrote: `<process id> <attempt>` at the begin, `canceled`."""
        log = Path(f"{self.path}.log")
        return log.read_text().splitlines() if log.exists() else []

    def begun(self, times: int = 1) -> int:
        """Wait until a handler has begun for the n-th time; the process that runs it."""
        until(lambda: len([line for line in self.lines if line != "canceled"]) >= times)
        return int([line for line in self.lines if line != "canceled"][times - 1].split()[0])


def until(true: Callable[[], bool], *, seconds: float = 25) -> None:
    """Look until it is true; AssertionError after that many seconds."""
    for attempt in Retrying(
        retry=retry_if_exception_type((AssertionError, httpx.HTTPError, OSError)),
        stop=stop_after_delay(seconds),
        wait=wait_fixed(0.05),
        reraise=True,
    ):
        with attempt:
            assert true()


def at(server: Server, task_id: str, state: str) -> bool:
    """Whether a task stands at `state`."""
    return bool(server.call("tasks/get", {"id": task_id})["status"]["state"] == state)


def status_of(server: Server) -> str:
    """What `/readyz` says."""
    return str(httpx.get(f"{server.url}/readyz", timeout=30).json()["status"])


@pytest.fixture
def stack(tmp_path: Path, private_services: LocalServices) -> Iterator[Stack]:
    with ExitStack() as processes:
        stack = Stack(tmp_path, private_services, processes)
        yield stack
    for process in stack.processes:  # pytest shows it where a test has failed
        print(f"--- {process.popen.args!r} was process {process.popen.pid}", *process.log, sep="\n")
