"""The fleet under test: front doors and workers as real processes, each with lines of its own to Postgres and Redis, and a
supervisor that starts again whatever ends. Ports stay the same, so that clients know where to knock.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import Process
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from perdure.local import LocalServices
from perdure.local.server import LAUNCH
from tests.chaos.history import Recorder
from tests.support.processes import PERDURE, ROOT, surroundings
from tests.support.proxy import Line, Proxy

HERE = Path(__file__).parent
LEASE = 2.0
FAKETIME = "/usr/lib/*-linux-gnu*/faketime/libfaketimeMT.so.1"

SETTINGS = {
    "STORAGE_TYPE": "postgres",
    "QUEUE_TYPE": "arq",
    "LOG__FORMAT": "json",
    "STORAGE__POOL_SIZE": "6",
    "WORKER__SLOTS": "20",
    "WORKER__LEASE": str(LEASE),
    "WORKER__LEASE_GRACE": "0.5",
    "WORKER__GRACE": "1",
    "WORKER__SWEEP_INTERVAL": "0.5",
    "WORKER__BEAT_INTERVAL": "1",
    "SERVER__REFRESH": "1",
    "SERVER__WAIT_TIMEOUT": "15",
    "SERVER__STOP_TIMEOUT": "2",
    # A task may well be held by more than three workers that are killed: here nothing may fail.
    "TURNS__MAX_CRASHES": "1000",
}


class MissingTool(Exception):
    """Something that has to be on the machine is not. One line that says how to get it."""


def faketime() -> str:
    """The library that shifts a process's clock. MissingTool."""
    found = sorted(Path("/").glob(FAKETIME.lstrip("/")))
    if not found:
        raise MissingTool("libfaketime is missing: apt-get install libfaketime")
    return str(found[0])


class Member:
    """A place in the fleet: a command, and the process that runs it now."""

    def __init__(
        self, fleet: Fleet, name: str, command: list[str], settings: dict[str, str], *, clock: int
    ) -> None:
        self.name = name
        self.postgres: Line = fleet.proxy.line(fleet.services.postgres.port)
        self.redis: Line = fleet.proxy.line(fleet.services.redis.port)
        self.asked_to_end = False
        self.troubled = 0  # faults that are under way here
        self.starts = 0
        self._fleet = fleet
        self._command = command
        self._process: Process | None = None
        self._env = surroundings(
            PYTHONPATH=str(ROOT),
            CHAOS_EFFECTS=str(fleet.folder / "effects.jsonl"),
            DATABASE_URL=_through(fleet.services.database_url, self.postgres),
            REDIS_URL=_through(fleet.services.redis_url, self.redis),
            **SETTINGS,
            **settings,
        )
        if clock:  # the monotonic clock stays real: leases and timers go by it
            self._env |= {
                "LD_PRELOAD": faketime(),
                "FAKETIME": f"{clock:+d}s",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",  # its name before libfaketime 0.9.10
            }

    @property
    def lines(self) -> list[Line]:
        return [self.postgres, self.redis]

    @property
    def pid(self) -> int:
        """Of the process that runs now, 0 between two."""
        return self._process.pid if self._process is not None and self._process.returncode is None else 0

    def signal(self, how: signal.Signals) -> int:
        """To the process, if there is one; its id."""
        pid = self.pid
        if pid:
            if how in (signal.SIGKILL, signal.SIGTERM):
                self.asked_to_end = True
            with suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, how)
        return pid

    async def supervised(self) -> None:
        """Start it, and again whenever it ends, until this is cancelled."""
        while True:
            process = await self._start()
            code = await process.wait()
            self._fleet.recorder.note(
                "ended", name=self.name, pid=process.pid, code=code, asked=self.asked_to_end
            )

    async def stop(self) -> int | None:
        """SIGTERM; its exit code."""
        process = self._process
        if process is None or process.returncode is not None:
            return None
        self.signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(20):
                return await process.wait()
        except TimeoutError:
            process.kill()
            return await process.wait()

    def kill(self) -> None:
        """At once, whatever it does."""
        if self.pid:
            self.signal(signal.SIGKILL)

    async def _start(self) -> Process:
        self.starts += 1
        self.asked_to_end = False
        with (self._fleet.folder / f"{self.name}.{self.starts}.log").open("wb") as log:
            # Dies with us, like the private servers.
            launch = [
                sys.executable,
                "-I",
                "-S",
                "-c",
                LAUNCH,
                str(os.getpid()),
                str(int(signal.SIGKILL)),
                "0",
                "0",
            ]
            self._process = await asyncio.create_subprocess_exec(
                *launch, *self._command, stdout=log, stderr=log, env=self._env, cwd=self._fleet.folder
            )
        self._fleet.recorder.note("started", name=self.name, pid=self._process.pid)
        return self._process


class Fleet:
    """Two front doors and three workers: one of them runs its handlers on threads, one of each lives in another minute."""

    def __init__(self, folder: Path, services: LocalServices, proxy: Proxy, recorder: Recorder) -> None:
        self.folder, self.services, self.proxy, self.recorder = folder, services, proxy, recorder
        self.fronts = [self._front("front-1", 0), self._front("front-2", -60)]
        self.workers = [
            self._worker("worker-1", "agent.py", 0),
            self._worker("worker-2", "agent_in_thread.py", 0),
            self._worker("worker-3", "agent.py", +60),
        ]
        self._supervisors: list[asyncio.Task[None]] = []

    @property
    def members(self) -> list[Member]:
        return [*self.fronts, *self.workers]

    @property
    def urls(self) -> list[str]:
        """Of the front doors."""
        return [f"http://127.0.0.1:{front.port}" for front in self.fronts]

    def _front(self, name: str, clock: int) -> FrontDoor:
        return FrontDoor(self, name, clock)

    def _worker(self, name: str, agent: str, clock: int) -> Member:
        return Member(self, name, [PERDURE, "worker"], {"AGENT": str(HERE / agent)}, clock=clock)

    async def start(self) -> None:
        """Returns when it is `ready`."""
        self._supervisors = [
            asyncio.create_task(member.supervised(), name=member.name) for member in self.members
        ]
        await self.ready()

    async def ready(self) -> None:
        """Returns when every front door is ready, with workers behind it."""
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            for url in self.urls:
                while not await _ready(http, url):  # noqa: ASYNC110 - another process becomes it
                    await asyncio.sleep(0.1)

    async def stop(self) -> list[int | None]:
        """SIGTERM to all; their exit codes."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        await asyncio.gather(*self._supervisors, return_exceptions=True)
        return await asyncio.gather(*(member.stop() for member in self.members))

    def kill(self) -> None:
        """End what is left, without a word."""
        for supervisor in self._supervisors:
            supervisor.cancel()
        for member in self.members:
            member.kill()


class FrontDoor(Member):
    """A member with a port."""

    def __init__(self, fleet: Fleet, name: str, clock: int) -> None:
        self.port = _free_port()
        command = [PERDURE, "serve", "--port", str(self.port)]
        super().__init__(fleet, name, command, {"AGENT": str(HERE / "agent.py")}, clock=clock)


async def _ready(http: httpx.AsyncClient, url: str) -> bool:
    with suppress(httpx.HTTPError):
        return bool((await http.get(f"{url}/readyz")).json()["status"] == "ready")
    return False


def _through(url: str, line: Line) -> str:
    """The same address by way of a line."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.netloc.rpartition(':')[0]}:{line.port}").geturl()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
