"""Telling of tasks: how a Task, a Message and an update of a stream are written in A2A's JSON, a module for each version.

Both who answers (`api.wire`, which adds what only answers have) and who delivers to webhooks (`worker.push`) say it so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from perdure.tasks import ArtifactChunk, StatusChange

Json = dict[str, Any]


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
    return time.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"


def given(**members: Any) -> Json:
    """The members that say something: no empty text, list or object."""
    return {name: value for name, value in members.items() if value}
