"""A2A 0.3: `kind` on everything, states and roles in lower case."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping

from perdure.notes import without_notes
from perdure.stored.payload import dump_artifact
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    Part,
    RawPart,
    StatusChange,
    Task,
    TextPart,
)

from . import Json, Update, given, told_status, told_task

WRAPPED = "data_part_compat"
"""The mark, in a part's metadata, by which the official SDK knows a value that 0.3 cannot spell and that is wrapped."""


def message(said: Message) -> Json:
    """A Message."""
    return {
        "kind": "message",
        "messageId": said.message_id,
        "role": said.role.value,
        "parts": [_part(part) for part in said.parts],
        **given(
            contextId=said.context_id,
            taskId=said.task_id,
            metadata=without_notes(said.metadata),
            extensions=list(said.extensions),
            referenceTaskIds=list(said.reference_task_ids),
        ),
    }


def _part(part: Part) -> Json:
    metadata = dict(part.metadata)
    if isinstance(part, TextPart):
        return {"kind": "text", "text": part.text, **given(metadata=metadata)}
    if isinstance(part, DataPart):
        if isinstance(part.data, Mapping):
            return {"kind": "data", "data": dict(part.data), **given(metadata=metadata)}
        return {"kind": "data", "data": {"value": part.data}, "metadata": {**metadata, WRAPPED: True}}
    content = {"bytes": b64encode(part.raw).decode()} if isinstance(part, RawPart) else {"uri": part.url}
    file = {**content, **given(name=part.filename, mimeType=part.media_type)}
    return {"kind": "file", "file": file, **given(metadata=metadata)}


def task(found: Task) -> Json:
    """A Task."""
    told = told_task(
        found,
        found.state.value,
        said=message(found.status_message) if found.status_message else None,
        history=[message(each) for each in found.history],
        artifacts=[_artifact(each) for each in found.artifacts],
    )
    return {"kind": "task", **told}


def _artifact(artifact: Artifact) -> Json:
    return dump_artifact(artifact, _part)


def sent(answer: Task | Message) -> Json:
    """A bare Task or Message."""
    return message(answer) if isinstance(answer, Message) else task(answer)


def update(item: Task | Update | Message) -> Json:
    """A bare Task, Message, TaskStatusUpdateEvent or TaskArtifactUpdateEvent."""
    if not isinstance(item, Update):
        return sent(item)
    ids = {"taskId": str(item.task_id), "contextId": item.context_id}
    if isinstance(item.body, ArtifactChunk):
        chunk = item.body
        return {
            "kind": "artifact-update",
            **ids,
            "artifact": _artifact(chunk.artifact),
            "append": chunk.append,
            "lastChunk": chunk.last_chunk,
        }
    return {"kind": "status-update", **ids, **_status_change(item.body, item)}


def _status_change(change: StatusChange, item: Update) -> Json:
    said = message(change.message) if change.message else None
    status = told_status(change.state.value, said, item.time)
    return {"status": status, "final": change.state.rests, **given(metadata=dict(change.metadata))}
