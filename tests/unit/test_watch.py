"""Waiting for a task whose notices come at the wrong moment."""

from __future__ import annotations

import asyncio

from perdure.ids import new_task_id
from perdure.queue.inline import InlineQueue
from perdure.storage.memory import MemoryStorage
from perdure.tasks import Notice, TaskState
from perdure.watch import Watch
from tests.support.stories import ME, submit


async def test_a_task_that_a_refresh_looked_for_before_it_was_stored_is_not_gone() -> None:
    storage = MemoryStorage()
    watch, task_id = Watch(storage, InlineQueue(), refresh=60), new_task_id()
    with watch.waiter(task_id) as waiter:
        await watch.refresh()
        await submit(storage, task_id=task_id)
        waiting = asyncio.create_task(waiter.beyond(1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        await storage.cancel_task(ME, task_id)
        await watch.refresh()
        assert (await waiting).state is TaskState.CANCELED


async def test_one_that_is_gone_is_gone() -> None:
    storage = MemoryStorage()
    watch, task_id = Watch(storage, InlineQueue(), refresh=60), new_task_id()
    with watch.waiter(task_id) as waiter:
        await submit(storage, task_id=task_id)
        waiting = asyncio.create_task(waiter.beyond(1))
        await storage.clear_context(ME, "talk")
        await watch.refresh()
        assert await waiting == Notice(task_id, 0, None)
