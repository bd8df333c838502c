"""Perdure as it is measured: its processes, and its storage and queue from the outside."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit
from uuid import UUID

import asyncpg

from perdure.ids import new_task_id
from perdure.local import LocalServices, local_services
from perdure.queue.arq import ArqQueue
from perdure.settings import StorageSettings
from perdure.storage import NewTask
from perdure.storage.postgres import PostgresStorage
from perdure.tasks import ANONYMOUS, Message, Ring, Role, TextPart

from .processes import AGENTS, ARQ, PERDURE, Process, started

_COUNT = "SELECT count(*) FROM tasks WHERE state = $1"
_names = itertools.count(1)


@contextmanager
def services() -> Iterator[LocalServices]:
    """A private PostgreSQL that syncs every commit and a private Redis, as they come."""
    with local_services(None, fsync=True) as running:
        yield running


async def new_database(services: LocalServices) -> str:
    """The address of a new, empty one: no measurement meets the rows of another one."""
    name = f"bench_{next(_names)}"
    connection = await asyncpg.connect(services.database_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return urlsplit(services.database_url)._replace(path=f"/{name}").geturl()


async def migrated_database(services: LocalServices) -> str:
    """The same with our tables."""
    url = await new_database(services)
    storage = PostgresStorage(url, settings=StorageSettings())
    await storage.open()
    await storage.close()
    return url


@dataclass
class Stack:
    """What the processes of one measurement have in common."""

    database_url: str
    redis_url: str
    name: str = field(default_factory=lambda: f"bench-{next(_names)}")
    settings: dict[str, str] = field(default_factory=dict)

    def _env(self, **settings: str) -> dict[str, str]:
        return {
            "STORAGE_TYPE": "postgres",
            "DATABASE_URL": self.database_url,
            "QUEUE_TYPE": "arq",
            "REDIS_URL": self.redis_url,
            "QUEUE_NAME": self.name,
            "LOG__FORMAT": "json",
            **self.settings,
            **settings,
        }

    @contextmanager
    def front_door(self, agent: str = "echo", **settings: str) -> Iterator[tuple[Process, str]]:
        """And its address."""
        with started(
            [PERDURE, "serve", str(AGENTS / f"{agent}.py")], settings=self._env(PORT="0", **settings)
        ) as process:
            yield process, json.loads(process.until_said('"serving"'))["url"]

    @contextmanager
    def worker(self, agent: str = "echo", *, command: str = "perdure", **settings: str) -> Iterator[Process]:
        """`perdure worker`, or stock arq (`command="arq"`)."""
        path = str(AGENTS / f"{agent}.py")
        line = [PERDURE, "worker", path] if command == "perdure" else [ARQ, "worker.settings.WorkerSettings"]
        with started(line, settings=self._env(AGENT=path, **settings)) as process:
            process.until_said('"worker.started"')
            yield process

    async def until(self, state: str, number: int) -> None:
        """Wait until so many tasks are at this state (a look every 20 ms, by the index)."""
        connection = await asyncpg.connect(self.database_url)
        try:
            while await connection.fetchval(_COUNT, state) < number:
                await asyncio.sleep(0.02)
        finally:
            await connection.close()

    @asynccontextmanager
    async def inside(self) -> AsyncIterator[Inside]:
        """Its storage and queue, opened by the benchmark itself."""
        storage = PostgresStorage(self.database_url, settings=StorageSettings())
        queue = ArqQueue(self.redis_url, self.name)
        await storage.open()
        await queue.open()
        try:
            yield Inside(storage, queue)
        finally:
            await queue.close()
            await storage.close()


@asynccontextmanager
async def stack(services: LocalServices, **settings: str) -> AsyncIterator[Stack]:
    """Over a new database. The processes migrate it."""
    yield Stack(await new_database(services), services.redis_url, settings=dict(settings))


@dataclass
class Inside:
    """For backlogs that must be there before a worker is."""

    storage: PostgresStorage
    queue: ArqQueue

    async def submit(self, text: str, *, ring: bool = True) -> UUID:
        """A task, as the front door submits it."""
        task_id = new_task_id()
        message = Message(parts=(TextPart(text),), role=Role.USER)
        await self.storage.submit_task(
            NewTask(task_id=task_id, owner=ANONYMOUS, context_id=str(task_id), message=message)
        )
        if ring:
            await self.ring(task_id)
        return task_id

    async def ring(self, *tasks: UUID) -> None:
        """For tasks that are new."""
        await self.queue.ring([Ring(task_id, 1) for task_id in tasks])
