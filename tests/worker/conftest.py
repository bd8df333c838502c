"""A worker over the in-memory storage, and a storage that can be told to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from perdure.agent import Agent
from perdure.ids import new_task_id
from perdure.queue.inline import InlineQueue
from perdure.settings import Settings
from perdure.storage import Keeper, NewTask, Storage
from perdure.storage.memory import MemoryStorage
from perdure.tasks import ANONYMOUS, Event, Message, Role, Task, TaskState, TextPart
from perdure.watch import Watch
from worker.lease import Reins
from worker.turn import run_turn
from worker.worker import Worker

SETTINGS = Settings.model_validate(
    {"turns": {"chunk_interval": 0}, "worker": {"slots": 4, "sweep_interval": 3600, "beat_interval": 3600}}
)


class Shop:
    """A worker without loops: turns run when the test says so."""

    def __init__(self, storage: Storage, keeper: Keeper, watch: Watch, queue: InlineQueue) -> None:
        self.storage, self.keeper, self.watch, self.queue = storage, keeper, watch, queue
        self.settings = SETTINGS
        self.rings = 0
        queue.attach(self._rung)

    def _rung(self) -> None:
        self.rings += 1

    def worker(
        self, handler: Callable[..., Any], *, storage: Storage | None = None, settings: Settings | None = None
    ) -> Worker:
        """A worker that runs this handler."""
        return Worker(
            worker_id="w1",
            agent=Agent.of({"name": "test"}, handler),
            storage=storage or self.storage,
            queue=self.queue,
            watch=self.watch,
            keeper=self.keeper,
            settings=settings or self.settings,
        )

    async def submit(self, text: str = "hello", *, context: str = "") -> UUID:
        """A new task."""
        task_id = new_task_id()
        message = Message(parts=(TextPart(text),), role=Role.USER)
        await self.storage.submit_task(
            NewTask(task_id=task_id, owner=ANONYMOUS, context_id=context or str(task_id), message=message)
        )
        return task_id

    async def run(self, handler: Callable[..., Any], task_id: UUID | None = None) -> Task:
        """Submit a task unless one is given, run one turn, and load the task."""
        task_id = task_id or await self.submit()
        assert await run_turn(self.worker(handler), Reins())
        return await self.load(task_id)

    async def load(self, task_id: UUID) -> Task:
        return await self.storage.load_task(ANONYMOUS, task_id)

    async def events(self, task_id: UUID) -> list[Event]:
        return list(await self.storage.events_since(ANONYMOUS, task_id, 0))

    async def reaches(self, task_id: UUID, *states: TaskState) -> Task:
        """Wait until the task stands at one of these states."""
        with self.watch.waiter(task_id) as waiter:
            task = await self.load(task_id)
            while task.state not in states:
                await waiter.beyond(task.last_seq)
                task = await self.load(task_id)
            return task


@asynccontextmanager
async def opened_shop() -> AsyncIterator[Shop]:
    storage, queue = MemoryStorage(), InlineQueue()
    await storage.open()
    keeper = storage.keeper(lease=SETTINGS.worker.lease)
    async with Watch(storage, queue, refresh=60).running() as watch:
        yield Shop(storage, keeper, watch, queue)
    await asyncio.to_thread(keeper.close)
    await storage.close()


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    async with opened_shop() as shop:
        yield shop


class Meddled:
    """A storage whose named methods go through a function of the test: `meddled(storage, update_task=...)`."""

    def __init__(self, storage: Storage, changes: dict[str, Callable[..., Awaitable[Any]]]) -> None:
        self._storage = storage
        self._changes = changes

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._storage, name)
        change = self._changes.get(name)
        if change is None:
            return method

        async def meddled(*args: Any, **kwargs: Any) -> Any:
            return await change(method, *args, **kwargs)

        return meddled


def meddled(storage: Storage, **changes: Callable[..., Awaitable[Any]]) -> Any:
    """Each change is called with the real method and its arguments."""
    return Meddled(storage, changes)
