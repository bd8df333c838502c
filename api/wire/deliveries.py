"""Our own operations on deliveries to webhooks: what they ask, and what they answer."""

from __future__ import annotations

from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from perdure.errors import InvalidParams, TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage import Cursor
from perdure.storage.webhooks import (
    Delivery,
    DeliveryAttempt,
    DeliveryCursor,
    DeliveryPage,
    DeliveryQuery,
    DeliveryState,
)
from perdure.telling import Json, given, timestamp
from perdure.telling.failures import failure_for_caller

from .reading import GivenId, Id, Moment, PageSize, Shape, read_token
from .writing import write_token

State = Literal["waiting", "delivered", "failed"]


class ListDeliveries(Shape):
    """`webhooks/deliveries`."""

    task_id: Id | None = None
    config_id: Id | None = None
    state: State | None = None
    since: Moment | None = None
    until: Moment | None = None
    page_size: PageSize | None = None
    page_token: Annotated[str, Field(max_length=1024)] | None = None

    def cursor(self) -> DeliveryCursor | None:
        """The place after the page before."""
        cursor = read_token(self.page_token)
        if cursor is None:
            return None
        try:
            return DeliveryCursor(cursor.time, UUID(cursor.key))
        except ValueError:
            raise InvalidParams("pageToken", "is not a token that this server gave out") from None


class NameDelivery(Shape):
    """`webhooks/attempts`."""

    delivery_id: GivenId


class ReplayDeliveries(Shape):
    """`webhooks/replay`: one, or those of a task."""

    delivery_id: Id | None = None
    task_id: Id | None = None
    config_id: Id | None = None
    state: State | None = None
    since: Moment | None = None
    until: Moment | None = None


class NameCallback(Shape):
    """`webhooks/enable`."""

    task_id: GivenId
    config_id: GivenId


def query(owner: str, asked: ListDeliveries | ReplayDeliveries) -> DeliveryQuery:
    """What to ask the storage for. An id that cannot be one of ours names nothing of the caller's."""
    delivery_id = asked.delivery_id if isinstance(asked, ReplayDeliveries) else None
    return DeliveryQuery(
        owner=owner,
        task_id=_task_id(asked.task_id) if asked.task_id else None,
        config_id=asked.config_id or None,
        delivery_id=delivery_uuid(delivery_id) if delivery_id else None,
        state=DeliveryState(asked.state) if asked.state else None,
        since=asked.since,
        until=asked.until,
    )


def _task_id(text: str) -> UUID:
    found = parse_task_id(text)
    if found is None:
        raise TaskNotFound(text)
    return found


def delivery_uuid(text: str) -> UUID:
    """The id of a delivery: the `webhook-id` of its requests."""
    try:
        return UUID(text)
    except ValueError:
        raise InvalidParams("deliveryId", "must be a webhook-id that this server sent") from None


def page(found: DeliveryPage) -> Json:
    """The result of `webhooks/deliveries`."""
    after = found.next
    token = write_token(Cursor(after.time, str(after.delivery_id)) if after else None)
    return {
        "deliveries": [_delivery(delivery) for delivery in found.deliveries],
        "nextPageToken": token,
        "pageSize": len(found.deliveries),
    }


def _delivery(found: Delivery) -> Json:
    return {
        "deliveryId": str(found.delivery_id),
        "taskId": str(found.task_id),
        "configId": found.config_id,
        "event": found.seq,
        "kind": found.kind,
        "state": found.state.value,
        "attempts": found.attempts,
        "createdAt": timestamp(found.created_at),
        **given(
            dueAt=timestamp(found.due_at) if found.due_at else None,
            deliveredAt=timestamp(found.delivered_at) if found.delivered_at else None,
            disabled=found.disabled,
            lastAttempt=_attempt(found.last) if found.last else None,
        ),
    }


def attempts(found: list[DeliveryAttempt]) -> Json:
    """The result of `webhooks/attempts`: oldest first."""
    return {"attempts": [_attempt(attempt) for attempt in found]}


def _attempt(found: DeliveryAttempt) -> Json:
    """Without an answer neither why nor how long in detail: both say what stands inside of the network."""
    return {
        "attempt": found.attempt,
        "startedAt": timestamp(found.started_at),
        "seconds": round(found.seconds, 3 if found.status else 0),
        **given(status=found.status, error=failure_for_caller(found.error), answer=found.answer),
    }
