"""Turns that never settled: released by a deploy, taken away after a crash, tried again."""

from __future__ import annotations

import pytest

from perdure.storage import Storage, Swept
from perdure.tasks import Notice, Ring, Role, StatusChange, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ME,
    answers,
    artifact,
    chunk,
    claim,
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


async def test_a_released_turn_is_due_at_once(storage: Storage) -> None:
    turn = await started(storage)
    (ring,) = await storage.release_task(turn.claim, reason="deploy")
    assert ring.task_id == id_of(turn)
    task = await load(storage, turn)
    assert (task.state, task.failures, task.crashes) == (TaskState.SUBMITTED, 0, 0)
    event = (await log(storage, turn))[-1]
    assert event.body == StatusChange(TaskState.SUBMITTED, metadata={"reason": "deploy"})
    assert event.attempt == 0
    again = await claim(storage)
    assert again.claim.attempt == 2


async def test_a_release_has_a_newer_ring_than_the_submit(storage: Storage) -> None:
    accepted = await submit(storage)
    assert accepted.ring is not None
    dispatches = [accepted.ring.dispatch]
    for _ in range(3):
        (ring,) = await storage.release_task((await claim(storage)).claim, reason="deploy")
        dispatches.append(ring.dispatch)
    assert dispatches == sorted(set(dispatches))


