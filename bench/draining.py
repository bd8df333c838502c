"""What waits: a backlog that one worker drains, two workers beside one, a thousand turns that wait at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from contextlib import ExitStack
from uuid import UUID

from perdure.local import LocalServices

from .ours import Inside, stack

_UNASKED = {"WORKER__SWEEP_INTERVAL": "600"}
"""Nobody begins before the bell rings: a worker that is up first would have drained the backlog before the second one is."""


async def drain(
    services: LocalServices, tasks: int, *, workers: int = 1, text: str = "hello", **settings: str
) -> float:
    """Tasks a second: from the rings for all of them, when the workers are up, until all are completed. Both of a task's writes
    count."""
    options = {"WORKER__SLOTS": "100", **_UNASKED, **settings}
    async with stack(services, **options) as made, made.inside() as inside:
        waiting = await _backlog(inside, tasks, text)
        with ExitStack() as running:
            for _ in range(workers):
                running.enter_context(made.worker())
            begin = time.monotonic()
            await inside.ring(*waiting)
            await made.until("completed", tasks)
            return tasks / (time.monotonic() - begin)


async def waiting_memory(services: LocalServices, turns: int) -> float:
    """MB that a worker takes with so many turns that sleep, over what it takes idle."""
    async with stack(services, WORKER__SLOTS=str(turns)) as made:
        with made.worker() as worker:
            await asyncio.sleep(2)
            idle = worker.memory()
            async with made.inside() as inside:
                await inside.ring(*await _backlog(inside, turns, "sleep 3600"))
            await made.until("working", turns)
            await asyncio.sleep(1)
            return worker.memory() - idle


async def _backlog(inside: Inside, tasks: int, text: str) -> Sequence[UUID]:
    """Stored, and not rung for."""
    waiting: list[UUID] = []
    for start in range(0, tasks, 500):
        some = [inside.submit(text, ring=False) for _ in range(min(500, tasks - start))]
        waiting += await asyncio.gather(*some)
    return waiting
