"""A handler that was told to stop and goes on: its turn is over, it is not."""

from __future__ import annotations

import asyncio
from typing import Any

import structlog

from perdure.turns.stuck import leave_behind, left_behind, stack_of, thread_of

from .worker import Worker

log = structlog.get_logger(__name__)


def leave(worker: Worker, handler: asyncio.Task[Any], *, seconds: float) -> None:
    """Wait for it no longer than these `seconds`: it is fenced, and its slot is free. With too many of them the process ends in
    good order, since its memory, threads and connections are not its own any more."""
    stuck, bound = leave_behind(handler), worker.settings.worker.max_stuck
    log.error("turn.stuck", seconds=round(seconds, 1), stuck=stuck, bound=bound, stack=stack_of(handler))
    if stuck == bound:
        log.error(
            "worker.too_many_stuck",
            bound=bound,
            stacks={each.get_name(): stack_of(each) for each in left_behind},
        )
        worker.end()
    if not thread_of(handler):
        handler.cancel()  # it may have swallowed the first one by mistake
