"""How many tasks wait or have not ended, counted up to a cap."""

from __future__ import annotations

import pytest

from perdure.ids import new_task_id
from perdure.storage import IdempotencyKey, NewTask, Storage, TaskCounts
from perdure.tasks import TaskState
from tests.support.stories import ENDS, INTERRUPTIONS, ME, SOMEONE_ELSE, claim, says, settle, started, submit

MANY = 100


async def test_nothing_is_counted_where_nothing_is(storage: Storage) -> None:
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts(open=0, waiting=0)
    assert await storage.count_waiting(up_to=MANY) == 0


async def test_waiting_tasks_are_open_and_wait(storage: Storage) -> None:
    for context in ("one", "one", "other"):  # the second one waits for the first one's turn
        await submit(storage, context=context)
    await submit(storage, delay=3600)
    await submit(storage, owner=SOMEONE_ELSE)
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts(open=4, waiting=4)
    assert await storage.count_tasks(SOMEONE_ELSE, up_to=MANY) == TaskCounts(open=1, waiting=1)
    assert await storage.count_waiting(up_to=MANY) == 5


async def test_a_task_at_work_is_open_and_does_not_wait(storage: Storage) -> None:
    await started(storage)
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts(open=1, waiting=0)
    assert await storage.count_waiting(up_to=MANY) == 0


@pytest.mark.parametrize("state", INTERRUPTIONS)
async def test_one_that_waits_for_its_caller_is_open(storage: Storage, state: TaskState) -> None:
    turn = await started(storage)
    await settle(storage, turn, state)
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts(open=1, waiting=0)
    await storage.continue_task(ME, turn.claim.task_id, says("go on"))
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts(open=1, waiting=1)


@pytest.mark.parametrize("state", ENDS)
async def test_one_that_has_ended_is_not(storage: Storage, state: TaskState) -> None:
    await settle(storage, await started(storage), state)
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts()


async def test_a_canceled_one_is_not_while_its_turn_still_runs(storage: Storage) -> None:
    turn = await started(storage)
    await storage.cancel_task(ME, turn.claim.task_id)
    assert await storage.count_tasks(ME, up_to=MANY) == TaskCounts()


async def test_counting_stops_at_the_cap(storage: Storage) -> None:
    for _ in range(5):
        await submit(storage)
    await claim(storage)
    assert await storage.count_tasks(ME, up_to=3) == TaskCounts(open=3, waiting=3)
    assert await storage.count_tasks(ME, up_to=5) == TaskCounts(open=5, waiting=4)
    assert await storage.count_waiting(up_to=3) == 3


async def test_a_key_is_known_from_its_use_on_to_its_owner(storage: Storage) -> None:
    key = IdempotencyKey("k", "what")
    assert not await storage.knows_key(ME, key)
    new = NewTask(task_id=new_task_id(), owner=ME, context_id="talk", message=says("hello"))
    await storage.submit_task(new, key=key)
    assert await storage.knows_key(ME, key)
    assert await storage.knows_key(ME, IdempotencyKey("k", "something else"))
    assert not await storage.knows_key(SOMEONE_ELSE, key)
