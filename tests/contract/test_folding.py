"""Folding: whatever was streamed reads the same afterwards, from the beginning and from any place in the middle."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from perdure.ids import new_task_id
from perdure.storage import ClaimedTurn, Storage
from perdure.storage.folding import FOLDED_BYTES, folded
from perdure.storage.views import task_artifacts
from perdure.tasks import Artifact, ArtifactChunk, DataPart, Event, TaskState, TextPart, fold_chunks
from tests.support.stories import ME, answers, chunk, claim, id_of, load, log, settle, started, submit, texts

WORDS = ["one ", "two ", "three ", "four "]


async def streamed(storage: Storage, *, end: bool = True) -> ClaimedTurn:
    """A task that said its answer in pieces, with progress and another artifact between."""
    turn = await started(storage)
    for number, word in enumerate(WORDS, start=1):
        await storage.update_task(turn.claim, number, new_artifacts=[chunk(word, append=number > 1)])
    await storage.update_task(turn.claim, 5, status_metadata={"progress": 0.5})
    await storage.update_task(turn.claim, 6, new_artifacts=[chunk("five "), chunk("six "), chunk("b", "b")])
    if end:
        last = [chunk("seven"), chunk("", last=True)]
        await storage.update_task(turn.claim, 7, state=TaskState.COMPLETED, new_artifacts=last)
    return turn


def seen(events: Sequence[Event], begun: Sequence[ArtifactChunk] = ()) -> tuple[Artifact, ...]:
    """What a client has of the artifacts that had `begun` when these events came."""
    return fold_chunks([*begun, *(event.body for event in events if isinstance(event.body, ArtifactChunk))])


async def test_what_was_streamed_is_folded_and_reads_the_same(storage: Storage) -> None:
    turn = await streamed(storage)
    before, task = await log(storage, turn), await load(storage, turn)
    assert await storage.fold_tasks(ended_for=0) == 1
    after = await log(storage, turn)
    ranges = [(event.first_seq, event.seq) for event in after if isinstance(event.body, ArtifactChunk)]
    assert ranges == [(3, 6), (8, 9), (10, 10), (11, 12)]
    assert [event.body for event in after if event.seq == 6] == [
        ArtifactChunk(chunk("one two three four ").artifact, append=False, last_chunk=False)
    ]
    assert await load(storage, turn) == task
    assert texts(task.artifacts) == ["one two three four five six seven", "b"]
    others = [event for event in before if not isinstance(event.body, ArtifactChunk)]
    assert [event for event in after if not isinstance(event.body, ArtifactChunk)] == others


async def test_the_ranges_have_no_gaps(storage: Storage) -> None:
    turn = await streamed(storage)
    await storage.fold_tasks(ended_for=0)
    expected = 1
    for event in await log(storage, turn):
        assert event.first_seq == expected
        assert event.seq >= event.first_seq
        expected = event.seq + 1
    assert expected == (await load(storage, turn)).last_seq + 1


async def test_a_stream_is_resumed_from_every_place(storage: Storage) -> None:
    """Whoever has the first n events, unfolded, ends with exactly what the handler said."""
    turn = await streamed(storage)
    before = await log(storage, turn)
    expected = seen(before)
    await storage.fold_tasks(ended_for=0)
    for place in range(len(before) + 1):
        begun = [event.body for event in before[:place] if isinstance(event.body, ArtifactChunk)]
        rest = await storage.events_since(ME, id_of(turn), place)
        assert seen(rest, begun) == expected, place
        assert all(event.seq > place for event in rest)
    inside = (await storage.events_since(ME, id_of(turn), 8, limit=1))[0]
    assert (inside.first_seq, inside.seq) == (8, 9)
    assert inside.body == ArtifactChunk(
        chunk("one two three four five six ").artifact, append=False, last_chunk=False
    )


async def test_a_log_is_read_in_pages_across_folded_events(storage: Storage) -> None:
    turn = await streamed(storage)
    await storage.fold_tasks(ended_for=0)
    whole, place = await log(storage, turn), 0
    paged: list[Event] = []
    while page := await storage.events_since(ME, id_of(turn), place, limit=2):
        paged += page
        place = page[-1].seq
    assert paged == whole


async def test_nothing_is_folded_while_a_task_goes_on_or_is_held(storage: Storage) -> None:
    turn = await streamed(storage, end=False)
    assert await storage.fold_tasks(ended_for=0) == 0
    canceled = await storage.cancel_task(ME, id_of(turn))
    assert canceled.task.state is TaskState.CANCELED
    assert await storage.fold_tasks(ended_for=0) == 0  # its handler has not ended yet
    await storage.release_task(turn.claim, reason="canceled")
    assert await storage.fold_tasks(ended_for=3600) == 0
    assert await storage.fold_tasks(ended_for=0) == 1
    assert len(await log(storage, turn)) == 7


async def test_each_task_is_looked_at_once_and_others_never(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, status_metadata={"progress": 0.5}, new_messages=[answers("a")])
    await settle(storage, turn, write_no=2, new_artifacts=[chunk("a", append=False), chunk("b")])
    assert await storage.fold_tasks(ended_for=0) == 0
    for _ in range(3):
        await streamed(storage)
    assert await storage.fold_tasks(ended_for=0, limit=2) == 2
    assert await storage.fold_tasks(ended_for=0, limit=2) == 1
    assert await storage.fold_tasks(ended_for=0) == 0


async def test_two_sweeps_fold_each_task_once(storage: Storage) -> None:
    turns = [await streamed(storage) for _ in range(4)]
    found = await asyncio.gather(*(storage.fold_tasks(ended_for=0) for _ in range(3)))
    assert sum(found) == 4
    for turn in turns:
        assert texts((await load(storage, turn)).artifacts) == ["one two three four five six seven", "b"]


async def test_what_a_lost_attempt_streamed_stays_apart(storage: Storage) -> None:
    turn = await started(storage)
    for number in (1, 2):
        await storage.update_task(turn.claim, number, new_artifacts=[chunk("lost ", append=number > 1)])
    await storage.release_task(turn.claim, reason="deploy")
    again = await claim(storage)
    for number in (1, 2):
        await storage.update_task(again.claim, number, new_artifacts=[chunk("kept ", append=number > 1)])
    await storage.update_task(again.claim, 3, state=TaskState.COMPLETED)
    before = await log(storage, again)
    assert await storage.fold_tasks(ended_for=0) == 1
    after = await log(storage, again)
    pieces = [event for event in after if isinstance(event.body, ArtifactChunk)]
    assert [(event.attempt, event.first_seq, event.seq) for event in pieces] == [(1, 3, 4), (2, 7, 8)]
    assert texts((await load(storage, again)).artifacts) == ["kept kept "]
    for place in range(len(before) + 1):
        begun = [event.body for event in before[:place] if isinstance(event.body, ArtifactChunk)]
        assert texts(seen(await storage.events_since(ME, id_of(again), place), begun)) == ["kept kept "]


async def test_a_conversation_is_the_same(storage: Storage) -> None:
    await streamed(storage)
    before = await storage.load_context(ME, "talk", history_length=None)
    await storage.fold_tasks(ended_for=0)
    assert (await storage.load_context(ME, "talk", history_length=None)).messages == before.messages
    await submit(storage, "and then?")
    heard = (await claim(storage)).conversation
    assert texts(heard) == ["hello", "one two three four five six seven", "b", "and then?"]


async def test_a_long_answer_is_folded_into_pieces_of_bounded_size(storage: Storage) -> None:
    turn = await started(storage)
    half = "x" * (FOLDED_BYTES // 2)
    for number in range(1, 9):
        text = half if number % 2 else "y"
        await storage.update_task(turn.claim, number, new_artifacts=[chunk(text, append=number > 1)])
    await settle(storage, turn, write_no=9)
    task = await load(storage, turn)
    await storage.fold_tasks(ended_for=0)
    pieces = [event.body for event in await log(storage, turn) if isinstance(event.body, ArtifactChunk)]
    assert 1 < len(pieces) < 8
    assert all(len(piece.artifact.text) <= FOLDED_BYTES for piece in pieces)
    assert [piece.append for piece in pieces] == [False, *[True] * (len(pieces) - 1)]
    assert await load(storage, turn) == task


async def test_a_piece_that_replaces_is_still_one_when_it_is_folded(storage: Storage) -> None:
    """Also if the range begins with what was added to what is replaced."""
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_artifacts=[chunk("gone ", append=False)])
    await storage.update_task(turn.claim, 2, status_metadata={"progress": 0.5})
    await storage.update_task(turn.claim, 3, new_artifacts=[chunk("too "), chunk("new ", append=False)])
    await settle(storage, turn, write_no=4, new_artifacts=[chunk("end")])
    await storage.fold_tasks(ended_for=0)
    pieces = [event.body for event in await log(storage, turn) if isinstance(event.body, ArtifactChunk)]
    assert [(piece.artifact.text, piece.append) for piece in pieces] == [("gone ", False), ("new end", False)]
    assert texts((await load(storage, turn)).artifacts) == ["new end"]


# ---------------------------------------------------------------------- any log

NOW = datetime(2026, 1, 1, tzinfo=UTC)

parts = st.sampled_from([TextPart("a"), TextPart("b"), DataPart(1), TextPart("c", metadata={"m": 1})])
artifacts = st.builds(
    Artifact,
    artifact_id=st.sampled_from(["a", "b"]),
    parts=st.lists(parts, min_size=1, max_size=2).map(tuple),
    name=st.sampled_from(["", "n"]),
    metadata=st.sampled_from([{}, {"x": 1}, {"x": 2, "y": 3}]),
)
chunks = st.builds(ArtifactChunk, artifacts, st.booleans(), st.booleans())
logs = st.lists(
    st.tuples(chunks, st.integers(1, 2), st.integers(0, 1), st.sampled_from([10, 40_000])), max_size=12
)


@given(logs)
def test_any_log_says_the_same_folded(entries: list[tuple[ArtifactChunk, int, int, int]]) -> None:
    """`entries` are chunks with their attempt, the number of other events before them, and their size."""
    task_id, seq, pieces = new_task_id(), 0, []
    for body, attempt, gap, size in entries:
        seq += 1 + gap
        event = Event(task_id=task_id, seq=seq, first_seq=seq, attempt=attempt, time=NOW, body=body)
        pieces.append((event, body, size))
    before = [event for event, _, _ in pieces]
    after = {event.seq: event for event in before}
    for event in folded(pieces):
        for gone in range(event.first_seq, event.seq):
            del after[gone]
        after[event.seq] = event
    for lost in ((), (1,), (2,)):
        assert task_artifacts(after.values(), lost) == task_artifacts(before, lost)
