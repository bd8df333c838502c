"""Identifiers. Task ids are UUIDs of version 7 (RFC 9562): they sort by time, so that new rows go to the end of an index."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

import uuid_utils
from uuid_utils.compat import uuid4, uuid7

from perdure.errors import TaskNotFound


def new_task_id() -> UUID:
    """A fresh task id."""
    return uuid7()


def new_token() -> UUID:
    """A random id that nobody can guess: claims, workers."""
    return uuid4()


def new_context_id() -> str:
    """For a message that names no conversation."""
    return str(uuid_utils.uuid7())


def artifact_id(task_id: UUID, ordinal: int) -> str:
    """The id of a task's n-th artifact: the same again when the turn runs again, so that the rerun's output replaces the lost
    one's."""
    return _named(task_id, f"artifact:{ordinal}")


def message_id(task_id: UUID, attempt: int, ordinal: int) -> str:
    """The id of the n-th message that an attempt says."""
    return _named(task_id, f"message:{attempt}:{ordinal}")


def callback_id(task_id: UUID, key: str) -> str:
    """The id of the webhook config that came without one in a send with an idempotency key: the same when that is repeated."""
    return _named(task_id, f"callback:{key}")


def _named(task_id: UUID, name: str) -> str:
    """A UUID of version 5."""
    return str(uuid_utils.uuid5(uuid_utils.UUID(int=task_id.int), name))


def parse_task_id(text: str) -> UUID | None:
    """The id in a request, or None for what cannot be one of ours."""
    try:
        return UUID(text)
    except ValueError:
        return None


def task_id_of(text: str) -> UUID:
    """The id in a request. A text that cannot be one of ours is a task that does not exist: `TaskNotFound`."""
    found = parse_task_id(text)
    if found is None:
        raise TaskNotFound(text)
    return found


def first_id_at(time: datetime) -> UUID:
    """No task id that was made at `time` or later sorts before it."""
    milliseconds = int(time.timestamp() * 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | 2 << 62)
