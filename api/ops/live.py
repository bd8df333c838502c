"""Server-sent events that say "look again": at once when the task changes that is looked at, else when the figures changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import UUID

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from perdure.ids import parse_task_id

from ..auth import Caller
from .desk import LOOK_EVERY, Desk

AGES_EVERY = 5.0
"""Seconds after which a page is made anew though nothing changed: "12 s ago" must not stand still."""
_NOBODY = UUID(int=0)


async def changes(desk: Desk, request: Request, caller: Caller) -> Response:
    """`event: changed` whenever the page should be fetched again; with `task`, when that one changed."""
    task_id = parse_task_id(request.query_params.get("task", ""))
    return EventSourceResponse(_changes(desk, task_id), ping=15, sep="\n")


async def _changes(desk: Desk, task_id: UUID | None) -> AsyncIterator[ServerSentEvent]:
    seen, seq, told = await desk.counts(), -1, time.monotonic()
    with desk.watch.waiter(task_id or _NOBODY) as waiter:
        while not waiter.dismissed:
            news = False
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_EVERY):
                    seq, news = (await waiter.beyond(seq)).seq, True
            now, counts = time.monotonic(), await desk.counts()
            if news or counts != seen or now - told >= AGES_EVERY:
                seen, told = counts, now
                yield ServerSentEvent(event="changed", data="1", sep="\n")
