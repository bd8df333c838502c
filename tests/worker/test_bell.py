"""The bell of our own worker: what it takes from Redis, what it leaves, what it wakes by."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from redis.asyncio import Redis

from perdure.local import LocalServices
from perdure.queue.arq import ArqQueue, job_id, ring_of
from perdure.settings import Settings
from perdure.tasks import Ring, TaskState
from perdure.watch import Watch
from tests.support.proxy import proxied
from worker import bell
from worker.bell import Bell, hear
from worker.slots import Slots

from .conftest import SETTINGS, Shop
from .test_slots import Waiting

NAME = "bell-test"
QUEUE, BELL = f"{NAME}:queue", f"{NAME}:bell"


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


@pytest.fixture
async def queue(redis_url: str) -> AsyncIterator[ArqQueue]:
    made = ArqQueue(redis_url, NAME)
    yield made
    await made.close()


@pytest.fixture
def only_by_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks into the set unasked."""
    monkeypatch.setattr(bell, "_UNASKED_SECONDS", 3600)


class Ears:
    """Workers that hear the bell over one storage, without a sweep."""

    def __init__(self, shop: Shop, queue: ArqQueue, redis: Any, redis_url: str) -> None:
        self.shop, self.queue, self.redis, self.url = shop, queue, redis, redis_url

    def slots(self, handler: Callable[..., Any], slots: int) -> tuple[Slots, Settings]:
        """Those of a new worker, and its settings."""
        worker = SETTINGS.worker.model_copy(update={"slots": slots})
        update = {"queue_name": NAME, "redis_url": SecretStr(self.url), "worker": worker}
        settings = SETTINGS.model_copy(update=update)
        return Slots(replace(self.shop.worker(handler, settings=settings), queue=self.queue)), settings

    @asynccontextmanager
    async def worker(self, handler: Callable[..., Any], slots: int = 4) -> AsyncIterator[Slots]:
        made, settings = self.slots(handler, slots)
        hearing = asyncio.create_task(hear(made, settings))
        try:
            yield made
        finally:
            await made.drain(0)
            hearing.cancel()
            await asyncio.gather(hearing, return_exceptions=True)

    async def rung(self, number: int = 1) -> list[UUID]:
        """Tasks that were stored and rung for."""
        tasks = [await self.shop.submit() for _ in range(number)]
        await self.queue.ring([Ring(task_id, 1) for task_id in tasks])
        return tasks

    async def blocked(self, number: int = 1) -> None:
        """Wait until so many workers wait for a token."""
        while (await self.redis.info("clients"))["blocked_clients"] != number:
            await self.redis.blpop([f"{NAME}:nothing"], 0.01)

    async def left(self) -> tuple[int, int]:
        """Ids in the set, tokens in the list."""
        return await self.redis.zcard(QUEUE), await self.redis.llen(BELL)

    async def all_done(self, tasks: list[UUID]) -> None:
        for task_id in tasks:
            await self.shop.reaches(task_id, TaskState.COMPLETED)


@pytest.fixture
async def ears(shop: Shop, queue: ArqQueue, redis: Any, redis_url: str) -> AsyncIterator[Ears]:
    async with Watch(shop.storage, queue, refresh=60).running() as shop.watch:
        yield Ears(shop, queue, redis, redis_url)


def done(messages: Any) -> str:
    return "done"


@pytest.mark.usefixtures("only_by_token")
async def test_a_ring_wakes_an_idle_worker_and_leaves_nothing_in_redis(ears: Ears) -> None:
    async with ears.worker(done):
        for _ in range(3):
            await ears.blocked()
            await ears.all_done(await ears.rung())
            assert await ears.left() == (0, 0)
        await ears.all_done(await ears.rung(50))
        assert await ears.left() == (0, 0)
        assert await ears.redis.keys("arq:*") == []


async def test_a_ring_whose_token_was_lost_is_found(ears: Ears) -> None:
    async with ears.worker(done):
        await ears.blocked()
        task_id = await ears.shop.submit()
        await ears.redis.zadd(QUEUE, {job_id(Ring(task_id, 1)): 1})
        await ears.all_done([task_id])


@pytest.mark.usefixtures("only_by_token")
async def test_a_worker_takes_no_more_than_its_free_slots_and_an_idle_one_gets_the_rest(ears: Ears) -> None:
    busy, idle = Waiting(), Waiting()
    async with ears.worker(busy, slots=3):
        tasks = await ears.rung(10)
        await busy.reach(3)
        left, tokens = await ears.left()
        assert (left, tokens > 0) == (7, True)
        await ears.redis.delete(BELL)  # as when it has expired: the next one that takes leaves a token
        async with ears.worker(idle, slots=2), ears.worker(done):
            await idle.reach(2)
            await ears.blocked()
            assert await ears.left() == (0, 0)
            idle.leave.set()
            busy.leave.set()
            await ears.all_done(tasks)


@pytest.mark.usefixtures("only_by_token")
async def test_who_takes_its_fill_wakes_the_next(ears: Ears) -> None:
    """Also where the list was cut: one token for ten rings."""
    handlers = [Waiting() for _ in range(3)]
    async with (
        ears.worker(handlers[0], slots=1),
        ears.worker(handlers[1], slots=1),
        ears.worker(handlers[2], slots=1),
    ):
        await ears.blocked(3)
        tasks = [await ears.shop.submit() for _ in range(10)]
        await ears.redis.zadd(QUEUE, {job_id(Ring(task_id, 1)): 1 for task_id in tasks})
        await ears.redis.rpush(BELL, "")
        for handler in handlers:
            await handler.reach(1)
            handler.leave.set()
        await ears.all_done(tasks)


