"""A2A 1.0: the member's name discriminates, full enum names."""

from __future__ import annotations

from dataclasses import replace

from perdure.notes import without_notes
from perdure.payload import STATE_NAMES, dump_artifact, dump_body, dump_message
from perdure.tasks import Message, StatusChange, Task

from . import Json, Update, timestamp, told_task


def message(said: Message) -> Json:
    """A Message."""
    return dump_message(replace(said, metadata=without_notes(said.metadata)))


def task(found: Task) -> Json:
    """A Task."""
    return told_task(found, STATE_NAMES[found.state], message, dump_artifact)


def sent(answer: Task | Message) -> Json:
    """A SendMessageResponse."""
    return {"message": message(answer)} if isinstance(answer, Message) else {"task": task(answer)}


def update(item: Task | Update | Message) -> Json:
    """A StreamResponse."""
    if not isinstance(item, Update):
        return sent(item)
    kind, payload = dump_body(item.body)
    if isinstance(item.body, StatusChange):
        if item.body.message is not None:
            payload["status"]["message"] = message(item.body.message)
        payload["status"]["timestamp"] = timestamp(item.time)
    return {f"{kind}Update": {"taskId": str(item.task_id), "contextId": item.context_id, **payload}}
