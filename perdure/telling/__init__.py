"""Telling of tasks: how a Task, a Message and an update of a stream are written in A2A's JSON, a module for each version.

Both who answers (`api.wire`, which adds what only answers have) and who delivers to webhooks (`worker.push`) say it so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from perdure.stored.payload import Json, given
from perdure.tasks import ArtifactChunk, StatusChange, Task

__all__ = ["Json", "Update", "given", "timestamp", "told_status", "told_task"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a stream says after its task: `seq` is the number of the event, from which the stream can be resumed."""

    task_id: UUID
    context_id: str
    seq: int
    time: datetime
    body: StatusChange | ArtifactChunk


def timestamp(time: datetime) -> str:
    """UTC, milliseconds, Z (A2A 1.0, section 5.6.1)."""
    utc = time if time.tzinfo is UTC else time.astimezone(UTC)
    return utc.isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def told_status(state: str, said: Json | None, time: datetime) -> Json:
    """A TaskStatus."""
    return {"state": state, **({} if said is None else {"message": said}), "timestamp": timestamp(time)}


def told_task(
    found: Task, state: str, said: Json | None, history: Sequence[Json], artifacts: Sequence[Json]
) -> Json:
    """A Task, in the words of a version: what it calls the state, and how it tells messages and artifacts."""
    return {
        "id": str(found.task_id),
        "contextId": found.context_id,
        "status": told_status(state, said, found.status_timestamp),
        **given(artifacts=artifacts, history=history, metadata=dict(found.metadata)),
    }