async def test_what_a_stock_worker_has_begun_with_is_left_to_it(ears: Ears) -> None:
    handler = Waiting()
    begun, other = await ears.shop.submit(), await ears.shop.submit()
    rings = [Ring(begun, 1), Ring(other, 1)]
    await ears.redis.set(f"arq:in-progress:{job_id(rings[0])}", b"1")
    await ears.queue.ring(rings)
    async with ears.worker(handler):
        await handler.reach(1)
        await ears.blocked()
        assert await ears.redis.zrange(QUEUE, 0, -1) == [job_id(rings[0]).encode()]
        assert await ears.redis.exists(f"arq:job:{job_id(rings[0])}")
        assert list(await ears.queue.missing(rings)) == rings[1:]
        handler.leave.set()


class StoppedMeanwhile(Bell):
    """The process is asked to stop while the answer of Redis is on its way."""

    async def _take(self, wanted: int) -> list[bytes]:
        taken = await super()._take(wanted)
        self._slots.stop()
        return taken


async def test_rings_that_were_taken_while_the_process_stopped_are_given_back(ears: Ears) -> None:
    tasks = await ears.rung(3)
    slots, settings = ears.slots(done, 4)
    late = StoppedMeanwhile(slots, settings)
    await late.start_turns()
    await late.leave()
    assert await ears.left() == (3, 3)
    assert not await ears.queue.missing([Ring(task_id, 1) for task_id in tasks])
    async with ears.worker(done):
        await ears.all_done(tasks)


STRANGE: list[bytes | str] = [b"\xff\xfe", "", "x", "x:1", f"{UUID(int=7)}", f"{UUID(int=7)}:one"]


async def test_jobs_that_are_none_of_ours_are_dropped_and_logged_once(
    ears: Ears, capsys: pytest.CaptureFixture[str]
) -> None:
    """More of them than it has slots; what is rung for together with them is heard."""
    for name in STRANGE:
        await ears.redis.zadd(QUEUE, {name: 1})
    tasks = await ears.rung(2)
    async with ears.worker(done, slots=3):
        await ears.all_done(tasks)
        await ears.blocked()
        assert await ears.left() == (0, 0)
    said = capsys.readouterr().out
    assert (said.count("bell.strange_jobs"), said.count("bell.failed")) == (1, 0)


async def test_those_that_were_taken_while_the_process_stopped_are_not_given_back(ears: Ears) -> None:
    await ears.redis.zadd(QUEUE, dict.fromkeys(STRANGE, 1))
    tasks = await ears.rung(2)
    slots, settings = ears.slots(done, 20)
    late = StoppedMeanwhile(slots, settings)
    await late.start_turns()
    await late.leave()
    rings = [Ring(task_id, 1) for task_id in tasks]
    assert set(await ears.redis.zrange(QUEUE, 0, -1)) == {job_id(ring).encode() for ring in rings}


@pytest.mark.usefixtures("only_by_token")
async def test_a_worker_that_stops_wakes_another_one(ears: Ears) -> None:
    """A token may have been on its way to it: whoever is left gets one, where there is something to take."""
    handler = Waiting()
    async with ears.worker(handler, slots=1) as slots:
        await ears.rung(2)
        await handler.reach(1)
        await ears.redis.delete(BELL)
        slots.stop()
        assert await ears.redis.blpop([BELL], 30)
        handler.leave.set()


async def test_a_redis_that_is_full_gives_what_it_has(ears: Ears, private_services: LocalServices) -> None:
    queue = ArqQueue(private_services.redis_url, NAME)
    async with Redis.from_url(private_services.redis_url) as full:
        tasks = [await ears.shop.submit() for _ in range(20)]
        await queue.ring([Ring(task_id, 1) for task_id in tasks])
        await full.config_set("maxmemory", 1)
        ears.url = private_services.redis_url
        async with ears.worker(done, slots=3):
            await ears.all_done(tasks)
        await full.config_set("maxmemory", 0)
        assert await full.keys("*") == []
    await queue.close()


MOMENTS = range(40)
"""Turns of the event loop after which a worker is told to end."""


async def ends(hearing: asyncio.Task[None], moments: int) -> None:
    """Told once, so many moments from now."""
    for _ in range(moments):
        await asyncio.sleep(0)
    hearing.cancel()
    await asyncio.wait([hearing])
    assert hearing.cancelled()


async def test_a_worker_that_is_told_to_end_while_it_connects_ends(ears: Ears) -> None:
    for moments in MOMENTS:
        hearing = asyncio.create_task(hear(*ears.slots(done, 1)))
        await ends(hearing, moments)


class Breaking(Bell):
    """It says when its connection breaks."""

    broken: asyncio.Event

    async def start_turns(self) -> None:
        try:
            await super().start_turns()
        finally:
            self.broken.set()


# It may be told so while it closes its connection.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_worker_that_is_told_to_end_while_redis_goes_away_ends(
    ears: Ears, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bell, "Bell", Breaking)
    for moments in MOMENTS:
        with proxied(redis_url) as network:
            ears.url, Breaking.broken = network.url(redis_url), asyncio.Event()
            hearing = asyncio.create_task(hear(*ears.slots(done, 1)))
            await ears.blocked()
            network.close()
            await Breaking.broken.wait()
            await ends(hearing, moments)


async def test_the_names_of_jobs_can_be_read() -> None:
    ring = Ring(UUID(int=7), 12)
    assert ring_of(job_id(ring)) == ring
