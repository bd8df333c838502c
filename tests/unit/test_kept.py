"""What is kept as JSON and told as it is."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import orjson
import pytest

from perdure.storage.postgres.records import task_of
from perdure.stored.kept import Kept, stored
from perdure.stored.payload import dump_artifact, dump_body, dump_message, load_body, load_message
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    Message,
    Role,
    StatusChange,
    TaskState,
    TextPart,
    fold_chunks,
)
from perdure.telling import v1
from tests.support.stories import says

Body = Message | ArtifactChunk | StatusChange


def chunk(*words: str, name: str = "one", append: bool = False) -> ArtifactChunk:
    return ArtifactChunk(Artifact(artifact_id=name, parts=tuple(map(TextPart, words))), append=append)


def row(*bodies: Body) -> Mapping[str, Any]:
    """What Postgres gives for a task with this log."""
    now = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    told = [dump_body(body) for body in bodies]
    return {
        "task_id": uuid4(),
        "context_id": "c",
        "owner": "o",
        "state": "working",
        "status_message": None,
        "status_timestamp": now,
        "metadata": "{}",
        "kinds": [kind for kind, _ in told],
        "payloads": [orjson.dumps(payload).decode() for _, payload in told],
        "created_at": now,
        "updated_at": now,
        "last_seq": len(bodies),
        "attempt": 1,
        "failures": 0,
        "crashes": 0,
    }


@pytest.mark.parametrize(
    "log",
    [
        [],
        [says("hello"), StatusChange(TaskState.WORKING), chunk("a")],
        [says("hello"), StatusChange(TaskState.WORKING, says("hm")), chunk("a"), chunk("b", name="two")],
        [chunk("a"), chunk("b", append=True)],
        [chunk("a"), chunk("b")],
        [chunk("a", "b")],
        [chunk("a", append=True)],
        [chunk("a"), chunk("b", name="two"), chunk("c", name="two", append=True)],
        [chunk()],
    ],
)
def test_a_task_is_told_as_if_all_of_it_had_been_read(log: list[Body]) -> None:
    task = task_of(row(*log))
    bodies = [load_body(*dump_body(body)) for body in log]
    messages = [body.message if isinstance(body, StatusChange) else body for body in bodies]
    said = [message for message in messages if isinstance(message, Message)]
    made = fold_chunks(body for body in bodies if isinstance(body, ArtifactChunk))
    told = v1.task(task)
    assert told.get("history", []) == [dump_message(message) for message in said]
    assert told.get("artifacts", []) == [dump_artifact(artifact) for artifact in made]
    assert tuple(task.history) == tuple(said)
    assert tuple(task.artifacts) == made


def test_what_is_only_passed_on_is_not_read() -> None:
    def unread(_: Mapping[str, Any]) -> Message:
        raise AssertionError("it was read")

    json = dump_message(says("hello"))
    kept = Kept((json,), unread)
    assert len(kept) == 1
    assert stored(kept, dump_message) == (json,)


def test_it_is_the_tuple_of_what_it_holds() -> None:
    said = (says("hello"), says("again"))
    kept = Kept([dump_message(message) for message in said], load_message)
    assert kept == said
    assert said == kept
    assert kept == Kept([dump_message(message) for message in said], load_message)
    assert kept[0] is kept[0]
    assert kept[1:] == said[1:]
    assert list(kept) == list(said)
    assert repr(kept) == repr(said)


def test_callers_do_not_see_what_the_front_door_noted() -> None:
    """Nor does what is kept change by being told."""
    noted = Message(
        message_id="m",
        role=Role.USER,
        parts=(TextPart("hello"),),
        metadata={"perdure.tenant": "x", "mine": 1},
    )
    only_noted = Message(message_id="n", parts=(TextPart("hello"),), metadata={"perdure.reply": True})
    task = task_of(row(noted, only_noted))
    first, second = v1.task(task)["history"]
    assert first["metadata"] == {"mine": 1}
    assert "metadata" not in second
    assert task.history[0].metadata == noted.metadata
