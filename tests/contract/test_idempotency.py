"""The same send again is the same task, whatever happened to the first one's answer."""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import ContextBusy, KeyReused, TaskNotFound, UnsupportedOperation
from perdure.ids import new_task_id
from perdure.storage import IdempotencyKey, NewTask, Policy, Storage, TaskQuery
from perdure.tasks import TaskState
from tests.support.stories import ME, ended, id_of, load, log, says, texts, told

KEY = IdempotencyKey("k1", "what was asked for")


def new(text: str = "hello", *, owner: str = ME, context: str = "talk", **members: object) -> NewTask:
    """A new task with an id of its own."""
    return NewTask(task_id=new_task_id(), owner=owner, context_id=context, message=says(text), **members)  # type: ignore[arg-type]


async def count(storage: Storage, owner: str = ME) -> int:
    """How many tasks there are."""
    return (await storage.list_tasks(TaskQuery(owner=owner))).total


async def test_the_same_key_again_is_the_same_task(storage: Storage) -> None:
    first = await storage.submit_task(new(), key=KEY)
    again = await storage.submit_task(new(), key=KEY)
    assert (first.repeated, again.repeated) == (False, True)
    assert again.task == first.task
    assert await count(storage) == 1


async def test_another_request_with_the_key_is_refused(storage: Storage) -> None:
    first = await storage.submit_task(new(), key=KEY)
    with pytest.raises(KeyReused, match="k1"):
        await storage.submit_task(new("bye"), key=IdempotencyKey("k1", "something else"))
    assert await count(storage) == 1
    assert (await load(storage, first)).state is TaskState.SUBMITTED


async def test_a_key_belongs_to_its_owner(storage: Storage) -> None:
    await storage.submit_task(new(), key=KEY)
    theirs = await storage.submit_task(new(owner="them"), key=IdempotencyKey("k1", "something else"))
    assert not theirs.repeated
    assert (await count(storage), await count(storage, "them")) == (1, 1)


async def test_a_task_that_has_ended_is_given_as_it_stands(storage: Storage) -> None:
    first = await storage.submit_task(new(), key=KEY)
    await storage.cancel_task(ME, id_of(first))
    again = await storage.submit_task(new(), key=KEY)
    assert (again.repeated, again.task.state, again.ring) == (True, TaskState.CANCELED, None)


async def test_many_at_once_are_one(storage: Storage) -> None:
    answers = await asyncio.gather(*(storage.submit_task(new(), key=KEY) for _ in range(8)))
    assert len({id_of(answer) for answer in answers}) == 1
    assert sorted(answer.repeated for answer in answers) == [False] + [True] * 7
    assert await count(storage) == 1


async def test_a_refused_send_uses_no_key(storage: Storage) -> None:
    blocking = await storage.submit_task(new(policy=Policy.REJECT))
    with pytest.raises(ContextBusy):
        await storage.submit_task(new(policy=Policy.REJECT), key=KEY)
    await storage.cancel_task(ME, id_of(blocking))
    assert not (await storage.submit_task(new(policy=Policy.REJECT), key=KEY)).repeated


async def test_a_repeat_is_no_second_one_to_a_busy_conversation(storage: Storage) -> None:
    first = await storage.submit_task(new(policy=Policy.REJECT), key=KEY)
    assert id_of(await storage.submit_task(new(policy=Policy.REJECT), key=KEY)) == id_of(first)


async def test_a_repeat_interrupts_nobody(storage: Storage) -> None:
    first = await storage.submit_task(new(policy=Policy.INTERRUPT), key=KEY)
    again = await storage.submit_task(new(policy=Policy.INTERRUPT), key=KEY)
    assert list(again.canceled) == []
    assert (await load(storage, first)).state is TaskState.SUBMITTED


async def test_a_message_to_a_task_is_kept_once(storage: Storage) -> None:
    asking = await ended(storage, TaskState.INPUT_REQUIRED)
    first = await storage.continue_task(ME, id_of(asking), says("more"), key=KEY)
    again = await storage.continue_task(ME, id_of(asking), says("more"), key=KEY)
    assert (first.repeated, again.repeated) == (False, True)
    assert first.ring is not None
    assert texts((await load(storage, asking)).history) == ["hello", "more"]
    with pytest.raises(KeyReused):
        await storage.continue_task(ME, id_of(asking), says("x"), key=IdempotencyKey("k1", "something else"))


async def test_messages_at_once_with_one_key_are_one(storage: Storage) -> None:
    asking = await ended(storage, TaskState.INPUT_REQUIRED)
    await asyncio.gather(*(storage.continue_task(ME, id_of(asking), says("more"), key=KEY) for _ in range(8)))
    assert told(await log(storage, asking)).count("more") == 1


async def test_a_refused_message_uses_no_key(storage: Storage) -> None:
    over = await ended(storage, TaskState.COMPLETED)
    for _ in range(2):
        with pytest.raises(UnsupportedOperation):
            await storage.continue_task(ME, id_of(over), says("more"), key=KEY)
        with pytest.raises(TaskNotFound):
            await storage.continue_task(ME, new_task_id(), says("more"), key=KEY)
    assert not (await storage.submit_task(new(), key=KEY)).repeated


async def test_keys_are_forgotten_when_they_are_old(storage: Storage) -> None:
    first = await storage.submit_task(new(), key=KEY)
    assert await storage.forget_keys(older_than=3600.0) == 0
    assert (await storage.submit_task(new(), key=KEY)).repeated
    assert await storage.forget_keys(older_than=0.0) == 1
    second = await storage.submit_task(new(), key=KEY)
    assert not second.repeated
    assert id_of(second) != id_of(first)


async def test_no_more_keys_are_forgotten_than_asked_for(storage: Storage) -> None:
    for number in range(5):
        await storage.submit_task(new(), key=IdempotencyKey(str(number), ""))
    assert [await storage.forget_keys(older_than=0.0, limit=2) for _ in range(4)] == [2, 2, 1, 0]


async def test_a_cleared_conversation_takes_its_keys_along(storage: Storage) -> None:
    await storage.submit_task(new(), key=KEY)
    await storage.clear_context(ME, "talk")
    assert not (await storage.submit_task(new(), key=KEY)).repeated
