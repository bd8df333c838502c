"""The functions that arq calls."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import structlog
from redis.exceptions import RedisError

from perdure.queue.arq import queue_key

from .slots import Slots

log = structlog.get_logger(__name__)


async def run_task(ctx: dict[str, Any], task_id: str, dispatch: int) -> None:
    """The bell rang: run one turn, of whichever task is due longest. Ends in good order whatever happens, since an exception
    or a cancellation would make arq keep or repeat the job."""
    slots: Slots = ctx["slots"]
    with suppress(asyncio.CancelledError):  # SIGTERM after the grace: on_shutdown releases the turn
        await asyncio.gather(_leave_the_queue(ctx), slots.run_one())


async def deliver_push(ctx: dict[str, Any]) -> None:
    """The bell rang for deliveries: look for those that are due. They are sent beside the turns, and take no slot."""
    slots: Slots = ctx["slots"]
    slots.worker.deliver()


async def _leave_the_queue(ctx: dict[str, Any]) -> None:
    """Ids of running jobs stay at the head of arq's set, and a poll reads only its first hundred: with a hundred turns running
    anywhere nobody would find the next one."""
    queue = queue_key(ctx["slots"].worker.settings.queue_name)
    try:
        await ctx["redis"].zrem(queue, ctx["job_id"])
    except (RedisError, OSError) as error:
        log.warning("ring.not_removed", job=ctx["job_id"], error=str(error))
