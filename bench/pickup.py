"""How long a ring takes to reach a handler, while the worker is idle and while it has many turns in flight; what idling costs."""

from __future__ import annotations

import asyncio
import time

from perdure.local import LocalServices
from perdure.tasks import ANONYMOUS, TaskState
from perdure.watch import Watch

from .ours import Inside, Stack, stack
from .processes import Process

IDLE_SECONDS = 10.0
WARM_UP = 20
"""Turns that are not measured: Postgres plans a statement anew for the first five times that a connection sends it."""


async def picked_up(
    services: LocalServices, *, in_flight: int = 0, times: int = 200, command: str = "perdure"
) -> list[float]:
    """Milliseconds from before the ring, with the row stored, until the handler runs; one task at a time."""
    async with stack(services, WORKER__SLOTS=str(in_flight + 50)) as made:
        with made.worker(command=command):
            async with made.inside() as inside:
                await _fill(made, inside, in_flight)
                async with Watch(inside.storage, inside.queue, refresh=5).running() as watch:
                    for _ in range(WARM_UP):
                        await _once(inside, watch)
                    return [await _once(inside, watch) for _ in range(times)]


async def _fill(made: Stack, inside: Inside, turns: int) -> None:
    await asyncio.gather(*(inside.submit("sleep 3600") for _ in range(turns)))
    await made.until("working", turns)


async def _once(inside: Inside, watch: Watch) -> float:
    task_id = await inside.submit("now", ring=False)
    with watch.waiter(task_id) as waiter:
        begin = time.monotonic_ns()
        await inside.ring(task_id)
        while True:
            task = await inside.storage.load_task(ANONYMOUS, task_id)
            if task.state is TaskState.COMPLETED:
                return (int(task.artifacts[0].text) - begin) / 1e6
            await waiter.beyond(task.last_seq)


async def idle_cpu(services: LocalServices, *, in_flight: int = 0, command: str = "perdure") -> float:
    """Per cent of a core that a worker takes with so many turns that wait, and nothing else to do."""
    async with stack(services, WORKER__SLOTS=str(in_flight + 50)) as made:
        with made.worker(command=command) as worker:
            async with made.inside() as inside:
                await _fill(made, inside, in_flight)
            await asyncio.sleep(2)
            return await _share(worker)


async def _share(worker: Process) -> float:
    before, begin = worker.cpu_seconds(), time.monotonic()
    await asyncio.sleep(IDLE_SECONDS)
    return 100 * (worker.cpu_seconds() - before) / (time.monotonic() - begin)
