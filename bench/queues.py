"""The job queues: how quickly one worker of each drains what waits, and how soon it picks up what comes while it is idle."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis

from perdure.local import LocalServices

from .ours import new_database
from .processes import Process, started
from .servers import PROGRAMS
from .venvs import python_of

QUEUES = {
    "arq": "arq_jobs.py",
    "taskiq": "taskiq_jobs.py",
    "SAQ": "saq_jobs.py",
    "streaQ": "streaq_jobs.py",
    "procrastinate": "procrastinate_jobs.py",
    "Celery": "celery_jobs.py",
}
PAUSE = 0.03
_REDIS_NUMBER = 9
IDLE_SECONDS = 10.0


@dataclass(frozen=True)
class Drained:
    """Jobs a second, sent by one process and worked on by one."""

    sent: float
    drained: float


async def drain(services: LocalServices, queue: str, jobs: int) -> Drained:
    """Send so many no-op jobs, then start a worker: from its first job to its last."""
    with _programs(services, queue, await new_database(services)) as run:
        with run("send", jobs, 0) as sender:
            sent = float((await _said(sender, "sent ")).split()[1])
        with run("work", jobs, 0) as worker:
            told = await _said(worker, "counted ")
    seconds = json.loads(told[told.index("counted ") :].split(" ", 1)[1])["seconds"]
    return Drained(jobs / sent, jobs / seconds)


async def picked_up(services: LocalServices, queue: str, times: int) -> tuple[list[float], float]:
    """Milliseconds from before a job is sent until it runs, of so many, one each 30 ms; and per cent of a core while idle."""
    with _programs(services, queue, await new_database(services)) as run, run("work", times, PAUSE) as worker:
        await asyncio.sleep(4)
        before, begin = worker.cpu_seconds(), time.monotonic()
        await asyncio.sleep(IDLE_SECONDS)
        idle = 100 * (worker.cpu_seconds() - before) / (time.monotonic() - begin)
        with run("send", times, PAUSE):
            told = await _said(worker, "counted ", timeout=30 + times * PAUSE)
    found: list[float] = json.loads(told[told.index("counted ") :].split(" ", 1)[1])["milliseconds"]
    return found, idle


async def _said(process: Process, text: str, *, timeout: float = 240) -> str:
    return await asyncio.to_thread(process.until_said, text, timeout=timeout)


class _Run:
    """Start the queue's program as sender or as worker."""

    def __init__(self, queue: str, redis_url: str, database_url: str) -> None:
        self._command = [python_of(queue), str(PROGRAMS / QUEUES[queue])]
        self._settings = {"REDIS": redis_url, "DATABASE": database_url}

    @contextmanager
    def __call__(self, mode: str, target: int, pause: float) -> Iterator[Process]:
        settings = {**self._settings, "TARGET": str(target), "PAUSE": str(pause)}
        with started([*self._command, mode], settings=settings) as process:
            yield process


@contextmanager
def _programs(services: LocalServices, queue: str, database_url: str) -> Iterator[_Run]:
    url = urlsplit(services.redis_url)._replace(path=f"/{_REDIS_NUMBER}").geturl()
    with ExitStack() as stack:
        client = stack.enter_context(closing(redis.Redis.from_url(url)))
        client.flushdb()
        yield _Run(queue, url, database_url)
        client.flushdb()
