"""Who is told to end while he asks Redis ends, at whatever moment: a loop that missed it would go on for ever."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from perdure.ids import new_task_id
from perdure.queue import Queue
from perdure.queue.arq import ArqQueue
from perdure.storage.memory import MemoryStorage
from perdure.tasks import Ring
from perdure.watch import Watch

MOMENTS = range(50)
"""So many turns of the event loop a connection and a command take, and more."""


async def pass_by(moments: int) -> None:
    for _ in range(moments):
        await asyncio.sleep(0)


async def listen(queue: Queue) -> None:
    async with queue.listen():
        pass


CALLS: dict[str, Callable[[Queue], Awaitable[object]]] = {
    "missing": lambda queue: queue.missing([Ring(new_task_id(), 1)]),
    "check": lambda queue: queue.check(),
    "ring": lambda queue: queue.ring([Ring(new_task_id(), 1)]),
    "ring deliveries": lambda queue: queue.ring_deliveries(),
    "listen": listen,
    "eviction": lambda queue: queue.eviction_policy(),
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_ends_as_cancelled(redis_url: str, name: str) -> None:
    for moments in MOMENTS:
        queue = ArqQueue(redis_url, "test")  # a new one connects
        calling = asyncio.ensure_future(CALLS[name](queue))
        await pass_by(moments)
        late = not calling.cancel()
        await asyncio.wait([calling])
        assert late or calling.cancelled(), f"after {moments} moments it gave {calling}"
        await queue.close()


async def test_a_watch_stops(redis_url: str) -> None:
    for moments in MOMENTS:
        queue = ArqQueue(redis_url, "test")
        async with Watch(MemoryStorage(), queue, refresh=3600).running():
            await pass_by(moments)
        await queue.close()
