"""Which scope an operation needs. An operation that does not stand here cannot be called."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from . import deliveries
from . import operations as run
from .auth import READ, WRITE, Caller

NEEDED: Mapping[Callable[..., Any], str] = {
    run.send_message: WRITE,
    run.stream_message: WRITE,
    run.cancel_task: WRITE,
    run.give_feedback: WRITE,
    run.clear_context: WRITE,
    run.save_callback: WRITE,
    run.delete_callback: WRITE,
    run.get_task: READ,
    run.list_tasks: READ,
    run.subscribe: READ,
    run.list_contexts: READ,
    run.get_context: READ,
    run.get_callback: READ,
    run.list_callbacks: READ,
    run.get_extended_card: READ,
    deliveries.list_deliveries: READ,
    deliveries.list_attempts: READ,
    deliveries.replay: WRITE,
    deliveries.enable: WRITE,
}


def allow(caller: Caller, operation: Callable[..., Any] | None) -> None:
    """`InsufficientScope` unless the caller may call the operation."""
    assert operation is not None  # noqa: S101 - a method has one that answers or one that streams
    caller.require(NEEDED[operation])
