"""States and the folding of chunks."""

from __future__ import annotations

import pytest

from perdure.tasks import (
    TRANSITIONS,
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    RawPart,
    TaskState,
    TextPart,
    UrlPart,
    fold_chunks,
)
from tests.support.stories import ENDS, INTERRUPTIONS, artifact, chunk


def test_every_state_has_its_transitions() -> None:
    assert set(TRANSITIONS) == set(TaskState)


@pytest.mark.parametrize("state", TaskState)
def test_what_a_state_is(state: TaskState) -> None:
    assert state.terminal is (state in ENDS)
    assert state.interrupted is (state in INTERRUPTIONS)
    assert state.rests is (state in (*ENDS, *INTERRUPTIONS))


@pytest.mark.parametrize("state", ENDS)
def test_nothing_follows_an_end(state: TaskState) -> None:
    assert TRANSITIONS[state] == frozenset()


@pytest.mark.parametrize("state", sorted(set(TaskState) - set(ENDS)))
def test_whatever_has_not_ended_can_be_canceled_and_no_state_follows_itself(state: TaskState) -> None:
    assert TaskState.CANCELED in TRANSITIONS[state]
    assert state not in TRANSITIONS[state]


def test_every_end_can_be_reached_from_the_beginning() -> None:
    reached, todo = set[TaskState](), [TaskState.SUBMITTED]
    while todo:
        state = todo.pop()
        if state not in reached:
            reached.add(state)
            todo.extend(TRANSITIONS[state])
    assert reached == set(TaskState)


def test_chunks_fold_in_the_order_of_their_first() -> None:
    folded = fold_chunks(
        [chunk("a", "x", append=False), chunk("1", "y", append=False), chunk("b", "x"), chunk("2", "y")]
    )
    assert [(item.artifact_id, item.parts) for item in folded] == [
        ("x", (TextPart("ab"),)),
        ("y", (TextPart("12"),)),
    ]


def test_a_chunk_that_does_not_append_replaces() -> None:
    folded = fold_chunks([chunk("draft", append=False), chunk(" one"), chunk("final", append=False)])
    assert folded == (artifact("final"),)


def test_a_first_chunk_that_appends_begins() -> None:
    assert fold_chunks([chunk("tail")]) == (artifact("tail"),)


def test_names_and_metadata_of_later_chunks_are_merged() -> None:
    first = Artifact(parts=(TextPart("a"),), artifact_id="a", name="old", metadata={"k": 1, "l": 1})
    later = Artifact(parts=(TextPart("b"),), artifact_id="a", description="new", metadata={"k": 2})
    (folded,) = fold_chunks([ArtifactChunk(first), ArtifactChunk(later, append=True)])
    assert (folded.name, folded.description, folded.metadata) == ("old", "new", {"k": 2, "l": 1})


def test_only_neighbouring_plain_text_is_joined() -> None:
    marked = TextPart("c", metadata={"lang": "de"})
    parts = (TextPart("a"), TextPart("b"), marked, TextPart("d"), DataPart(None), TextPart("e"), TextPart(""))
    (folded,) = fold_chunks([ArtifactChunk(Artifact(parts=parts, artifact_id="a"))])
    assert folded.parts == (TextPart("ab"), marked, TextPart("d"), DataPart(None), TextPart("e"))


def test_ten_thousand_tokens_fold_into_one_part() -> None:
    (folded,) = fold_chunks([chunk("x", append=number > 0) for number in range(10_000)])
    assert folded.parts == (TextPart("x" * 10_000),)


def test_nothing_folds_to_nothing() -> None:
    assert fold_chunks([]) == ()


def test_the_text_of_messages_and_artifacts() -> None:
    parts = (TextPart("a"), RawPart(b"x"), UrlPart("https://x"), TextPart("b"))
    assert Message(parts=parts).text == "a\nb"
    assert Artifact(parts=parts).text == "ab"
