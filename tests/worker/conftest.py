"""A worker over a real storage, and a storage that can be told to misbehave."""

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
from perdure.storage import Claim, Held, Keeper, NewTask, Storage
from perdure.tasks import ANONYMOUS, Event, Message, Role, Task, TaskState, TextPart
from perdure.watch import Watch
from tests.support.storages import Opened, opened_memory, opened_postgres
from worker.lease import Reins
from worker.turn import run_turn
from worker.worker import Worker

SETTINGS = Settings.model_validate(
    {"turns": {"chunk_interval": 0}, "worker": {"slots": 4, "sweep_interval": 3600, "beat_interval": 3600}}
)


class Shop:
    """A worker without loops: turns run when the test says so."""

    def __init__(self, opened: Opened, keeper: Keeper, watch: Watch, queue: InlineQueue) -> None:
        self.storage, self.clock = opened.storage, opened.clock
        self.keeper, self.watch, self.queue = keeper, watch, queue
        self.settings = SETTINGS
        self.rings = 0
        queue.attach(self._rung)

    def _rung(self) -> None:
        self.rings += 1

    def worker(
        self,
        handler: Callable[..., Any],
        *,
        storage: Storage | None = None,
        settings: Settings | None = None,
        **config: Any,
    ) -> Worker:
        """A worker that runs this handler; `config` is the agent's."""
        return Worker(
            worker_id="w1",
            agent=Agent.of({"name": "test", **config}, handler),
            storage=storage or self.storage,
            queue=self.queue,
            watch=self.watch,
            keeper=self.keeper,
            settings=settings or self.settings,
        )

    async def submit(
        self, text: str = "hello", *, context: str = "", asks: dict[str, Any] | None = None, **members: Any
    ) -> UUID:
        """A new task; `asks` is what its message asks of the scheduler."""
        task_id = new_task_id()
        metadata = {"perdure": asks} if asks else {}
        message = Message(parts=(TextPart(text),), role=Role.USER, metadata=metadata)
        new = {"context_id": context or str(task_id), "message": message, **members}
        await self.storage.submit_task(NewTask(task_id=task_id, owner=ANONYMOUS, **new))
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
async def shop_over(opened: Opened) -> AsyncIterator[Shop]:
    storage, queue = opened.storage, InlineQueue()
    keeper = storage.keeper(lease=SETTINGS.worker.lease)
    async with Watch(storage, queue, refresh=60).running() as watch:
        yield Shop(opened, keeper, watch, queue)
    await asyncio.to_thread(keeper.close)


@pytest.fixture
async def shop() -> AsyncIterator[Shop]:
    """Over the in-memory storage."""
    async with opened_memory() as opened, shop_over(opened) as shop:
        yield shop


@pytest.fixture(params=["memory", "postgres"])
def any_database(request: pytest.FixtureRequest) -> str | None:
    url: str | None = request.getfixturevalue("module_database_url") if request.param == "postgres" else None
    return url


@pytest.fixture
async def any_shop(any_database: str | None) -> AsyncIterator[Shop]:
    """Over either storage."""
    async with (
        opened_postgres(any_database) if any_database else opened_memory() as opened,
        shop_over(opened) as shop,
    ):
        yield shop


class DeafKeeper:
    """Renews nothing and tells nobody; remembers what it was told."""

    def __init__(self) -> None:
        self.limits: dict[Claim, float | None] = {}
        self.settled: list[Claim] = []
        self.dropped: list[Claim] = []

    def keep(self, claim: Claim, lost: Callable[[Held], None], *, limit: float | None = None) -> None:
        self.limits[claim] = limit

    def settling(self, claim: Claim) -> None:
        self.settled.append(claim)

    def drop(self, claim: Claim) -> None:
        self.dropped.append(claim)

    def close(self) -> None: ...


def turns(**changes: Any) -> Settings:
    """Settings whose TURNS__ are changed."""
    return SETTINGS.model_copy(update={"turns": SETTINGS.turns.model_copy(update=changes)})


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
