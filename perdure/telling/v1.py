"""A2A 1.0: the member's name discriminates, full enum names."""

from __future__ import annotations

from perdure.notes import NOTES, without_notes
from perdure.stored.kept import stored
from perdure.stored.payload import STATE_NAMES, dump_artifact, dump_body, dump_message
from perdure.tasks import Message, StatusChange, Task

from . import Json, Update, given, timestamp, told_task


def message(said: Message) -> Json:
    """A Message."""
    return _as_callers_see_it(dump_message(said))


def _as_callers_see_it(message: Json) -> Json:
    metadata = message.get("metadata")
    if not metadata or NOTES.isdisjoint(metadata):
        return message
    rest = {name: value for name, value in message.items() if name != "metadata"}
    return {**rest, **given(metadata=without_notes(metadata))}


def task(found: Task) -> Json:
    """A Task."""
    return told_task(
        found,
        STATE_NAMES[found.state],
        said=message(found.status_message) if found.status_message else None,
        history=[_as_callers_see_it(each) for each in stored(found.history, dump_message)],
        artifacts=stored(found.artifacts, dump_artifact),
    )


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
