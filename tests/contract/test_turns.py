"""What a turn writes: kept whole, once, and only under its claim."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from perdure.errors import LeaseLost
from perdure.ids import new_token
from perdure.storage import ClaimedTurn, Storage
from perdure.tasks import Artifact, ArtifactChunk, DataPart, StatusChange, TaskState, TextPart, UrlPart
from tests.support.storages import Clock
from tests.support.stories import (
    ENDS,
    INTERRUPTIONS,
    ME,
    answers,
    artifact,
    chunk,
    claim,
    id_of,
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


@pytest.mark.parametrize("state", [*ENDS, *INTERRUPTIONS])
async def test_one_write_keeps_everything_in_order(storage: Storage, state: TaskState) -> None:
    turn = await started(storage)
    written = await storage.update_task(
        turn.claim,
        1,
        state=state,
        status_message=answers("that is it"),
        status_metadata={"took": 1.5},
        new_messages=[answers("m1"), answers("m2")],
        new_artifacts=[artifact("a1", "one"), artifact("a2", "two")],
        metadata={"done": True},
    )
    assert (written.state, written.seq, list(written.rings)) == (state, 7, [])
    assert told(await log(storage, turn)) == ["hello", "<working>", "m1", "m2", "a1", "a2", f"<{state}>"]
    task = await load(storage, turn)
    assert (task.state, task.last_seq, task.metadata) == (state, 7, {"done": True})
    assert task.status_message is not None
    assert task.status_message.text == "that is it"
    assert texts(task.history) == ["hello", "m1", "m2"]
    assert texts(task.artifacts) == ["a1", "a2"]
    assert [item.artifact_id for item in task.artifacts] == ["one", "two"]
    last = (await log(storage, turn))[-1]
    assert isinstance(last.body, StatusChange)
    assert last.body.metadata == {"took": 1.5}


@pytest.mark.parametrize("state", [None, TaskState.WORKING])
async def test_a_turn_goes_on_after_a_write(storage: Storage, state: TaskState | None) -> None:
    turn = await started(storage)
    written = await storage.update_task(turn.claim, 1, state=state, new_artifacts=[chunk("a", append=False)])
    assert (written.state, written.seq, list(written.rings)) == (TaskState.WORKING, 3, [])
    assert (await settle(storage, turn, write_no=2)).state is TaskState.COMPLETED


async def test_a_write_of_nothing_but_metadata_appends_no_event(storage: Storage) -> None:
    turn = await started(storage, metadata={"kept": 1, "gone": 2, "deep": {"a": 1}})
    written = await storage.update_task(
        turn.claim, 1, metadata={"gone": None, "new": [1, None], "deep": {"b": 2}, "never there": None}
    )
    assert written.seq == 2
    assert (await load(storage, turn)).metadata == {"kept": 1, "new": [1, None], "deep": {"b": 2}}


async def test_progress_is_an_event_that_leaves_the_present_status(storage: Storage) -> None:
    turn = await started(storage)
    before = await load(storage, turn)
    await storage.update_task(turn.claim, 1, status_metadata={"fraction": 0.5})
    after = await load(storage, turn)
    assert told(await log(storage, turn)) == ["hello", "<working>", "<working>"]
    assert (after.status_timestamp, after.status_message) == (before.status_timestamp, None)


async def test_a_status_message_of_a_working_turn_is_the_present_status_until_the_next(
    storage: Storage,
) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, status_message=answers("looking"))
    await storage.update_task(turn.claim, 2, status_metadata={"fraction": 0.5})
    task = await load(storage, turn)
    assert task.status_message is not None
    assert task.status_message.text == "looking"
    assert texts(task.history) == ["hello"]
    await storage.update_task(turn.claim, 3, state=TaskState.WORKING, status_message=answers("still looking"))
    task = await load(storage, turn)
    assert task.status_message is not None
    assert task.status_message.text == "still looking"
    assert texts(task.history) == ["hello", "looking"]
    await settle(storage, turn, write_no=4)
    task = await load(storage, turn)
    assert task.status_message is None
    assert texts(task.history) == ["hello", "looking", "still looking"]


async def test_streamed_chunks_fold_into_artifacts(storage: Storage) -> None:
    turn = await started(storage)
    for number, chunks in enumerate(
        [
            [chunk("Per", append=False), chunk("x", "other", append=False)],
            [chunk("du"), chunk("y", "other", append=False, last=True)],
            [chunk("re", last=True)],
        ],
        start=1,
    ):
        await storage.update_task(turn.claim, number, new_artifacts=chunks)
    await settle(storage, turn, write_no=4)
    task = await load(storage, turn)
    assert [(item.artifact_id, item.text, len(item.parts)) for item in task.artifacts] == [
        ("a", "Perdure", 1),
        ("other", "y", 1),
    ]
    bodies = [event.body for event in await log(storage, turn)]
    chunks_kept = [(b.append, b.last_chunk) for b in bodies if isinstance(b, ArtifactChunk)]
    assert chunks_kept == [(False, False), (False, False), (True, False), (False, True), (True, True)]


async def test_an_artifact_keeps_all_that_it_has(storage: Storage) -> None:
    turn = await started(storage)
    whole = Artifact(
        parts=(
            TextPart("t", metadata={"lang": "de"}),
            UrlPart("https://example.com/x", filename="x"),
            DataPart({"a": [1, None]}, media_type="application/json"),
        ),
        artifact_id="a",
        name="report",
        description="of the day",
        metadata={"k": {"v": 1}},
        extensions=("urn:x",),
    )
    await settle(storage, turn, new_artifacts=[whole])
    assert (await load(storage, turn)).artifacts == (whole,)


@pytest.mark.parametrize("state", [TaskState.COMPLETED, *INTERRUPTIONS])
async def test_unread_messages_bring_a_turn_that_goes_well_back(storage: Storage, state: TaskState) -> None:
    turn = await started(storage)
    second = await submit(storage, "second")
    await storage.continue_task(ME, id_of(turn), says("and this"))
    written = await settle(
        storage, turn, state, new_artifacts=[artifact("done so far")], status_message=answers("so far")
    )
    assert written.state is TaskState.SUBMITTED
    assert [ring.task_id for ring in written.rings] == [id_of(turn)]
    assert told(await log(storage, turn))[-2:] == ["done so far", "<submitted>"]
    again = await claim(storage)
    assert id_of(again) == id_of(turn)
    assert texts(again.conversation) == ["hello", "and this", "done so far", "so far"]
    assert texts(again.task.artifacts) == ["done so far"]
    (ring,) = (await settle(storage, again, state)).rings
    assert ring.task_id == id_of(second)
    assert (await load(storage, turn)).state is state


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.CANCELED])
async def test_unread_messages_do_not_revive_a_turn_that_goes_wrong(
    storage: Storage, state: TaskState
) -> None:
    turn = await started(storage)
    await storage.continue_task(ME, id_of(turn), says("and this"))
    written = await settle(storage, turn, state)
    assert (written.state, list(written.rings)) == (state, [])
    assert texts((await load(storage, turn)).history) == ["hello", "and this"]
    assert await idle(storage)


async def test_messages_that_a_turn_says_itself_are_not_unread(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_messages=[answers("thinking")])
    assert (await settle(storage, turn, write_no=2)).state is TaskState.COMPLETED


async def test_a_message_before_the_second_claim_is_not_unread(storage: Storage) -> None:
    turn = await started(storage)
    await storage.continue_task(ME, id_of(turn), says("and this"))
    await storage.release_task(turn.claim, reason="deploy")
    again = await claim(storage)
    assert texts(again.conversation) == ["hello", "and this"]
    assert (await settle(storage, again)).state is TaskState.COMPLETED


async def test_a_write_that_comes_again_is_one_write(storage: Storage) -> None:
    turn = await started(storage)
    for _ in range(3):
        written = await storage.update_task(turn.claim, 1, new_messages=[answers("once", "m")])
        assert (written.state, written.seq) == (TaskState.WORKING, 3)
    await storage.update_task(turn.claim, 2, new_messages=[answers("twice")])
    assert told(await log(storage, turn)) == ["hello", "<working>", "once", "twice"]


@pytest.mark.parametrize("state", [*ENDS, *INTERRUPTIONS])
async def test_a_settle_that_comes_again_is_one_settle(storage: Storage, state: TaskState) -> None:
    turn = await started(storage)
    for _ in range(2):
        written = await settle(storage, turn, state, new_messages=[answers("once", "m")])
        assert (written.state, written.seq) == (state, 4)
    assert told(await log(storage, turn)) == ["hello", "<working>", "once", f"<{state}>"]


async def test_write_numbers_begin_anew_with_each_attempt(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_messages=[answers("lost")])
    await storage.release_task(turn.claim, reason="deploy")
    again = await claim(storage)
    await storage.update_task(again.claim, 1, new_messages=[answers("kept")])
    assert texts((await load(storage, turn)).history) == ["hello", "kept"]


Act = Callable[[Storage, Clock, ClaimedTurn], Awaitable[ClaimedTurn]]


async def _released(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await storage.release_task(turn.claim, reason="deploy")
    return turn


async def _rescued(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await clock.expire_lease(id_of(turn))
    await storage.rescue_tasks(grace=0.0, max_crashes=3)
    return turn


async def _rescued_for_good(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await clock.expire_lease(id_of(turn))
    await storage.rescue_tasks(grace=0.0, max_crashes=1)
    return turn


async def _claimed_by_another(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await _released(storage, clock, turn)
    await claim(storage)
    return turn


async def _settled(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await settle(storage, turn, write_no=2)
    return turn


async def _forged_token(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    return replace(turn, claim=replace(turn.claim, token=new_token()))


async def _future_attempt(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    return replace(turn, claim=replace(turn.claim, attempt=turn.claim.attempt + 1))


async def _canceled(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await storage.cancel_task(ME, id_of(turn))
    return turn


async def _cleared(storage: Storage, clock: Clock, turn: ClaimedTurn) -> ClaimedTurn:
    await storage.clear_context(ME, "talk")
    return turn


@pytest.mark.parametrize("state", [None, TaskState.COMPLETED])
@pytest.mark.parametrize(
    "happens",
    [
        _released,
        _rescued,
        _rescued_for_good,
        _claimed_by_another,
        _settled,
        _forged_token,
        _future_attempt,
        _canceled,
        _cleared,
    ],
)
async def test_a_stale_claim_writes_nothing(
    storage: Storage, clock: Clock, happens: Act, state: TaskState | None
) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_messages=[answers("in time")])
    stale = await happens(storage, clock, turn)
    before = await log(storage, turn)
    with pytest.raises(LeaseLost) as lost:
        await storage.update_task(
            stale.claim,
            7,
            state=state,
            new_messages=[answers("late")],
            new_artifacts=[artifact("late")],
            metadata={"late": True},
        )
    assert lost.value.canceled is (happens is _canceled)
    assert await log(storage, turn) == before
    if happens is not _cleared:
        assert "late" not in (await load(storage, turn)).metadata


async def test_a_lapsed_lease_that_nobody_took_is_still_a_lease(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await clock.expire_lease(id_of(turn))
    assert (await settle(storage, turn)).state is TaskState.COMPLETED


async def test_a_turn_cannot_make_its_task_submitted(storage: Storage) -> None:
    turn = await started(storage)
    with pytest.raises(ValueError, match="submitted"):
        await storage.update_task(turn.claim, 1, state=TaskState.SUBMITTED)
    assert numbers(await log(storage, turn)) == [1, 2]
