"""Who gets which turn, and how long it is theirs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.errors import LeaseLost
from perdure.ids import new_task_id, new_token
from perdure.storage import Held, Storage, Swept
from perdure.tasks import Role, StatusChange, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ENDS,
    INTERRUPTIONS,
    ME,
    answers,
    artifact,
    chunk,
    claim,
    ended,
    id_of,
    idle,
    load,
    log,
    says,
    settle,
    started,
    submit,
    texts,
    told,
)


async def test_nothing_is_due_in_an_empty_storage(storage: Storage) -> None:
    assert await storage.claim_task("worker-1", new_token(), lease=60.0) is None


async def test_a_claim_makes_the_task_working(storage: Storage) -> None:
    accepted = await submit(storage, metadata={"k": "v"})
    token = new_token()
    turn = await storage.claim_task("worker-1", token, lease=60.0)
    assert turn is not None
    assert (turn.claim.task_id, turn.claim.owner, turn.claim.context_id) == (id_of(accepted), ME, "talk")
    assert (turn.claim.attempt, turn.claim.token) == (1, token)
    assert (turn.task.state, turn.task.attempt, turn.task.metadata) == (TaskState.WORKING, 1, {"k": "v"})
    assert turn.task == await load(storage, turn)
    event = (await log(storage, turn))[-1]
    assert (event.seq, event.attempt, event.body) == (2, 1, StatusChange(TaskState.WORKING))


async def test_what_callers_write_is_of_attempt_0_and_what_a_turn_writes_of_its_own(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_messages=[answers("mine")])
    await storage.continue_task(ME, turn.claim.task_id, says("yours"))
    await settle(storage, turn, write_no=2)
    assert [event.attempt for event in await log(storage, turn)] == [0, 1, 1, 0, 1]


async def test_an_owners_tasks_are_taken_in_the_order_in_which_they_were_sent(storage: Storage) -> None:
    tasks = [await submit(storage, context=f"talk {number}") for number in range(3)]
    taken = [(await claim(storage)).claim.task_id for _ in range(3)]
    assert taken == [id_of(task) for task in tasks]


async def test_the_same_token_again_is_the_same_turn(storage: Storage) -> None:
    await submit(storage, context="one")
    await submit(storage, context="two")
    token = new_token()
    first = await storage.claim_task("worker-1", token, lease=60.0)
    again = await storage.claim_task("worker-1", token, lease=60.0)
    assert first is not None
    assert again == replace(first, again=True)
    assert told(await log(storage, first)) == ["hello", "<working>"]


async def test_turns_of_a_context_run_one_at_a_time_in_order(storage: Storage) -> None:
    tasks = [await submit(storage, str(number)) for number in range(4)]
    taken = []
    for number in range(4):
        turn = await claim(storage)
        taken.append(id_of(turn))
        assert await idle(storage)
        written = await settle(storage, turn)
        assert [ring.task_id for ring in written.rings] == [
            id_of(task) for task in tasks[number + 1 : number + 2]
        ]
    assert taken == [id_of(task) for task in tasks]


async def test_two_owners_may_both_say_talk(storage: Storage) -> None:
    await submit(storage)
    await submit(storage, owner="another")
    assert {(await claim(storage)).claim.owner for _ in range(2)} == {ME, "another"}


@pytest.mark.parametrize("state", INTERRUPTIONS)
async def test_a_task_that_waits_for_its_caller_does_not_hold_the_slot(
    storage: Storage, state: TaskState
) -> None:
    asking = await started(storage, "first")
    second = await submit(storage, "second")
    (ring,) = (await settle(storage, asking, state)).rings
    assert ring.task_id == id_of(second)
    turn = await claim(storage)
    assert id_of(turn) == id_of(second)
    # The answer comes while the second one runs: the first is ahead in the line, and waits for the slot.
    assert (await storage.continue_task(ME, id_of(asking), says("answer"))).ring is None
    third = await submit(storage, "third")
    (ring,) = (await settle(storage, turn)).rings
    assert ring.task_id == id_of(asking)
    assert id_of(await claim(storage)) == id_of(asking)
    assert third.ring is None


async def test_a_task_that_waits_for_a_retry_keeps_its_place(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    second = await submit(storage)
    assert await storage.release_task(turn.claim, reason="retry", failed=True, delay=3600.0) == ()
    assert await idle(storage)
    await clock.make_due(id_of(turn))
    again = await claim(storage)
    assert (id_of(again), again.claim.attempt) == (id_of(turn), 2)
    (ring,) = (await settle(storage, again)).rings
    assert ring.task_id == id_of(second)


async def test_a_canceled_turn_holds_the_slot_until_it_is_released(storage: Storage) -> None:
    turn = await started(storage)
    second = await submit(storage)
    assert (await storage.cancel_task(ME, id_of(turn))).ring is None
    assert await idle(storage)
    assert (await submit(storage)).ring is None
    (ring,) = await storage.release_task(turn.claim, reason="canceled")
    assert ring.task_id == id_of(second)
    assert (await load(storage, turn)).state is TaskState.CANCELED
    assert id_of(await claim(storage)) == id_of(second)


async def test_the_conversation_is_what_was_said_in_the_context_up_to_the_task(storage: Storage) -> None:
    await storage.append_messages(ME, "talk", [says("earlier"), answers("indeed")])
    first = await started(storage, "one")
    await storage.update_task(
        first.claim,
        1,
        new_messages=[answers("thinking")],
        new_artifacts=[chunk("par", append=False), chunk("t")],
    )
    await settle(storage, first, TaskState.INPUT_REQUIRED, write_no=2, status_message=answers("which?"))
    await submit(storage, "two")
    await storage.append_messages(ME, "talk", [says("brought later")])
    await submit(storage, "three", context="another")
    second = await claim(storage)
    said = second.conversation
    assert texts(said) == ["earlier", "indeed", "one", "thinking", "part", "which?", "two"]
    user, agent = Role.USER, Role.AGENT
    assert [message.role for message in said] == [user, agent, user, agent, agent, agent, user]
    assert said[4].message_id == "a"


async def test_the_conversation_has_at_most_the_last_messages_asked_for(storage: Storage) -> None:
    for number in range(3):
        turn = await started(storage, f"question {number}")
        await settle(storage, turn, new_artifacts=[artifact(f"answer {number}")])
    await submit(storage, "last")
    turn = await claim(storage, history=4)
    assert texts(turn.conversation) == ["answer 1", "question 2", "answer 2", "last"]
    assert texts(turn.task.history) == ["last"]


async def test_the_history_of_a_claimed_task_is_cut_like_the_conversation(storage: Storage) -> None:
    accepted = await submit(storage, "one")
    for text in ("two", "three"):
        await storage.continue_task(ME, id_of(accepted), says(text))
    turn = await claim(storage, history=2)
    assert texts(turn.task.history) == texts(turn.conversation) == ["two", "three"]


async def test_a_later_task_is_not_in_the_conversation_of_an_earlier_one(storage: Storage) -> None:
    asking = await ended(storage, TaskState.INPUT_REQUIRED, text="first")
    await ended(storage, TaskState.COMPLETED, text="second")
    await storage.continue_task(ME, id_of(asking), says("answer"))
    assert texts((await claim(storage)).conversation) == ["first", "answer"]


async def test_a_renewal_extends_the_lease(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await clock.expire_lease(id_of(turn), ago=1.0)
    assert await storage.renew_claims([turn.claim], 120.0) == {turn.claim: Held.YES}
    assert 100.0 < await clock.lease_left(id_of(turn)) <= 120.0
    assert await storage.rescue_tasks(grace=0.0, max_crashes=3) == Swept()


async def test_a_renewal_tells_each_claim_how_it_stands(storage: Storage, clock: Clock) -> None:
    kept = await started(storage, context="kept")
    canceled = await started(storage, context="canceled")
    await storage.cancel_task(ME, id_of(canceled))
    settled = await ended(storage, TaskState.COMPLETED, context="settled")
    cleared = await started(storage, context="cleared")
    await storage.clear_context(ME, "cleared")
    rescued = await started(storage, context="rescued")
    await clock.expire_lease(id_of(rescued))
    await storage.rescue_tasks(grace=0.0, max_crashes=3)
    forged = replace(kept.claim, token=new_token())
    unknown = replace(kept.claim, task_id=new_task_id())
    claims = [kept.claim, canceled.claim, settled.claim, cleared.claim, rescued.claim, forged, unknown]
    assert await storage.renew_claims(claims, 60.0) == {
        kept.claim: Held.YES,
        canceled.claim: Held.CANCELED,
        settled.claim: Held.LOST,
        cleared.claim: Held.LOST,
        rescued.claim: Held.LOST,
        forged: Held.LOST,
        unknown: Held.LOST,
    }
    assert await storage.renew_claims([], 60.0) == {}


async def test_a_canceled_turn_is_renewed_until_it_is_released(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await storage.cancel_task(ME, id_of(turn))
    await clock.expire_lease(id_of(turn), ago=1.0)
    assert await storage.renew_claims([turn.claim], 60.0) == {turn.claim: Held.CANCELED}
    assert await clock.lease_left(id_of(turn)) > 50.0
    await storage.release_task(turn.claim, reason="canceled")
    assert await storage.renew_claims([turn.claim], 60.0) == {turn.claim: Held.LOST}


async def test_a_renewal_is_no_change_of_the_task(storage: Storage) -> None:
    turn = await started(storage)
    before = await load(storage, turn)
    await storage.renew_claims([turn.claim], 60.0)
    assert await load(storage, turn) == before


@pytest.mark.parametrize("state", ENDS)
async def test_a_turn_that_has_ended_holds_nothing(storage: Storage, state: TaskState) -> None:
    turn = await ended(storage, state)
    before = await load(storage, turn)
    with pytest.raises(LeaseLost) as lost:
        await storage.update_task(turn.claim, 2, new_messages=[answers("late")])
    assert lost.value.canceled is (state is TaskState.CANCELED)
    assert list(await storage.release_task(turn.claim, reason="late")) == []
    assert await storage.renew_claims([turn.claim], 60.0) == {turn.claim: Held.LOST}
    assert await storage.rescue_tasks(grace=0.0, max_crashes=1) == Swept()
    assert await idle(storage)
    assert await load(storage, turn) == before
