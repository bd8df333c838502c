"""What is the memory's own: it is bounded, and stays quick with many tasks."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import ContextNotFound, TaskNotFound
from perdure.storage import TaskQuery
from perdure.tasks import TaskState
from tests.support.storages import opened_memory
from tests.support.stories import ME, claim, ended, id_of, load, says, settle, started, submit


async def test_the_oldest_finished_tasks_are_dropped_with_their_contexts() -> None:
    async with opened_memory(finished_tasks=2) as opened:
        turns = [
            await ended(opened.storage, TaskState.COMPLETED, context=f"talk {number}") for number in range(4)
        ]
        for turn in turns[:2]:
            with pytest.raises(TaskNotFound):
                await load(opened.storage, turn)
            with pytest.raises(ContextNotFound):
                await opened.storage.load_context(ME, turn.claim.context_id)
        listed = (await opened.storage.list_tasks(TaskQuery(owner=ME))).tasks
        assert [task.task_id for task in listed] == [id_of(turns[3]), id_of(turns[2])]


async def test_a_canceled_task_is_kept_while_its_turn_runs() -> None:
    async with opened_memory(finished_tasks=0) as opened:
        turn = await started(opened.storage)
        await opened.storage.cancel_task(ME, id_of(turn))
        assert (await load(opened.storage, turn)).state is TaskState.CANCELED
        await opened.storage.release_task(turn.claim, reason="canceled")
        with pytest.raises(TaskNotFound):
            await load(opened.storage, turn)


async def test_a_context_with_more_in_it_outlives_its_tasks() -> None:
    async with opened_memory() as opened:
        storage = opened.storage
        await storage.append_messages(ME, "brought", [says("earlier")])
        await ended(storage, TaskState.COMPLETED, context="brought")
        await ended(storage, TaskState.COMPLETED, context="described")
        await storage.update_context(ME, "described", {"title": "x"})
        await ended(storage, TaskState.COMPLETED, context="waiting")
        waiting = await submit(storage, context="waiting")
        assert await storage.drop_finished(1) == 2
        assert await storage.drop_finished(0) == 1
        assert await storage.drop_finished(0) == 0
        names = {context.context_id for context in (await storage.list_contexts(ME)).contexts}
        assert names == {"brought", "described", "waiting"}
        assert id_of(await claim(storage)) == id_of(waiting)


@pytest.mark.parametrize("contexts", [1, 10_000], ids=["one-talk", "a-talk-each"])
async def test_ten_thousand_waiting_tasks_are_claimed_quickly(contexts: int) -> None:
    async with opened_memory() as opened:
        for number in range(10_000):
            await submit(opened.storage, context=f"talk {number % contexts}")
        timer = asyncio.get_running_loop().time
        begin = timer()
        for _ in range(300):
            await settle(opened.storage, await claim(opened.storage, history=10))
        # 0.1 s where it was measured; with a look at every task each time it would be ten seconds and more.
        assert timer() - begin < 3.0
