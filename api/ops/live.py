"""Server-sent events that say "look again": at once when the task changes that is looked at, else when the figures changed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import nullcontext
from uuid import UUID

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request
from starlette.responses import Response

from perdure.ids import parse_task_id

from ..auth import Caller
from .desk import LOOK_EVERY, Desk

AGES_EVERY = 5.0
"""Seconds after which a page is made anew though nothing changed: "12 s ago" must not stand still."""


async def changes(desk: Desk, request: Request, caller: Caller) -> Response:
    """`event: changed` whenever the page should be fetched again; with `task`, when that one changed."""
    task_id = parse_task_id(request.query_params.get("task", ""))
    return EventSourceResponse(changed(desk, task_id), ping=15, sep="\n")


async def changed(desk: Desk, task_id: UUID | None) -> AsyncIterator[ServerSentEvent]:
    """Until the server stops: a browser then comes back by itself, and nothing is lost that it would have to resume."""
    news = asyncio.Event()
    seen, told = await desk.standing(), time.monotonic()
    with desk.watch.follow(task_id, lambda _: news.set()) if task_id else nullcontext():
        while not desk.leaving.is_set():
            await _either(news, desk.leaving)
            standing, now = await desk.standing(), time.monotonic()
            if desk.leaving.is_set():
                return
            if news.is_set() or standing != seen or now - told >= AGES_EVERY:
                news.clear()
                seen, told = standing, now
                yield ServerSentEvent(event="changed", data="1", sep="\n")


async def _either(*events: asyncio.Event) -> None:
    """Wait for one of them, at most until it is time to look at the figures."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=LOOK_EVERY, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
