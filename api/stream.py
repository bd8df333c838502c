"""Updates -> text/event-stream: an id for every event (its number in the task's log), keep-alives, and errors that come first.

Frames are made of bytes. The three line separators that JSON leaves unescaped are escaped, since many clients (httpx's
`aiter_lines`, which the official SDK uses) split lines at them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Any

import orjson
from sse_starlette import EventSourceResponse, ServerSentEvent
from sse_starlette.sse import AppStatus
from starlette.responses import Response

from perdure import metrics
from perdure.tasks import Message, Task

from .wire.asked import Update

_SEPARATORS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}


@contextmanager
def ending_in_order() -> Iterator[None]:
    """While inside, open streams are ended by `Watch.dismiss` alone, with the last chunk of their body: what the client got is
    whole and it resumes elsewhere. Else sse-starlette ends every stream of the process in the middle, as soon as it finds that
    uvicorn stops (docs/decisions/011)."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        AppStatus.enable_automatic_graceful_drain_mode()  # type: ignore[no-untyped-call]


async def event_stream(
    items: AsyncIterator[Task | Update | Message | None],
    say: Callable[[Task | Update | Message], Any],
    fail: Callable[[Exception], Any],
    *,
    keep_alive: float,
    error_event: str = "",
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A response that says every item. Raises what the first item raises, while there is still time for another answer; a later
    error ends the stream with the frame that `fail` makes, and the client resumes from the last id it saw. None is not said.
    `headers` may be filled in until the first item is there."""
    first = await anext(items, None)
    return EventSourceResponse(
        _frames(first, items, say, fail, error_event),
        headers=headers,
        ping=keep_alive,
        ping_message_factory=lambda: ServerSentEvent(comment="keep-alive", sep="\n"),
        sep="\n",
    )


async def _frames(
    first: Task | Update | Message | None,
    items: AsyncIterator[Task | Update | Message | None],
    say: Callable[[Task | Update | Message], Any],
    fail: Callable[[Exception], Any],
    error_event: str,
) -> AsyncIterator[bytes]:
    with metrics.OPEN_STREAMS.track_inprogress():
        async with aclosing(items):  # type: ignore[type-var] # the iterators are generators
            try:
                if first is not None:
                    yield frame(say(first), number=_number(first))
                async for item in items:
                    if item is not None:
                        yield frame(say(item), number=_number(item))
            except Exception as error:
                yield frame(fail(error), event=error_event)


def _number(item: Task | Update | Message) -> int | None:
    """A message alone is the whole stream: there is nothing to resume."""
    if isinstance(item, Message):
        return None
    return item.last_seq if isinstance(item, Task) else item.seq


def frame(json: Any, *, number: int | None = None, event: str = "") -> bytes:
    """One event."""
    data = orjson.dumps(json)
    for separator, escaped in _SEPARATORS.items():
        if separator in data:
            data = data.replace(separator, escaped)
    name = f"event: {event}\n" if event else ""
    place = f"id: {number}\n" if number is not None else ""
    return f"{name}{place}data: ".encode() + data + b"\n\n"


def error_stream(json: Any) -> Response:
    """A stream of one frame, for clients that expect a stream even where nothing can be streamed."""
    return Response(frame(json), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
