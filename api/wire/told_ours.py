"""Answers of our own operations, and of the probes."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from . import v03, v1
from .reading import Metadata
from .told_model import Told


class Feedback(Told):
    """What was stored."""

    feedback_id: str
    task_id: str
    feedback: str
    created_at: datetime
    rating: int | None = None
    metadata: Metadata | None = None


class Context(Told):
    """A conversation."""

    context_id: str
    created_at: datetime
    updated_at: datetime
    metadata: Metadata | None = None


class ContextPage(Told):
    """A page of conversations, last change first."""

    contexts: list[Context]
    next_page_token: str
    page_size: int


class WholeContext(Context):
    """A conversation with its tasks and messages, oldest first."""

    task_ids: list[str]
    messages: list[v1.MessageShape]


class WholeContext03(Context):
    """A conversation with its tasks and messages, oldest first."""

    task_ids: list[str]
    messages: list[v03.MessageShape]


class ClearedContext(Told):
    """What was deleted."""

    context_id: str
    tasks_deleted: int


class Health(Told):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Told):
    """Whether messages are accepted and worked on, and if not, why."""

    status: Literal["ready", "degraded", "unavailable"]
    reasons: list[str]
