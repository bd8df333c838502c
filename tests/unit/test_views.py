"""Logs as history, artifacts and conversation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

import pytest

from perdure.ids import new_task_id
from perdure.storage.views import conversation, last, task_artifacts, task_conversation, task_history
from perdure.tasks import ArtifactChunk, Event, Message, Role, StatusChange, TaskState, TextPart
from tests.support.stories import answers, chunk, says, texts

WORKING, ASKING, SUBMITTED = TaskState.WORKING, TaskState.INPUT_REQUIRED, TaskState.SUBMITTED


def log(*entries: tuple[int, Message | ArtifactChunk | StatusChange]) -> list[Event]:
    """Events with the attempts given."""
    task_id, time = new_task_id(), datetime(2025, 12, 7, tzinfo=UTC)
    return [
        Event(task_id=task_id, seq=seq, first_seq=seq, attempt=attempt, time=time, body=body)
        for seq, (attempt, body) in enumerate(entries, start=1)
    ]


TALK = log(
    (0, says("weather?")),
    (1, StatusChange(WORKING)),
    (1, chunk("lost ", append=False)),
    (1, answers("lost")),
    (0, StatusChange(SUBMITTED, metadata={"reason": "crash"})),
    (2, StatusChange(WORKING)),
    (2, answers("let me see")),
    (2, chunk("sun", "one", append=False)),
    (2, chunk("rain", "two", append=False)),
    (2, chunk("ny", "one")),
    (2, StatusChange(WORKING, answers("looking"))),
    (2, StatusChange(WORKING, metadata={"fraction": 0.5})),
    (2, StatusChange(ASKING, answers("which city?"))),
    (0, says("Bern")),
    (0, StatusChange(SUBMITTED)),
)


def test_the_history_is_what_was_said_without_the_present_status() -> None:
    asking = task_history(TALK[:13], {1}, status_seq=13)
    assert texts(asking) == ["weather?", "let me see", "looking"]
    assert texts(task_history(TALK, {1}, status_seq=15)) == [
        "weather?",
        "let me see",
        "looking",
        "which city?",
        "Bern",
    ]


def test_a_task_without_a_status_event_has_its_message() -> None:
    assert texts(task_history(TALK[:1], (), status_seq=0)) == ["weather?"]
    assert task_history([], (), status_seq=0) == []


def test_artifacts_are_folded_without_lost_attempts() -> None:
    assert [(item.artifact_id, item.text) for item in task_artifacts(TALK, {1})] == [
        ("one", "sunny"),
        ("two", "rain"),
    ]
    assert texts(task_artifacts(TALK, ())) == ["lost ", "sunny", "rain"]
    assert task_artifacts([], ()) == ()


def test_a_conversation_has_artifacts_at_their_first_chunk_and_every_status() -> None:
    said = task_conversation(TALK, {1})
    assert texts(said) == ["weather?", "let me see", "sunny", "rain", "looking", "which city?", "Bern"]
    assert said[2] == Message(role=Role.AGENT, parts=(TextPart("sunny"),), message_id="one")


def test_an_artifact_that_is_said_again_whole_stands_at_its_first_place() -> None:
    events = log(
        (1, chunk("draft", append=False)),
        (1, answers("better:")),
        (1, chunk("final", append=False, last=True)),
    )
    assert texts(task_conversation(events, ())) == ["final", "better:"]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [(None, "abcde"), (0, ""), (1, "e"), (2, "de"), (3, "cde"), (4, "bcde"), (5, "abcde"), (99, "abcde")],
)
def test_a_conversation_is_cut_at_its_beginning(limit: int | None, expected: str) -> None:
    newest_first = [[says("d"), says("e")], [], [says("c")], [says("a"), says("b")]]
    assert "".join(texts(conversation(newest_first, limit))) == expected


def test_a_conversation_is_read_only_as_far_as_it_is_wanted() -> None:
    def pieces() -> Iterator[Sequence[Message]]:
        yield [says("b"), says("c")]
        pytest.fail("nobody wants what is older")

    assert texts(conversation(pieces(), 2)) == ["b", "c"]


@pytest.mark.parametrize(("limit", "expected"), [(None, 3), (0, 0), (2, 2), (3, 3), (9, 3)])
def test_the_last_messages(limit: int | None, expected: int) -> None:
    messages = [says("a"), says("b"), says("c")]
    assert last(messages, limit) == messages[3 - expected :]
