"""Sweeps never multiply: with ten thousand tasks waiting and every slot busy, whatever becomes of their rings."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, closing
from typing import Any

import asyncpg
import pytest
import redis as redis_library

from perdure.agent import Agent
from perdure.queue import Queue
from perdure.queue.arq import ArqQueue
from perdure.settings import Settings, StorageSettings
from perdure.storage.postgres import PostgresStorage
from perdure.tasks import Ring
from perdure.watch import Watch
from worker.slots import Slots
from worker.sweep import rung_again
from worker.worker import Worker

from .conftest import Stack, until

BACKLOG = 10_000
PER_TICK = 100

_CONTEXTS = """
INSERT INTO contexts (owner, context_id, last_position, waiting) SELECT 'me', 'c' || n, 1, 1 FROM generate_series(1, $1) n
"""
_TASKS = """
INSERT INTO tasks (task_id, owner, context_id, position, dispatch, due_at, dispatched_at, last_seq, message_seq)
SELECT gen_random_uuid(), 'me', 'c' || n, 1, 1, clock_timestamp() - interval '1 hour' + n * interval '1 ms',
       clock_timestamp() - interval '1 hour', 1, 1 FROM generate_series(1, $1) n
"""


async def backlog(database_url: str, queue: Queue | None = None) -> None:
    """Ten thousand tasks that are due since an hour; `queue` is told of them before anybody can see them."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction():
            for statement in (_CONTEXTS, _TASKS):
                await connection.execute(statement, BACKLOG)
            rows = await connection.fetch("SELECT task_id, dispatch FROM tasks WHERE owner = 'me'")
            if queue is not None:
                await ring_all(queue, [Ring(row["task_id"], row["dispatch"]) for row in rows])
        await connection.execute("ANALYZE tasks; ANALYZE contexts")
    finally:
        await connection.close()


async def ring_all(queue: Queue, rings: Sequence[Ring]) -> None:
    for start in range(0, len(rings), 1000):
        await queue.ring(rings[start : start + 1000])


class CountingQueue(ArqQueue):
    """The real one; counts what goes into it."""

    def __init__(self, url: str, counted: Counter[object]) -> None:
        super().__init__(url, "backlog")
        self.counted = counted

    async def ring(self, rings: Sequence[Ring]) -> None:
        await super().ring(rings)
        self.counted.update(ring.task_id for ring in rings)


IDLE = 0.2


class Sweepers:
    """Four workers' sweeps over one database and one Redis; nobody claims."""

    def __init__(self, workers: Sequence[Worker], counted: Counter[object]) -> None:
        self._workers, self.counted = workers, counted

    @property
    def queue(self) -> Queue:
        return self._workers[0].queue

    async def tick(self) -> int:
        """All of them at once; how many rings that made."""
        before = self.counted.total()
        await asyncio.gather(*(rung_again(worker, Slots(worker)) for worker in self._workers))
        return self.counted.total() - before


@pytest.fixture
async def sweepers(database_url: str, redis_url: str) -> AsyncIterator[Sweepers]:
    counted: Counter[object] = Counter()
    settings = Settings.model_validate({"worker": {"sweep_interval": IDLE}})
    async with AsyncExitStack() as stack:
        workers = []
        for number in range(4):
            storage = PostgresStorage(database_url, StorageSettings(pool_size=2))
            await storage.open()
            stack.push_async_callback(storage.close)
            queue = CountingQueue(redis_url, counted)
            stack.push_async_callback(queue.close)
            keeper = storage.keeper(lease=15)
            stack.push_async_callback(asyncio.to_thread, keeper.close)
            workers.append(
                Worker(
                    worker_id=str(number),
                    agent=Agent.of({"name": "busy"}, lambda messages: "done"),
                    storage=storage,
                    queue=queue,
                    watch=Watch(storage, queue, refresh=60),
                    keeper=keeper,
                    settings=settings,
                )
            )
        yield Sweepers(workers, counted)


@pytest.fixture
def bell(redis_url: str) -> Iterator[redis_library.Redis]:
    with closing(redis_library.Redis.from_url(redis_url)) as client:
        yield client


async def test_a_backlog_is_rung_for_once(
    sweepers: Sweepers, database_url: str, bell: redis_library.Redis
) -> None:
    """However often four sweeps look, as long as the bell remembers. Emptied, it is told again, a hundred a tick, and each task
    once more, not four times."""
    await backlog(database_url, sweepers.queue)
    for _ in range(50):
        assert await sweepers.tick() == 0
    assert (sweepers.counted.total(), bell.zcard("backlog:queue")) == (BACKLOG, BACKLOG)

    bell.flushdb()
    for _ in range(20):
        assert await sweepers.tick() <= PER_TICK * 4
    assert set(sweepers.counted.values()) == {1, 2}
    assert bell.zcard("backlog:queue") == sweepers.counted.total() - BACKLOG


async def test_a_bell_that_forgets_everything_is_told_ever_more_rarely(
    sweepers: Sweepers, database_url: str, bell: redis_library.Redis
) -> None:
    """Emptied before each tick: by and by every task is rung for, and none more often than the doubled pauses allow."""
    await backlog(database_url)
    begin = time.monotonic()
    ticks = 0
    while time.monotonic() - begin < 20 * IDLE:
        bell.flushdb()
        assert await sweepers.tick() <= PER_TICK * 4
        ticks += 1
    lasted = time.monotonic() - begin
    # The k-th ring comes 2 + 4 + ... + 2^(k-1) idle times after the first one at the earliest.
    allowed = max(rings for rings in range(1, 20) if IDLE * (2**rings - 2) <= lasted)
    assert max(sweepers.counted.values()) <= allowed
    assert ticks > 2 * allowed


def test_workers_whose_slots_are_busy_ring_for_nothing_that_was_rung_for(stack: Stack) -> None:
    """Three processes of both kinds that look forty times a second, over three hundred ticks; then Redis is emptied."""
    stack.settings |= {"WORKER__SLOTS": "1", "WORKER__SWEEP_INTERVAL": "0.05", "WORKER__LEASE": "15"}
    server, _ = stack.front_door()
    gate = stack.gate("gate")
    for start in (stack.worker, stack.worker, stack.arq_worker):
        start()
        server.send(str(gate.path), blocking=False)
    gate.begun(3)

    async def fill() -> None:
        queue = ArqQueue(stack.services.redis_url, "perdure")
        await backlog(stack.services.database_url, queue)
        await queue.close()

    asyncio.run(fill())

    def enqueued() -> tuple[int, int]:
        """All together, and for the task that was rung for most often."""
        [row] = stack.rows("SELECT sum(dispatch), max(dispatch) FROM tasks WHERE owner = 'me'")
        return int(row[0]), int(row[1])

    with closing(redis_library.Redis.from_url(stack.services.redis_url)) as bell:

        def ticks() -> int:
            stats: Any = bell.info("commandstats")
            return int(stats.get("cmdstat_zmscore", {}).get("calls", 0))

        begin = ticks()
        until(lambda: ticks() >= begin + 300)
        total, most = enqueued()
        assert total <= BACKLOG + 10  # arq may have taken a ring for a turn that found no place
        assert most <= 5

        bell.flushall()
        begin, (before, _) = ticks(), (total, most)
        until(lambda: enqueued()[0] > before + PER_TICK)
        total, most = enqueued()
        assert total - before <= PER_TICK * (ticks() - begin)
        assert most <= 6
    assert not any("Traceback" in line for process in stack.processes for line in process.log)
