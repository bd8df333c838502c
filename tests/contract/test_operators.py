"""What operators see, across owners, and the traces that they need: who ran an attempt, why it failed, what was done by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from perdure.errors import TaskNotFound
from perdure.ids import first_id_at, new_task_id
from perdure.storage import ClaimedTurn, Storage
from perdure.storage.fingerprints import fingerprint
from perdure.storage.operators import (
    SHOWN_WHEN_LOST,
    Attempt,
    Failure,
    OperatorAction,
    TaskFilter,
    Why,
    WorkerBeat,
    by_liveliness,
)
from perdure.tasks import StatusChange, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ME,
    SOMEONE_ELSE,
    chunk,
    claim,
    ended,
    id_of,
    log,
    says,
    settle,
    started,
    submit,
)


def _failure(turn: ClaimedTurn, message: str = "no route", error_class: str = "OSError") -> Failure:
    return Failure(
        task_id=turn.claim.task_id,
        attempt=turn.claim.attempt,
        error_class=error_class,
        message=message,
        fingerprint=fingerprint(error_class, message),
        traceback="Traceback",
        worker="worker-1",
    )


async def _found(storage: Storage, **wanted: Any) -> list[str]:
    page = await storage.find_tasks(TaskFilter(**wanted))
    assert await storage.count_matching(TaskFilter(**wanted)) == len(page.lines)
    return [line.text for line in page.lines]


async def _whys(storage: Storage, turn: ClaimedTurn) -> list[Why]:
    return [attempt.why for attempt in await storage.attempts(id_of(turn))]


# ---------------------------------------------------------------------- figures


async def test_nothing_is_all_zeros(storage: Storage) -> None:
    figures = await storage.figures()
    assert not any(figures.counts.values())
    assert (figures.oldest_waiting, figures.waits, figures.runs) == (None, None, None)
    assert (list(figures.minutes), figures.completed, figures.failed) == ([], 0, 0)


async def test_every_state_is_counted_whoever_owns_it(storage: Storage) -> None:
    for state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.INPUT_REQUIRED):
        await ended(storage, state, context=state, owner=SOMEONE_ELSE)
    await started(storage, context="runs")
    await submit(storage, context="waits")
    figures = await storage.figures()
    assert {state: count for state, count in figures.counts.items() if count} == {
        TaskState.COMPLETED: 1,
        TaskState.FAILED: 1,
        TaskState.CANCELED: 1,
        TaskState.INPUT_REQUIRED: 1,
        TaskState.WORKING: 1,
        TaskState.SUBMITTED: 1,
    }
    assert (figures.completed, figures.failed) == (1, 1)
    assert [(minute.completed, minute.failed) for minute in figures.minutes] in ([(1, 1)], [(1, 0), (0, 1)])
    assert figures.waits is not None
    assert figures.runs is not None
    assert 0 <= figures.waits[0] <= figures.waits[1] < 60
    assert 0 <= figures.runs[0] <= figures.runs[1] < 60


async def test_the_oldest_waiting_task_is_the_alarm(storage: Storage, clock: Clock) -> None:
    old = await submit(storage, context="old")
    await submit(storage, context="new")
    await clock.age_ring(id_of(old), 1000)
    _, oldest = await storage.waiting()
    assert oldest is not None
    assert 1000 <= oldest < 1060


async def test_who_waits_for_the_own_conversation_raises_no_alarm(storage: Storage, clock: Clock) -> None:
    await started(storage)
    behind = await submit(storage)
    await clock.age_ring(id_of(behind), 1000)
    counts, oldest = await storage.waiting()
    assert (counts[TaskState.SUBMITTED], oldest) == (1, None)


async def test_what_is_not_due_raises_no_alarm(storage: Storage) -> None:
    await submit(storage, delay=600.0)
    assert (await storage.waiting())[1] is None


# ---------------------------------------------------------------------- finding tasks


async def test_tasks_are_found_across_owners_the_newest_first(storage: Storage) -> None:
    await submit(storage, "one")
    await submit(storage, "two", owner=SOMEONE_ELSE)
    assert await _found(storage) == ["two", "one"]
    assert await _found(storage, owner=ME) == ["one"]


@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED])
async def test_tasks_are_found_by_state(storage: Storage, state: TaskState) -> None:
    await ended(storage, state, text="this", context="a")
    await started(storage, "runs", context="b")
    await submit(storage, "waits", context="c")
    assert await _found(storage, state=state) == ["this"]
    assert await _found(storage, state=TaskState.WORKING) == ["runs"]
    assert await _found(storage, state=TaskState.SUBMITTED) == ["waits"]
    assert await _found(storage, state=TaskState.REJECTED) == []


async def test_tasks_are_found_by_conversation_worker_and_age(storage: Storage) -> None:
    await started(storage, "runs", context="a")
    await submit(storage, "waits", context="b")
    assert await _found(storage, context_id="b") == ["waits"]
    assert await _found(storage, worker="worker-1") == ["runs"]
    assert await _found(storage, worker="another") == []
    assert await _found(storage, older=600) == []
    assert await _found(storage, newer=600) == ["waits", "runs"]


async def test_tasks_are_found_by_text(storage: Storage) -> None:
    task = await submit(storage, "Send 100% of it_all", context="a")
    await submit(storage, "something else", context="b")
    assert await _found(storage, text="send") == ["Send 100% of it_all"]
    assert await _found(storage, text="100%") == ["Send 100% of it_all"]
    assert await _found(storage, text="it_") == ["Send 100% of it_all"]
    assert await _found(storage, text="t%a") == []
    assert await _found(storage, text=str(id_of(task))) == ["Send 100% of it_all"]
    assert await _found(storage, text="b") == ["something else"]


async def test_tasks_are_found_by_error(storage: Storage) -> None:
    turn = await started(storage, "this")
    await storage.record_failure(_failure(turn, "No Route to 10.0.0.1"))
    await submit(storage, "other", context="b")
    assert await _found(storage, error="no route") == ["this"]
    assert await _found(storage, error="oserror") == ["this"]
    assert await _found(storage, fingerprint=fingerprint("OSError", "No Route to 10.9.9.9")) == ["this"]
    assert await _found(storage, fingerprint="0" * 16) == []


async def test_pages_have_no_gaps_and_no_repeats(storage: Storage) -> None:
    for number in range(7):
        await submit(storage, str(number), context=str(number))
    seen, before = [], None
    while True:
        page = await storage.find_tasks(TaskFilter(), page_size=3, before=before)
        seen += [line.text for line in page.lines]
        before = page.next
        if before is None:
            break
    assert seen == ["6", "5", "4", "3", "2", "1", "0"]
    assert page.complete


async def test_a_line_says_what_is_known(storage: Storage) -> None:
    await submit(storage, "hi", priority=3, limits={"gpu": 2})
    turn = await claim(storage)
    await storage.record_failure(_failure(turn))
    line = await storage.task_line(id_of(turn))
    assert (line.owner, line.context_id, line.text, line.holder) == (ME, "talk", "hi", "worker-1")
    assert (line.priority, line.limits, line.attempt, line.error) == (3, {"gpu": 2}, 1, "OSError: no route")
    with pytest.raises(TaskNotFound):
        await storage.task_line(new_task_id())


# ---------------------------------------------------------------------- attempts


async def test_the_claims_worker_is_known_and_callers_are_not_told(storage: Storage) -> None:
    turn = await started(storage)
    [attempt] = await storage.attempts(id_of(turn))
    assert (attempt.attempt, attempt.worker, attempt.why, attempt.ended_at) == (
        1,
        "worker-1",
        Why.RUNNING,
        None,
    )
    assert "worker-1" not in str(await log(storage, turn))
    assert "worker-1" not in str(await storage.load_task(ME, id_of(turn)))


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (TaskState.COMPLETED, Why.COMPLETED),
        (TaskState.FAILED, Why.FAILED),
        (TaskState.REJECTED, Why.REJECTED),
        (TaskState.INPUT_REQUIRED, Why.ASKED),
    ],
)
async def test_an_attempt_ends_as_its_turn_did(storage: Storage, state: TaskState, why: Why) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, status_metadata={"progress": 0.5})
    await settle(storage, turn, state, write_no=2)
    assert await _whys(storage, turn) == [why]


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("retry", Why.RETRY),
        ("timeout", Why.TIMEOUT),
        ("deploy", Why.DEPLOY),
        ("late", Why.LATE),
        ("x", Why.OTHER),
    ],
)
async def test_a_release_says_why(storage: Storage, reason: str, why: Why) -> None:
    turn = await started(storage)
    await storage.record_failure(_failure(turn))
    await storage.release_task(turn.claim, reason=reason, metadata={"retry": {"after": 2.5}}, delay=0)
    again = await claim(storage)
    first, second = await storage.attempts(id_of(turn))
    assert (first.why, first.retry, second.why) == (why, 2.5, Why.RUNNING)
    assert first.failure is not None
    assert (first.failure.error_class, first.failure.traceback) == ("OSError", "Traceback")
    assert second.failure is None
    assert again.claim.attempt == 2


async def test_a_crash_is_seen(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await clock.expire_lease(id_of(turn))
    await storage.rescue_tasks(grace=0, max_crashes=1)
    assert await _whys(storage, turn) == [Why.CRASH]


async def test_cancels_and_unread_messages_are_seen(storage: Storage) -> None:
    turn = await started(storage)
    await storage.continue_task(ME, id_of(turn), says("and this"))
    await settle(storage, turn)
    again = await claim(storage)
    await storage.cancel_task(ME, id_of(again))
    assert await _whys(storage, turn) == [Why.AGAIN, Why.CANCELED]


async def test_an_unknown_task_had_no_attempts(storage: Storage) -> None:
    assert list(await storage.attempts(new_task_id())) == []


# ---------------------------------------------------------------------- conversations


async def test_a_conversation_is_shown_in_its_order(storage: Storage) -> None:
    turn = await started(storage, "one")
    await submit(storage, "two")
    await submit(storage, "three")
    await submit(storage, "elsewhere", owner=SOMEONE_ELSE)
    assert [line.text for line in await storage.context_line(ME, "talk")] == ["one", "two", "three"]
    assert [line.text for line in await storage.context_line(ME, "talk", 2)] == ["two", "three"]
    theirs, mine = await storage.newest_contexts()
    assert (theirs[0], theirs[3], theirs[4]) == (SOMEONE_ELSE, 1, None)
    assert (mine[0], mine[1], mine[3], mine[4]) == (ME, "talk", 2, id_of(turn))


async def test_the_newest_claim_is_known_until_it_is_let_go(storage: Storage) -> None:
    turn = await started(storage)
    assert await storage.newest_claim(id_of(turn)) == turn.claim
    await storage.cancel_task(ME, id_of(turn))
    assert await storage.newest_claim(id_of(turn)) == turn.claim
    await storage.release_task(turn.claim, reason="canceled")
    assert await storage.newest_claim(id_of(turn)) is None


# ---------------------------------------------------------------------- failures


async def test_failures_that_differ_in_numbers_are_one_group(storage: Storage) -> None:
    for number, state in ((1, TaskState.FAILED), (2, TaskState.COMPLETED)):
        turn = await started(storage, context=str(number))
        await storage.record_failure(_failure(turn, f"no route to host {number}"))
        await storage.record_failure(_failure(turn, "what comes second does not count", "KeyError"))
        await settle(storage, turn, state)
    other = await started(storage, context="other")
    await storage.record_failure(_failure(other, "boom", "ValueError"))
    newest, hosts = await storage.failure_groups()
    assert (newest.error_class, newest.message, newest.failures, newest.failed) == (
        "ValueError",
        "boom",
        1,
        0,
    )
    assert (hosts.failures, hosts.tasks, hosts.failed) == (2, 2, 1)
    assert hosts.message == "no route to host 2"
    assert hosts.first_seen <= hosts.last_seen <= newest.last_seen


async def test_a_lost_worker_is_a_failure_too(storage: Storage, clock: Clock) -> None:
    """Grouped by how far its handler had come; what the attempt itself has said counts first."""
    silent = [await started(storage, context=f"silent {number}") for number in range(2)]
    spoke = await started(storage, context="spoke")
    await storage.update_task(spoke.claim, 1, new_artifacts=[chunk("so far")])
    told = await started(storage, context="told")
    await storage.record_failure(_failure(told))
    settled = await started(storage, context="settled")
    await settle(storage, settled)
    for turn in (*silent, spoke, told):
        await clock.expire_lease(id_of(turn))
    await storage.rescue_tasks(grace=0, max_crashes=1)
    groups = {group.message: group for group in await storage.failure_groups()}
    before = groups["it died, or was cut off, before the handler had given anything"]
    assert (before.error_class, before.failures, before.tasks, before.failed) == ("worker lost", 2, 2, 2)
    after = groups["it died, or was cut off, after the handler had given something"]
    assert (after.error_class, after.failures) == ("worker lost", 1)
    assert after.fingerprint != before.fingerprint
    assert set(groups) == {before.message, after.message, "no route"}
    [attempt] = await storage.attempts(id_of(spoke))
    assert attempt.failure is not None
    assert attempt.failure.worker == attempt.worker == "worker-1"
    assert len(await _found(storage, error="worker lost")) == 3
    assert len(await _found(storage, fingerprint=before.fingerprint)) == 2
    # A second look changes nothing, and neither does a worker that comes back.
    await storage.rescue_tasks(grace=0, max_crashes=1)
    await storage.record_failure(_failure(spoke))
    assert {group.message: group.failures for group in await storage.failure_groups()} == {
        message: group.failures for message, group in groups.items()
    }


async def test_a_failure_of_a_task_that_is_gone_is_no_error(storage: Storage) -> None:
    turn = await started(storage)
    await storage.clear_context(ME, "talk")
    await storage.record_failure(_failure(turn))
    assert list(await storage.failure_groups()) == []


# ---------------------------------------------------------------------- workers


def _beat(**members: Any) -> WorkerBeat:
    return WorkerBeat(**{"worker_id": "worker-1", "slots": 4, "running": 1, "version": "1.2", **members})


async def test_workers_tell_how_they_are(storage: Storage) -> None:
    turn = await started(storage)
    beat = _beat(name="host:7", loop_lag=0.25, counters={"sweeps": 3})
    assert not await storage.beat(beat)
    [worker] = await storage.list_workers()
    assert worker.beat == beat
    assert (list(worker.tasks), worker.asked_to_drain) == ([id_of(turn)], False)
    assert 0 <= worker.silent < 60
    await storage.forget_worker("worker-1")
    assert list(await storage.list_workers()) == []


async def test_a_silent_worker_that_keeps_its_task_is_blocked_and_one_that_lost_it_is_gone(
    storage: Storage, clock: Clock
) -> None:
    turn = await started(storage)
    await storage.beat(_beat())
    [worker] = await storage.list_workers()
    assert not worker.is_blocked(3600)
    assert replace(worker, silent=3601.0).is_blocked(3600)
    await clock.expire_lease(id_of(turn))
    [worker] = await storage.list_workers()
    assert not replace(worker, silent=3601.0).is_blocked(3600)


async def test_who_works_stands_before_who_drains_and_who_was_lost(storage: Storage, clock: Clock) -> None:
    for name in ("lost long ago", "lost", "drains", "asked to drain", "works"):
        await storage.beat(_beat(worker_id=name, draining=name == "drains"))
    await storage.ask_to_drain("asked to drain", True)
    await clock.age_worker("lost long ago", 1000)
    await clock.age_worker("lost", 100)
    found = by_liveliness(await storage.list_workers(), 30)
    assert [each.beat.worker_id for each in found] == [
        "works",
        "drains",
        "asked to drain",
        "lost",
        "lost long ago",
    ]


async def test_a_lost_worker_is_told_of_for_an_hour_and_one_that_holds_a_task_always(
    storage: Storage, clock: Clock
) -> None:
    await started(storage)
    for name in ("worker-1", "lost", "long lost"):
        await storage.beat(_beat(worker_id=name))
    await clock.age_worker("worker-1", 2 * SHOWN_WHEN_LOST)
    await clock.age_worker("lost", SHOWN_WHEN_LOST - 60)
    await clock.age_worker("long lost", SHOWN_WHEN_LOST + 1)
    found = by_liveliness(await storage.list_workers(), 30)
    assert [each.beat.worker_id for each in found] == ["worker-1", "lost"]
    assert found[0].is_blocked(30)


async def test_a_worker_hears_at_its_next_beat_that_it_should_drain(storage: Storage) -> None:
    await storage.beat(_beat())
    assert await storage.ask_to_drain("worker-1", True)
    assert await storage.beat(_beat())
    assert (await storage.list_workers())[0].asked_to_drain
    assert await storage.ask_to_drain("worker-1", False)
    assert not await storage.beat(_beat())
    assert not await storage.ask_to_drain("nobody", True)


# ---------------------------------------------------------------------- what was done by hand


async def test_actions_are_kept_newest_first(storage: Storage) -> None:
    first, second = (
        OperatorAction(action_id=new_task_id(), actor="ann", action="cancel", target=target, result="")
        for target in ("a", "b")
    )
    await storage.record_action(first)
    await storage.record_action(second)
    await storage.record_action(OperatorAction(**{**_fields(first), "result": "done"}))
    b, a = await storage.list_actions()
    assert (b.target, a.target, a.result, a.actor, a.action) == ("b", "a", "done", "ann", "cancel")
    assert a.created_at is not None
    assert [action.target for action in await storage.list_actions(before=b.action_id)] == ["a"]
    assert [action.target for action in await storage.list_actions(limit=1)] == ["b"]


def _fields(action: OperatorAction) -> dict[str, Any]:
    return {name: getattr(action, name) for name in OperatorAction.__dataclass_fields__}


async def test_no_task_made_later_sorts_before_the_first_id_of_a_time() -> None:
    assert first_id_at(datetime.now(UTC)) <= new_task_id()


async def test_events_of_progress_begin_no_attempt(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, status_message=says("half"), status_metadata={"progress": 0.5})
    attempts: list[Attempt] = list(await storage.attempts(id_of(turn)))
    assert [attempt.attempt for attempt in attempts] == [1]
    assert any(isinstance(event.body, StatusChange) for event in await log(storage, turn))
