"""Messages of callers: new tasks, more messages, cancelling."""

from __future__ import annotations

from uuid import UUID

import pytest

from perdure.errors import InvalidParams, TaskNotCancelable, TaskNotFound, UnsupportedOperation
from perdure.ids import new_task_id
from perdure.storage import Storage
from perdure.tasks import Role, TaskState
from tests.support.stories import (
    ENDS,
    INTERRUPTIONS,
    ME,
    SOMEONE_ELSE,
    answers,
    claim,
    ended,
    idle,
    load,
    log,
    numbers,
    says,
    settle,
    started,
    submit,
    texts,
    told,
)


async def test_a_new_task_is_submitted_with_its_message_as_event_1(storage: Storage) -> None:
    accepted = await submit(storage, "hello", metadata={"trace": "t-1"})
    task = await load(storage, accepted)
    assert (task.state, task.context_id, task.owner) == (TaskState.SUBMITTED, "talk", ME)
    assert (task.metadata, task.last_seq, task.attempt) == ({"trace": "t-1"}, 1, 0)
    assert (task.status_message, task.artifacts) == (None, ())
    assert task == accepted.task
    assert told(await log(storage, accepted)) == ["hello"]
    assert accepted.ring is not None
    assert accepted.ring.task_id == task.task_id


async def test_the_stored_message_gets_the_ids_that_its_sender_could_not_know(storage: Storage) -> None:
    accepted = await submit(storage, message=says("hello", context_id="elsewhere", task_id="other"))
    (message,) = accepted.task.history
    assert message.message_id
    assert (message.context_id, message.task_id) == ("talk", str(accepted.task.task_id))
    kept = await submit(storage, message=says("hello", "mine"))
    assert kept.task.history[0].message_id == "mine"


async def test_the_same_task_submitted_again_is_that_task(storage: Storage) -> None:
    task_id = new_task_id()
    first = await submit(storage, "first", task_id=task_id)
    again = await submit(storage, "again", task_id=task_id, context="other")
    assert (again.task.context_id, again.task.last_seq, again.task.owner) == ("talk", 1, ME)
    assert again.ring == first.ring
    assert told(await log(storage, task_id)) == ["first"]
    await claim(storage)
    assert await idle(storage)


async def test_a_task_id_that_someone_else_has_is_not_found(storage: Storage) -> None:
    task_id = new_task_id()
    await submit(storage, task_id=task_id, owner=SOMEONE_ELSE)
    with pytest.raises(TaskNotFound):
        await submit(storage, task_id=task_id)


async def test_no_ring_while_an_earlier_task_of_the_context_has_not_ended(storage: Storage) -> None:
    first = await submit(storage)
    assert (await submit(storage)).ring is None
    turn = await claim(storage)
    assert turn.claim.task_id == first.task.task_id
    assert (await submit(storage)).ring is None
    assert (await submit(storage, context="another talk")).ring is not None
    assert (await submit(storage, owner=SOMEONE_ELSE)).ring is not None


@pytest.mark.parametrize("state", INTERRUPTIONS)
async def test_a_message_to_an_interrupted_task_makes_a_turn_due(storage: Storage, state: TaskState) -> None:
    turn = await started(storage, "weather?")
    await settle(storage, turn, state, status_message=answers("which city?"))
    assert await idle(storage)
    accepted = await storage.continue_task(ME, turn.claim.task_id, says("Bern"))
    assert accepted.ring is not None
    assert (accepted.task.state, accepted.task.last_seq) == (TaskState.SUBMITTED, 5)
    assert told(await log(storage, turn)) == ["weather?", "<working>", f"<{state}>", "Bern", "<submitted>"]
    task = await load(storage, turn)
    assert task.status_message is None
    assert texts(task.history) == ["weather?", "which city?", "Bern"]
    again = await claim(storage)
    assert again.claim.attempt == 2
    assert texts(again.conversation) == ["weather?", "which city?", "Bern"]


async def test_a_message_to_a_submitted_task_is_kept_for_its_turn(storage: Storage) -> None:
    accepted = await submit(storage, "one")
    more = await storage.continue_task(ME, accepted.task.task_id, says("two"))
    assert (more.task.state, more.task.last_seq) == (TaskState.SUBMITTED, 2)
    turn = await claim(storage)
    assert texts(turn.conversation) == ["one", "two"]
    assert (await settle(storage, turn)).state is TaskState.COMPLETED


async def test_a_message_to_a_working_task_is_kept_without_a_ring(storage: Storage) -> None:
    turn = await started(storage)
    more = await storage.continue_task(ME, turn.claim.task_id, says("two"))
    assert (more.task.state, more.ring) == (TaskState.WORKING, None)
    assert told(await log(storage, turn)) == ["hello", "<working>", "two"]