async def test_a_failed_release_counts_a_failure_and_waits(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    assert list(await storage.release_task(turn.claim, reason="retry", failed=True, delay=3600.0)) == []
    assert (await load(storage, turn)).failures == 1
    assert await idle(storage)
    assert list(await storage.stranded(idle=0.0)) == []
    await clock.make_due(id_of(turn))
    again = await claim(storage)
    await storage.release_task(again.claim, reason="retry", failed=True)
    assert (await load(storage, turn)).failures == 2


async def test_a_release_can_say_why_the_task_waits(storage: Storage) -> None:
    turn = await started(storage, metadata={"kept": 1, "retry": "old"})
    told = {"retry": {"number": 1, "note": "The model is busy."}}
    await storage.release_task(turn.claim, reason="retry", failed=True, delay=3600.0, metadata=told)
    assert (await load(storage, turn)).metadata == {"kept": 1, **told}
    event = (await log(storage, turn))[-1]
    assert event.body == StatusChange(TaskState.SUBMITTED, metadata={"reason": "retry", **told})


async def test_a_release_that_comes_too_late_says_nothing(storage: Storage) -> None:
    turn = await started(storage)
    await storage.cancel_task(ME, id_of(turn))
    before = await load(storage, turn)
    await storage.release_task(turn.claim, reason="retry", failed=True, metadata={"retry": 1})
    after = await load(storage, turn)
    assert (after.metadata, after.failures, after.last_seq) == ({}, 0, before.last_seq)


@pytest.mark.parametrize("metadata", [{"a": float("nan")}, {"a": "\x00"}])
async def test_a_release_that_says_what_cannot_be_stored_is_refused(
    storage: Storage, metadata: dict[str, object]
) -> None:
    turn = await started(storage)
    before = await load(storage, turn)
    with pytest.raises(ValueError, match="a "):
        await storage.release_task(turn.claim, reason="retry", metadata=metadata)
    assert await load(storage, turn) == before


async def test_a_second_release_does_nothing(storage: Storage) -> None:
    turn = await started(storage)
    await storage.release_task(turn.claim, reason="deploy", failed=True)
    before = await load(storage, turn)
    assert list(await storage.release_task(turn.claim, reason="deploy", failed=True)) == []
    assert await load(storage, turn) == before


async def test_a_stale_release_does_not_touch_the_next_turn(storage: Storage) -> None:
    turn = await started(storage)
    await storage.release_task(turn.claim, reason="deploy")
    again = await claim(storage)
    assert list(await storage.release_task(turn.claim, reason="late")) == []
    assert (await settle(storage, again)).state is TaskState.COMPLETED


async def test_what_a_lost_turn_wrote_is_only_in_the_log(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(
        turn.claim,
        1,
        status_message=answers("lost status"),
        new_messages=[answers("lost message")],
        new_artifacts=[chunk("lost", append=False), artifact("lost too", "b")],
    )
    await storage.update_task(turn.claim, 2, status_metadata={"fraction": 0.5})
    await storage.release_task(turn.claim, reason="deploy")
    task = await load(storage, turn)
    assert (texts(task.history), task.artifacts, task.status_message) == (["hello"], (), None)
    assert "lost message" in told(await log(storage, turn))
    again = await claim(storage)
    assert texts(again.conversation) == ["hello"]
    assert (texts(again.task.history), again.task.artifacts) == (["hello"], ())
    await settle(storage, again, new_artifacts=[chunk("kept", append=False)])
    task = await load(storage, turn)
    assert (texts(task.history), texts(task.artifacts)) == (["hello"], ["kept"])
    context = await storage.load_context(ME, "talk")
    assert texts(context.messages) == ["hello", "kept"]
    assert [event.seq for event in await log(storage, turn)] == list(range(1, task.last_seq + 1))


async def test_what_callers_say_during_a_lost_turn_stays(storage: Storage) -> None:
    turn = await started(storage)
    await storage.continue_task(ME, id_of(turn), says("meanwhile"))
    await storage.release_task(turn.claim, reason="deploy")
    assert texts((await claim(storage)).conversation) == ["hello", "meanwhile"]


async def test_settled_output_survives_a_later_lost_turn(storage: Storage) -> None:
    turn = await started(storage)
    await settle(storage, turn, TaskState.INPUT_REQUIRED, new_artifacts=[chunk("first", append=False)])
    await storage.continue_task(ME, id_of(turn), says("more"))
    again = await claim(storage)
    await storage.update_task(again.claim, 1, new_artifacts=[chunk(" lost")])
    await storage.release_task(again.claim, reason="deploy")
    assert texts((await load(storage, turn)).artifacts) == ["first"]


async def test_what_a_canceled_turn_wrote_stays(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(
        turn.claim, 1, new_messages=[answers("thought")], new_artifacts=[artifact("part")]
    )
    await storage.cancel_task(ME, id_of(turn))
    await storage.release_task(turn.claim, reason="canceled")
    task = await load(storage, turn)
    assert (texts(task.history), texts(task.artifacts)) == (["hello", "thought"], ["part"])


async def test_a_dead_holders_task_is_due_again(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    assert await storage.rescue_tasks(grace=0.0, max_crashes=3) == Swept()
    await clock.expire_lease(id_of(turn))
    swept = await storage.rescue_tasks(grace=0.0, max_crashes=3)
    assert [ring.task_id for ring in swept.rings] == [id_of(turn)]
    task = await load(storage, turn)
    assert swept.notices == (Notice(id_of(turn), task.last_seq, TaskState.SUBMITTED),)
    assert (task.state, task.crashes, task.failures) == (TaskState.SUBMITTED, 1, 0)
    event = (await log(storage, turn))[-1]
    assert event.body == StatusChange(TaskState.SUBMITTED, metadata={"reason": "crash"})
    assert event.attempt == 0
    assert (await claim(storage)).claim.attempt == 2


async def test_a_lease_is_left_alone_within_the_grace(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await clock.expire_lease(id_of(turn), ago=5.0)
    assert await storage.rescue_tasks(grace=3600.0, max_crashes=3) == Swept()
    assert (await load(storage, turn)).state is TaskState.WORKING


async def test_a_lease_that_ran_out_during_an_outage_is_not_judged(storage: Storage, clock: Clock) -> None:
    """A rescue that was held up judges by the time at which it was meant."""
    before = await storage.check()
    turn = await started(storage)
    await clock.expire_lease(id_of(turn), ago=-0.05)
    while await clock.lease_left(id_of(turn)) > -0.05:
        pass
    assert await storage.rescue_tasks(grace=0.0, max_crashes=3, as_of=before) == Swept()
    after = await storage.check()
    assert after > before
    swept = await storage.rescue_tasks(grace=0.0, max_crashes=3, as_of=after)
    assert [ring.task_id for ring in swept.rings] == [id_of(turn)]


async def test_a_task_that_kills_its_workers_fails_with_a_reason(storage: Storage, clock: Clock) -> None:
    first = await submit(storage)
    second = await submit(storage)
    for crashes in range(1, 4):
        turn = await claim(storage)
        await storage.update_task(turn.claim, 1, new_messages=[answers("lost")])
        await clock.expire_lease(id_of(turn))
        swept = await storage.rescue_tasks(grace=0.0, max_crashes=3)
        assert (await load(storage, first)).crashes == crashes
    assert [ring.task_id for ring in swept.rings] == [id_of(second)]
    task = await load(storage, first)
    assert swept.notices == (Notice(id_of(first), task.last_seq, TaskState.FAILED),)
    assert task.state is TaskState.FAILED
    assert task.status_message is not None
    assert task.status_message.text
    assert (task.status_message.role, task.status_message.task_id) == (Role.AGENT, str(id_of(first)))
    assert task.status_message.message_id
    assert texts(task.history) == ["hello"]
    body = (await log(storage, first))[-1].body
    assert isinstance(body, StatusChange)
    assert body.metadata == {"reason": "crash"}


async def test_the_slot_of_a_canceled_turn_frees_with_its_lease(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    second = await submit(storage)
    await storage.cancel_task(ME, id_of(turn))
    before = await load(storage, turn)
    await clock.expire_lease(id_of(turn))
    swept = await storage.rescue_tasks(grace=0.0, max_crashes=1)
    assert [ring.task_id for ring in swept.rings] == [id_of(second)]
    assert swept.notices == ()
    after = await load(storage, turn)
    assert (after.state, after.crashes, after.last_seq) == (TaskState.CANCELED, 0, before.last_seq)


async def test_a_rescue_takes_no_more_than_its_limit(storage: Storage, clock: Clock) -> None:
    turns = [await started(storage, context=f"talk {number}") for number in range(5)]
    for turn in turns:
        await clock.expire_lease(id_of(turn))
    sweeps = [await storage.rescue_tasks(grace=0.0, max_crashes=3, limit=2) for _ in range(4)]
    rings = [swept.rings for swept in sweeps]
    assert [len(some) for some in rings] == [2, 2, 1, 0]
    assert {ring.task_id for some in rings for ring in some} == {id_of(turn) for turn in turns}


async def test_stranded_are_those_that_could_be_claimed(storage: Storage, clock: Clock) -> None:
    working = await started(storage, context="working")
    await submit(storage, context="working")
    asking = await started(storage, context="asking")
    await settle(storage, asking, TaskState.INPUT_REQUIRED)
    later = await started(storage, context="later")
    await storage.release_task(later.claim, reason="retry", delay=3600.0)
    first = await submit(storage, context="line")
    await submit(storage, context="line")
    old = await submit(storage, context="old")
    for task in (first, old, working):
        await clock.age_ring(id_of(task), 100.0)
    await clock.age_ring(id_of(old), 200.0)
    assert [ring.task_id for ring in await storage.stranded(idle=50.0)] == [id_of(first), id_of(old)]
    assert [ring.task_id for ring in await storage.stranded(idle=50.0, limit=1)] == [id_of(first)]
    assert [ring.task_id for ring in await storage.stranded(idle=150.0)] == [id_of(old)]
    assert list(await storage.stranded(idle=3600.0)) == []


async def test_redispatch_compares_and_sets(storage: Storage, clock: Clock) -> None:
    accepted = await submit(storage)
    await clock.age_ring(id_of(accepted), 100.0)
    stranded = await storage.stranded(idle=50.0)
    assert list(stranded) == [accepted.ring]
    (ring,) = await storage.redispatch(stranded)
    assert (ring.task_id, ring.dispatch) == (id_of(accepted), stranded[0].dispatch + 1)
    assert list(await storage.redispatch(stranded)) == []
    assert list(await storage.stranded(idle=50.0)) == []
    (newer,) = await storage.redispatch([ring])
    assert newer.dispatch == ring.dispatch + 1


async def test_what_is_rung_for_in_vain_is_rung_for_ever_more_rarely(storage: Storage, clock: Clock) -> None:
    accepted = await submit(storage)
    assert accepted.ring is not None
    ring = accepted.ring
    for times in (1, 2, 4, 8, 16, 32, 32, 32):
        await clock.age_ring(id_of(accepted), 50.0 * times - 5.0)
        assert list(await storage.stranded(idle=50.0)) == []
        await clock.age_ring(id_of(accepted), 50.0 * times + 5.0)
        assert list(await storage.stranded(idle=50.0)) == [ring]
        (ring,) = await storage.redispatch([ring])


@pytest.mark.parametrize("turns", [1, 3])
async def test_a_turn_brings_the_patience_for_its_own_ring(
    storage: Storage, clock: Clock, turns: int
) -> None:
    """Whatever brought the task back: an answer, a deploy, a retry; also behind another task of its conversation."""
    turn = await started(storage, context="one")
    other = await submit(storage, context="one")
    for _ in range(turns):
        await settle(storage, turn, TaskState.INPUT_REQUIRED)
        await settle(storage, await claim(storage), TaskState.INPUT_REQUIRED)
        await storage.continue_task(ME, id_of(turn), says("more"))
        turn = await claim(storage)
        await storage.release_task(turn.claim, reason="retry", failed=True, delay=3600.0)
        await clock.make_due(id_of(turn))
        turn = await claim(storage)
        await storage.continue_task(ME, id_of(other), says("more"))
    await storage.release_task(turn.claim, reason="deploy")
    await clock.age_ring(id_of(turn), 55.0)
    (ring,) = await storage.stranded(idle=50.0)
    assert ring == Ring(id_of(turn), 2 * turns + 2)
    assert await storage.redispatch([ring])
    await clock.age_ring(id_of(turn), 55.0)
    assert list(await storage.stranded(idle=50.0)) == []


async def test_redispatch_leaves_what_cannot_be_claimed(storage: Storage) -> None:
    first = await submit(storage)
    assert first.ring is not None
    await storage.cancel_task(ME, id_of(first))
    turn = await started(storage, context="other")
    rings = await storage.release_task(turn.claim, reason="deploy")
    await claim(storage)
    assert list(await storage.redispatch([first.ring, *rings])) == []
    assert list(await storage.redispatch([])) == []


async def test_a_task_behind_another_is_not_redispatched(storage: Storage) -> None:
    asking = await started(storage, "first")
    second = await submit(storage, "second")
    rings = await settle(storage, asking, TaskState.INPUT_REQUIRED)
    assert [ring.task_id for ring in rings.rings] == [id_of(second)]
    await storage.continue_task(ME, id_of(asking), says("answer"))
    assert list(await storage.redispatch(rings.rings)) == []


@pytest.mark.parametrize("keep", [0, 1, 5])
async def test_drop_finished_never_touches_what_has_not_ended(storage: Storage, keep: int) -> None:
    waiting = await submit(storage, context="waiting")
    await storage.drop_finished(keep)
    assert (await load(storage, waiting)).state is TaskState.SUBMITTED
