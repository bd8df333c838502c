"""The turns of a process: how many, woken by what, ended how."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from perdure.agent import Agent
from perdure.errors import StorageUnavailable
from perdure.tasks import Ring, TaskState
from worker.embedded import embedded
from worker.slots import Slots

from .conftest import SETTINGS, Shop, meddled


@asynccontextmanager
async def at(shop: Shop, handler: Callable[..., Any], **changes: Any) -> AsyncIterator[Slots]:
    """A front door's worker; `changes` to the settings of workers."""
    settings = SETTINGS.model_copy(update={"worker": SETTINGS.worker.model_copy(update=changes)})
    agent = Agent.of({"name": "test"}, handler)
    async with embedded(agent, shop.storage, shop.queue, shop.watch, settings) as slots:
        (own,) = slots.each
        yield own


class Waiting:
    """A handler that counts how many of it run."""

    def __init__(self) -> None:
        self.running = self.most = self.entered = 0
        self.changed = asyncio.Condition()
        self.leave = asyncio.Event()

    async def __call__(self, messages: Any) -> str:
        async with self.changed:
            self.running += 1
            self.entered += 1
            self.most = max(self.most, self.running)
            self.changed.notify_all()
        await self.leave.wait()
        self.running -= 1
        return "done"

    async def reach(self, running: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: self.running >= running)


def test_an_agent_has_as_many_as_it_says_but_no_more_than_the_worker_gives(shop: Shop) -> None:
    workers = [shop.worker(lambda messages: None, slots=asked) for asked in (None, 2, 9)]
    assert [Slots(worker).capacity for worker in workers] == [4, 2, 4]


async def test_a_ring_starts_turns_until_the_slots_are_full_and_then_goes_on(shop: Shop) -> None:
    handler = Waiting()
    async with at(shop, handler) as slots:
        tasks = [await shop.submit() for _ in range(10)]
        await shop.queue.ring([Ring(tasks[0], 1)])
        await handler.reach(4)
        assert (slots.running, slots.free) == (4, 0)
        handler.leave.set()
        for task_id in tasks:
            await shop.reaches(task_id, TaskState.COMPLETED)
        assert handler.most == 4


async def test_what_waited_before_the_start_is_found(shop: Shop) -> None:
    task_id = await shop.submit()
    async with at(shop, lambda messages: "done"):
        await shop.reaches(task_id, TaskState.COMPLETED)


async def test_a_backlog_is_claimed_by_several_at_once_and_never_more_than_there_are_slots(
    shop: Shop,
) -> None:
    claiming = most = 0
    two = asyncio.Barrier(2)

    async def together(real: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal claiming, most
        claiming += 1
        most = max(most, claiming + handler.running)
        if claiming + handler.running > 1:
            await two.wait()
        claimed = await real(*args, **kwargs)
        claiming -= 1
        return claimed

    handler = Waiting()
    tasks = [await shop.submit() for _ in range(20)]
    shop.storage, storage = meddled(shop.storage, claim_task=together), shop.storage
    async with at(shop, handler, slots=3):
        await handler.reach(3)
        shop.storage = storage
        for task_id in tasks[:3]:
            assert (await shop.load(task_id)).state is TaskState.WORKING
    assert most == 3


async def test_rings_and_jobs_share_the_slots(shop: Shop) -> None:
    handler = Waiting()
    async with at(shop, handler) as slots:
        tasks = [await shop.submit() for _ in range(8)]
        jobs = [asyncio.create_task(slots.run_one()) for _ in range(3)]
        slots.rung()
        await handler.reach(4)
        handler.leave.set()
        for task_id in tasks:
            await shop.reaches(task_id, TaskState.COMPLETED)
        await asyncio.gather(*jobs)
        assert handler.most == 4


async def test_stopping_lets_turns_finish(shop: Shop) -> None:
    handler = Waiting()
    async with at(shop, handler) as slots:
        task_id = await shop.submit()
        slots.rung()
        await handler.reach(1)
        slots.stop()
        late = await shop.submit()
        slots.rung()
        await slots.run_one()
        handler.leave.set()
    assert (await shop.load(task_id)).state is TaskState.COMPLETED
    assert (await shop.load(late)).state is TaskState.SUBMITTED
    assert await shop.storage.workers_alive(3600) == 0


async def test_after_the_grace_turns_are_given_back(shop: Shop) -> None:
    handler = Waiting()
    tasks = [await shop.submit() for _ in range(3)]
    async with at(shop, handler, grace=0):
        await handler.reach(3)
    for task_id in tasks:
        task = await shop.load(task_id)
        assert (task.state, task.failures, task.crashes) == (TaskState.SUBMITTED, 0, 0)


async def test_a_turn_that_is_being_claimed_when_the_process_stops_is_given_back(shop: Shop) -> None:
    claiming, go_on = asyncio.Event(), asyncio.Event()

    async def slow(real: Any, *args: Any, **kwargs: Any) -> Any:
        claimed = await real(*args, **kwargs)
        claiming.set()
        await go_on.wait()
        return claimed

    task_id = await shop.submit()
    storage, shop.storage = shop.storage, meddled(shop.storage, claim_task=slow)
    async with at(shop, Waiting()) as slots:
        await claiming.wait()
        slots.stop()
        go_on.set()
    assert (await storage.load_task("anonymous", task_id)).state is TaskState.SUBMITTED


async def test_a_cancelled_job_leaves_its_turn_running(shop: Shop) -> None:
    handler = Waiting()
    async with at(shop, handler) as slots:
        await asyncio.sleep(0)
        task_id = await shop.submit()
        job = asyncio.create_task(slots.run_one())
        await handler.reach(1)
        job.cancel()
        await asyncio.gather(job, return_exceptions=True)
        handler.leave.set()
        await shop.reaches(task_id, TaskState.COMPLETED)


async def test_a_second_request_to_stop_ends_the_grace(shop: Shop) -> None:
    handler = Waiting()
    task_id = await shop.submit()
    inside = asyncio.Event()

    async def serve() -> None:
        async with at(shop, handler, grace=3600):
            await handler.reach(1)
            inside.set()

    serving = asyncio.create_task(serve())
    await inside.wait()
    serving.cancel()
    await asyncio.gather(serving, return_exceptions=True)
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED


async def test_a_storage_that_is_away_stops_no_loop(shop: Shop) -> None:
    failed = asyncio.Event()

    async def once(real: Any, *args: Any, **kwargs: Any) -> Any:
        if not failed.is_set():
            failed.set()
            raise StorageUnavailable("gone")
        return await real(*args, **kwargs)

    shop.storage = meddled(shop.storage, claim_task=once)
    task_id = await shop.submit()
    async with at(shop, lambda messages: "done") as slots:
        await failed.wait()
        slots.rung()
        await shop.reaches(task_id, TaskState.COMPLETED)
