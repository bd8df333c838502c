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


class Attempt(Told):
    """One attempt to deliver: the answer's status and the head of its text, or what went wrong."""

    attempt: int
    started_at: datetime
    seconds: float
    status: int | None = None
    error: str | None = None
    answer: str | None = None


class Attempts(Told):
    """All attempts of a delivery, oldest first."""

    attempts: list[Attempt]


class Delivery(Told):
    """What is to be told, or was, to a webhook: `event` is the number of the task's event, `deliveryId` the webhook-id of the
    requests, `disabled` why nothing is sent."""

    delivery_id: str
    task_id: str
    config_id: str
    event: int
    kind: Literal["status", "artifact"]
    state: Literal["waiting", "delivered", "failed"]
    attempts: int
    created_at: datetime
    due_at: datetime | None = None
    delivered_at: datetime | None = None
    disabled: str | None = None
    last_attempt: Attempt | None = None


class DeliveryPage(Told):
    """A page of deliveries, newest first."""

    deliveries: list[Delivery]
    next_page_token: str
    page_size: int


class Replayed(Told):
    """How many deliveries are sent again."""

    deliveries: int


class Health(Told):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Told):
    """Whether messages are accepted and worked on, and if not, why."""

    status: Literal["ready", "degraded", "unavailable"]
    reasons: list[str]