async def test_an_append_answers_with_its_message_only(storage: Storage) -> None:
    turn = await started(storage)
    message = says("two", "m-2", metadata={"k": [1]})
    more = await storage.continue_task(ME, turn.claim.task_id, message)
    (stored,) = more.task.history
    assert (stored.text, stored.message_id, stored.metadata) == ("two", "m-2", {"k": [1]})
    assert (stored.task_id, stored.context_id, stored.role) == (str(turn.claim.task_id), "talk", Role.USER)
    assert more.task.artifacts == ()


async def test_two_messages_with_the_same_id_are_two_messages(storage: Storage) -> None:
    turn = await started(storage, message=says("one", "m-1"))
    await storage.continue_task(ME, turn.claim.task_id, says("two", "m-1"))
    await submit(storage, message=says("three", "m-1"), context="other")
    assert told(await log(storage, turn)) == ["one", "<working>", "two"]


async def test_a_message_for_another_context_is_refused(storage: Storage) -> None:
    task_id = (await submit(storage)).task.task_id
    with pytest.raises(InvalidParams) as refused:
        await storage.continue_task(ME, task_id, says("two", context_id="another"))
    assert "context" in refused.value.field
    await storage.continue_task(ME, task_id, says("two", context_id="talk"))
    assert told(await log(storage, task_id)) == ["hello", "two"]


@pytest.mark.parametrize("state", ENDS)
async def test_a_message_to_an_ended_task_is_refused(storage: Storage, state: TaskState) -> None:
    turn = await ended(storage, state)
    with pytest.raises(UnsupportedOperation):
        await storage.continue_task(ME, turn.claim.task_id, says("more"))
    assert told(await log(storage, turn)) == ["hello", "<working>", f"<{state}>"]


@pytest.mark.parametrize("task_id", [new_task_id(), UUID(int=0)])
async def test_an_unknown_task_is_not_found(storage: Storage, task_id: UUID) -> None:
    with pytest.raises(TaskNotFound, match=str(task_id)):
        await storage.continue_task(ME, task_id, says("hello?"))
    with pytest.raises(TaskNotFound):
        await storage.cancel_task(ME, task_id)
    with pytest.raises(TaskNotFound):
        await storage.load_task(ME, task_id)


async def test_canceling_a_waiting_task_lets_the_next_one_go(storage: Storage) -> None:
    first = await submit(storage)
    second = await submit(storage)
    accepted = await storage.cancel_task(ME, first.task.task_id, answers("stopped"))
    assert (accepted.task.state, accepted.task.history) == (TaskState.CANCELED, ())
    assert accepted.task.status_message is not None
    assert accepted.task.status_message.text == "stopped"
    assert accepted.ring is not None
    assert accepted.ring.task_id == second.task.task_id
    assert (await claim(storage)).claim.task_id == second.task.task_id


async def test_canceling_a_task_in_the_line_wakes_none_behind_it(storage: Storage) -> None:
    first, second, third = [await submit(storage) for _ in range(3)]
    ring = (await storage.cancel_task(ME, second.task.task_id)).ring
    assert ring is None or ring.task_id == first.task.task_id  # to be rung twice is harmless
    turn = await claim(storage)
    assert turn.claim.task_id == first.task.task_id
    (next_ring,) = (await settle(storage, turn)).rings
    assert next_ring.task_id == third.task.task_id


@pytest.mark.parametrize("state", INTERRUPTIONS)
async def test_an_interrupted_task_can_be_canceled(storage: Storage, state: TaskState) -> None:
    turn = await ended(storage, state)
    accepted = await storage.cancel_task(ME, turn.claim.task_id)
    assert (accepted.task.state, accepted.ring) == (TaskState.CANCELED, None)


async def test_the_message_of_a_cancel_gets_its_ids(storage: Storage) -> None:
    accepted = await submit(storage)
    await storage.cancel_task(ME, accepted.task.task_id, says("stop"))
    message = (await load(storage, accepted)).status_message
    assert message is not None
    assert message.message_id
    assert (message.context_id, message.task_id) == ("talk", str(accepted.task.task_id))


@pytest.mark.parametrize("state", ENDS)
async def test_an_ended_task_cannot_be_canceled(storage: Storage, state: TaskState) -> None:
    turn = await ended(storage, state)
    with pytest.raises(TaskNotCancelable):
        await storage.cancel_task(ME, turn.claim.task_id)
    assert numbers(await log(storage, turn)) == [1, 2, 3]
