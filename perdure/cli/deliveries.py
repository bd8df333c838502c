"""How deliveries to webhooks are shown: by `perdure webhooks`, and of one task by `perdure tasks show`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from perdure.cli.forms import iso, lasting, one_line
from perdure.owners import agent_of, caller_of

if TYPE_CHECKING:
    from perdure.storage.webhooks import Delivery, DeliveryAttempt

HEADS_OF_TASK = ("WEBHOOK", "EVENT", "STATE", "TRIES", "NEXT", "LAST")


def row_of_task(delivery: Delivery) -> tuple[str, ...]:
    """`HEADS_OF_TASK`: where it goes, the number of the event that it tells of, how it went, when it is tried next."""
    return (
        one_line(delivery.endpoint.partition(" ")[0], 60),
        str(delivery.seq),
        state_of(delivery),
        str(delivery.attempts),
        _next(delivery.due_at),
        delivery.disabled or (answer_of(delivery.last) if delivery.last else ""),
    )


def state_of(delivery: Delivery) -> str:
    """`waiting`, `delivered`, `failed`, or `disabled` where nothing is sent."""
    return "disabled" if delivery.disabled else delivery.state.value


def _next(due: datetime | None) -> str:
    if due is None:
        return ""
    left = (due - datetime.now(UTC)).total_seconds()
    return f"in {lasting(left)}" if left > 0 else "now"


def delivery_row(delivery: Delivery) -> tuple[str, ...]:
    """DELIVERY, TASK, CONFIG, STATE, TRIES, CREATED, LAST."""
    return (
        str(delivery.delivery_id),
        str(delivery.task_id),
        delivery.config_id or "WEBHOOK_URL",
        state_of(delivery),
        str(delivery.attempts),
        second(delivery.created_at),
        answer_of(delivery.last) if delivery.last else "",
    )


def answer_of(attempt: DeliveryAttempt) -> str:
    """What the receiver said, or why it said nothing, in one line."""
    text = f"{attempt.status} {attempt.answer}" if attempt.status else attempt.error
    return one_line(text)


def delivery_as_json(delivery: Delivery) -> dict[str, Any]:
    """For programs."""
    return {
        "deliveryId": str(delivery.delivery_id),
        "taskId": str(delivery.task_id),
        "configId": delivery.config_id,
        "owner": caller_of(delivery.owner),
        "agent": agent_of(delivery.owner) or None,
        "event": delivery.seq,
        "kind": delivery.kind,
        "state": delivery.state.value,
        "attempts": delivery.attempts,
        "createdAt": iso(delivery.created_at),
        "dueAt": iso(delivery.due_at),
        "deliveredAt": iso(delivery.delivered_at),
        "endpoint": delivery.endpoint,
        "disabled": delivery.disabled,
        "lastAttempt": attempt_as_json(delivery.last) if delivery.last else None,
    }


def attempt_as_json(attempt: DeliveryAttempt) -> dict[str, Any]:
    """For programs."""
    return {
        "attempt": attempt.attempt,
        "startedAt": iso(attempt.started_at),
        "seconds": round(attempt.seconds, 3),
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer,
    }


def second(time: datetime | None) -> str:
    """A time, to the second."""
    return time.strftime("%Y-%m-%d %H:%M:%S") if time else ""
