"""What waits: a backlog that one worker drains, two workers beside one, a thousand turns that wait at once."""

from __future__ import annotations

import asyncio
import time
from contextlib import ExitStack

from perdure.local import LocalServices

from .ours import Stack, stack


async def drain(
    services: LocalServices, tasks: int, *, workers: int = 1, text: str = "hello", **settings: str
) -> float:
    """Tasks a second: from the moment in which the workers are up until all are completed. Both of a task's writes count."""
    async with stack(services, **{"WORKER__SLOTS": "100", **settings}) as made:
        await _backlog(made, tasks, text)
        with ExitStack() as running:
            begin = time.monotonic()
            for _ in range(workers):
                running.enter_context(made.worker())
            if workers == 1:
                begin = time.monotonic()
            await made.until("completed", tasks)
            return tasks / (time.monotonic() - begin)


async def waiting_memory(services: LocalServices, turns: int) -> float:
    """MB that a worker takes with so many turns that sleep, over what it takes idle."""
    async with stack(services, WORKER__SLOTS=str(turns)) as made:
        with made.worker() as worker:
            await asyncio.sleep(2)
            idle = worker.memory()
            await _backlog(made, turns, "sleep 3600")
            await made.until("working", turns)
            await asyncio.sleep(1)
            return worker.memory() - idle


async def _backlog(made: Stack, tasks: int, text: str) -> None:
    async with made.inside() as inside:
        for start in range(0, tasks, 500):
            some = [inside.submit(text, ring=False) for _ in range(min(500, tasks - start))]
            await inside.ring(*await asyncio.gather(*some))
