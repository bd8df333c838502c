"""Conversations, and what callers thought of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from perdure.storage.pages import Cursor
from perdure.tasks import Message


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """A conversation: what was said in its tasks, as `ClaimedTurn.conversation` has it, and the messages appended to it, oldest
    first (listed: no messages and no task ids). `updated_at` is when a caller last added to it: a task, a message, metadata."""

    context_id: str
    owner: str
    metadata: Mapping[str, Any]
    created_at: datetime
    updated_at: datetime
    task_ids: Sequence[UUID] = ()
    messages: Sequence[Message] = ()


@dataclass(frozen=True, slots=True)
class ContextPage:
    """Contexts by their last change, newest first."""

    contexts: Sequence[Context]
    next: Cursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """What a caller thought of a task. `rating` is 1 to 5 or None."""

    feedback_id: UUID
    task_id: UUID
    text: str
    rating: int | None
    metadata: Mapping[str, Any]
    created_at: datetime
