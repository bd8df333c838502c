"""Updates -> text/event-stream: an id for every event (its number in the task's log), keep-alives, and errors that come first.

Frames are made of bytes, and what an update says is written once for all streams that say it. The three line separators that JSON
leaves unescaped are escaped, since many clients (httpx's `aiter_lines`, which the official SDK uses) split lines at them.

An open stream is the task of its request and a second one, which listens for its client's leaving and says the keep-alives.
Neither is woken for an update that can be written at once (`Words.past`).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from typing import Any
from uuid import UUID

import orjson
from sse_starlette import EventSourceResponse
from sse_starlette.sse import AppStatus
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from perdure import metrics
from perdure.tasks import ArtifactChunk, Message, StatusChange, Task
from perdure.telling import Update

from .connection import Link, link_of
from .feeds import Take, refuse
from .wire import Dialect

_SEPARATORS = {b"\xc2\x85": b"\\u0085", b"\xe2\x80\xa8": b"\\u2028", b"\xe2\x80\xa9": b"\\u2029"}
_HEADERS = {"Cache-Control": "no-store", "Connection": "keep-alive", "X-Accel-Buffering": "no"}
KEEP_ALIVE = b": keep-alive\n\n"

REMEMBERED = 64
LARGEST_REMEMBERED = 64 * 1024
"""Updates that are kept as JSON for the other streams of their task, and the bytes of one."""
_told: dict[tuple[Dialect, UUID, int], tuple[StatusChange | ArtifactChunk, bytes]] = {}


@contextmanager
def ending_in_order() -> Iterator[None]:
    """While inside, `server_stops` does not return: our own server says itself when those who wait are dismissed, which is not at
    its first thought of stopping (docs/decisions/011)."""
    AppStatus.disable_automatic_graceful_drain()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        AppStatus.enable_automatic_graceful_drain_mode()  # type: ignore[no-untyped-call]


async def server_stops() -> None:
    """Returns when the uvicorn around us stops, whoever started it. It would wait for open streams, which know nothing of it.

    sse-starlette knows how to find that out, and offers it only to its own responses, to each of them anew.
    """
    await EventSourceResponse._listen_for_exit_signal()


def told(dialect: Dialect, item: Task | Update | Message) -> bytes:
    """What a stream says of `item`: the same update is written once, however many streams say it."""
    if not isinstance(item, Update):
        return _json(dialect.update(item))
    key = (dialect, item.task_id, item.seq)
    known = _told.get(key)
    if known is not None and (
        known[0] is item.body or known[0] == item.body
    ):  # a folded event has the number of its last
        return known[1]
    written = _json(dialect.update(item))
    if len(written) <= LARGEST_REMEMBERED:
        while len(_told) >= REMEMBERED:
            del _told[next(iter(_told))]
        _told[key] = (item.body, written)
    return written


class Words:
    """How a stream says its items: in the words of a version, and with what stands around each in its binding."""

    __slots__ = ("_after", "_before", "_dialect")

    def __init__(self, dialect: Dialect, before: bytes = b"", after: bytes = b"") -> None:
        self._dialect, self._before, self._after = dialect, _escaped(before), after

    def frame(self, item: Task | Update | Message) -> bytes:
        """One event."""
        said = told(self._dialect, item)
        if isinstance(item, Message):  # it alone is the whole stream: there is nothing to resume
            return b"data: %b%b%b\n\n" % (self._before, said, self._after)
        number = item.seq if isinstance(item, Update) else item.last_seq
        return b"id: %d\ndata: %b%b%b\n\n" % (number, self._before, said, self._after)

    def past(self, scope: Scope) -> Take:
        """Says updates on the connection of a request, past all that is between: no task has to be woken for it. With a server
        that has no such connection nothing is taken."""
        link = link_of(scope)
        if link is None:
            return refuse

        return lambda update: link.take(self.frame(update))


async def event_stream(
    items: AsyncIterator[Task | Update | Message | None],
    words: Words,
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
    return _Stream(items, _frames(first, items, words, fail, error_event), keep_alive, headers)


class _Stream(StreamingResponse):
    """Closes `items` also where the client had gone before the first frame, so that nothing was ever taken from them here."""

    def __init__(
        self,
        items: AsyncIterator[Any],
        frames: AsyncIterator[bytes],
        keep_alive: float,
        headers: Mapping[str, str] | None,
    ) -> None:
        super().__init__(frames, headers={**_HEADERS, **(headers or {})}, media_type="text/event-stream")
        self._items = items
        self._keep_alive = keep_alive
        self._saying = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        async with aclosing(self._items), aclosing(self.body_iterator):  # type: ignore[type-var] # generators
            await send(start)
            with suppress(TimeoutError):  # the client has gone
                async with asyncio.timeout(None) as here:
                    listener = asyncio.create_task(self._listen(receive, send, here, link_of(scope)))
                    try:
                        await self._say(send)
                    finally:
                        listener.cancel()

    async def _say(self, send: Send) -> None:
        async for frame in self.body_iterator:
            self._saying = True
            await send({"type": "http.response.body", "body": frame, "more_body": True})
            self._saying = False
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _listen(self, receive: Receive, send: Send, here: asyncio.Timeout, link: Link | None) -> None:
        """Until the client has gone; meanwhile say from time to time that we are there."""
        while True:
            try:
                async with asyncio.timeout(None) as silent:
                    self._remind_later(silent, link)
                    try:
                        message = await receive()
                    finally:
                        self._reminder.cancel()
            except TimeoutError:
                if not self._saying:  # it would wait behind what is being said
                    await send({"type": "http.response.body", "body": KEEP_ALIVE, "more_body": True})
                continue
            if message["type"] == "http.disconnect":
                here.reschedule(asyncio.get_running_loop().time())
                return

    def _remind_later(self, silent: asyncio.Timeout, link: Link | None) -> None:
        self._reminder = asyncio.get_running_loop().call_later(self._keep_alive, self._remind, silent, link)

    def _remind(self, silent: asyncio.Timeout, link: Link | None) -> None:
        """At once where that is possible, without waking anybody; else the listener does it in its own time."""
        if link is not None and link.take(KEEP_ALIVE):
            self._remind_later(silent, link)
        else:
            silent.reschedule(asyncio.get_running_loop().time())


async def _frames(
    first: Task | Update | Message | None,
    items: AsyncIterator[Task | Update | Message | None],
    words: Words,
    fail: Callable[[Exception], Any],
    error_event: str,
) -> AsyncIterator[bytes]:
    with metrics.OPEN_STREAMS.track_inprogress():
        async with aclosing(items):  # type: ignore[type-var] # the iterators are generators
            try:
                if first is not None:
                    yield words.frame(first)
                async for item in items:
                    if item is not None:
                        yield words.frame(item)
            except Exception as error:
                yield _error_frame(fail(error), error_event)


def _json(value: Any) -> bytes:
    return _escaped(orjson.dumps(value))


def _escaped(json: bytes) -> bytes:
    if json.isascii():
        return json
    for separator, escaped in _SEPARATORS.items():
        if separator in json:
            json = json.replace(separator, escaped)
    return json


def _error_frame(json: Any, event: str = "") -> bytes:
    name = f"event: {event}\n" if event else ""
    return b"%bdata: %b\n\n" % (name.encode(), _json(json))


def error_stream(json: Any) -> Response:
    """A stream of one frame, for clients that expect a stream even where nothing can be streamed."""
    return Response(_error_frame(json), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
