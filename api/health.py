"""`/healthz`: the process answers. `/readyz`: it can serve; what is missing beside that is said, but takes no traffic away."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import orjson
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import QueueUnavailable, SchemaMismatch, StorageUnavailable
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Storage

ANSWER_WITHIN = 3.0
"""Seconds that the database may take. Requests are more patient, but whoever probes gives up after five."""
MISSED_BEATS = 3
"""A worker that missed so many signs of life is not counted."""


async def healthz(request: Request) -> Response:
    """Always 200."""
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(
    storage: Storage, queue: Queue, settings: Settings, agents: Sequence[str], request: Request
) -> Response:
    """503 only without the database or its schema; without Redis or workers messages are accepted and wait: 200, degraded."""
    try:
        async with asyncio.timeout(ANSWER_WITHIN):
            await storage.check()
        reasons = await _missing(storage, queue, settings, agents)
    except SchemaMismatch as error:
        return _status("unavailable", [str(error)])
    except (StorageUnavailable, TimeoutError):
        return _status("unavailable", ["the task store cannot be reached"])
    return _status("degraded" if reasons else "ready", reasons)


async def _missing(storage: Storage, queue: Queue, settings: Settings, agents: Sequence[str]) -> list[str]:
    reasons = []
    try:
        await queue.check()
    except QueueUnavailable:
        reasons.append("the queue cannot be reached: new tasks start at the next sweep")
    if queue.shared:
        within = settings.worker.beat_interval * MISSED_BEATS
        if not await storage.workers_alive(within):
            reasons.append("no worker is alive: tasks are accepted and wait")
        else:
            idle = [name for name in agents if not await storage.workers_alive(within, agent=name)]
            reasons += [
                f"no worker of the agent {name} is alive: its tasks are accepted and wait" for name in idle
            ]
    return reasons


def _status(status: str, reasons: list[str]) -> Response:
    body = orjson.dumps({"status": status, "reasons": reasons})
    return Response(body, 503 if status == "unavailable" else 200, media_type="application/json")
