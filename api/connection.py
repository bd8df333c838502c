"""Connections whose client does not read, or does not finish what it sends: they are cut after a while, and nothing is kept for
them.

A stream is written as far as the client reads: what it has not taken fills the buffers of the connection (64 KiB here, and the
kernel's), then the next write waits. Nothing is lost by cutting it there: a stream's place is with its client, as the id of the
last event that arrived, and the events are in the log.

A request is read as a whole before anything is done for it: a client that takes its time over it holds a connection and what it
has sent, and nothing else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from perdure.settings import ServerSettings

log = structlog.get_logger(__name__)

Refuse = Callable[[Scope, Receive, Send], Awaitable[None]]
"""Answers a request that is given up."""

LINK = "perdure.link"
"""An extension of the ASGI scope: `{"link": <Link>}`."""


HEAD_BYTES = 64 * 1024
"""What the line and the headers of a request may have; nginx and Node.js give less."""
BYTES_PER_SECOND = 64 * 1024
"""A body that has come so far gets another second."""
LATE = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\n%bcontent-type: application/json\r\ncontent-length: %d\r\n\r\n%b"
LARGE = b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"


class Link:
    """The connection of one request, as the middlewares below see it."""

    __slots__ = ("_connection", "_scope")

    def __init__(self, connection: Connection, scope: Mapping[str, Any]) -> None:
        self._connection, self._scope = connection, scope

    def cut(self) -> None:
        """End it at once."""
        self._connection.transport.abort()

    @property
    def would_wait(self) -> bool:
        """Whether the next write waits until the client has read."""
        return bool(self._connection.flow.write_paused)

    def take(self, body: bytes) -> bool:
        """Write a piece of the body past `send`: after that has written the head, and while it is not called. False where the
        write would have to wait, where this is not the answer that is under way, and where its body does not come in chunks."""
        connection = self._connection
        cycle = connection.cycle
        if connection.flow.write_paused or cycle.scope is not self._scope or not cycle.chunked_encoding:
            return False
        if cycle.response_complete or connection.transport.is_closing():
            return False
        connection.transport.write(b"%x\r\n%b\r\n" % (len(body), body))
        return True

    @property
    def body_is_there(self) -> bool:
        """Whether all of the request has come."""
        cycle = self._connection.cycle
        return (
            cycle.scope is not self._scope or not cycle.more_body
        )  # another one: it has been followed by the next request

    def when_lost(self, call: Callable[[], None]) -> Callable[[], None]:
        """Calls `call` when the connection is lost, or at once where it is already; not once what this returns was called."""
        if self._connection.is_lost:
            call()
        self._connection.when_lost = call
        return self._connection.nobody_waits

    def answer(self, body: bytes) -> bool:
        """Answer 200 with this JSON, in one write. uvicorn's two messages come to the same, for several times the work. False,
        and nothing is done, where something beside it is to be told or waited for: they have to be sent."""
        connection, cycle = self._connection, self._connection.cycle
        waits = self.would_wait or cycle.scope is not self._scope or cycle.disconnected
        if waits or cycle.response_started or cycle.access_log or not cycle.keep_alive:
            return False
        cycle.response_started = cycle.response_complete = True
        lines = b"".join([b"%b: %b\r\n" % header for header in cycle.default_headers])
        connection.transport.write(WHOLE % (lines, len(body), body))
        cycle.message_event.set()
        cycle.on_response()
        return True


class Connection(HttpToolsProtocol):
    """uvicorn's, with the extension. An application can only return, upon which uvicorn closes the connection in order: it
    first waits until the client has read what is buffered, and with it the memory and the file descriptor wait for ever.

    And with an end to the head of a request, which uvicorn waits for, and keeps, without any: `head_seconds` for all of it, from
    the first byte; also for the first byte of a new connection."""

    head_seconds = 30.0
    is_lost = False
    when_lost: Callable[[], None] | None = None
    """Of the request that is being answered: the next one on a connection waits for its answer."""
    _in_head = True
    _head_bytes = 0
    _head_due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(cast(asyncio.Transport, transport))
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head_is_there()
        super().connection_lost(exc)
        self.is_lost = True
        if self.when_lost is not None:
            self.when_lost()

    def nobody_waits(self) -> None:
        """Whoever was to be called when it is lost need not be."""
        self.when_lost = None

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {LINK: {"link": Link(self, self.scope)}}
        self._in_head = True

    def on_headers_complete(self) -> None:
        self._head_is_there()
        super().on_headers_complete()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head:  # nearly all heads come in one piece, and need no clock
            if self._head_due is None:
                self._await_head()
            self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES:
                self._end_with(LARGE)

    def _await_head(self) -> None:
        self._head_bytes = 0
        self._head_due = self.loop.call_later(self.head_seconds, self._end_with, LATE)

    def _head_is_there(self) -> None:
        self._in_head = False
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None

    def _end_with(self, answer: bytes) -> None:
        """Not where an answer to an earlier request is under way: it would be told in the middle of that."""
        self._head_is_there()
        if not self.transport.is_closing():
            earlier = cast(RequestResponseCycle | None, self.cycle)
            if earlier is None or earlier.response_complete:
                self.transport.write(answer)
            self.transport.close()


def connection(settings: ServerSettings) -> type[Connection]:
    """The protocol of a server with these settings."""
    return type("Connection", (Connection,), {"head_seconds": settings.slow_sender})


class SlowReaders:
    """ASGI middleware: a connection that takes nothing for `seconds`, while something is to be written to it, is cut."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        link = link_of(scope)

        def bounded(message: Message) -> Awaitable[None]:
            if link is not None and not link.would_wait:
                return send(message)
            return self._in_time(scope, link, send(message))

        return self._app(scope, receive, bounded)

    async def _in_time(self, scope: Scope, link: Link | None, sent: Awaitable[None]) -> None:
        try:
            async with asyncio.timeout(self._seconds):
                await sent
        except TimeoutError:
            log.info("connection.slow_reader", client=scope.get("client"), seconds=self._seconds)
            _cut(link)


class SlowSenders:
    """ASGI middleware: 408 for a body that is not there within `seconds`, and another one for each 64 KiB that have come."""

    def __init__(self, app: ASGIApp, *, seconds: float, refuse: Refuse) -> None:
        self._app = app
        self._seconds = seconds
        self._refuse = refuse

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        link = link_of(scope) if scope["type"] == "http" else None
        if scope["type"] != "http" or (link is not None and link.body_is_there):
            return self._app(scope, receive, send)
        return self._in_time(scope, receive, send)

    async def _in_time(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, self._timed(receive), send)
        except _TooSlow:
            log.info("connection.slow_sender", client=scope.get("client"), seconds=self._seconds)
            await self._refuse(scope, receive, send)

    def _timed(self, receive: Receive) -> Receive:
        loop = asyncio.get_running_loop()
        due, complete = loop.time() + self._seconds, False

        async def timed() -> Message:
            nonlocal due, complete
            if complete:  # what comes now is that the client leaves
                return await receive()
            try:
                async with asyncio.timeout_at(due):
                    message = await receive()
            except TimeoutError:
                raise _TooSlow from None
            due += len(message.get("body", b"")) / BYTES_PER_SECOND
            complete = not message.get("more_body")
            return message

        return timed


class _TooSlow(Exception):
    """Carried from `receive` through the app to the middleware."""


def link_of(scope: Scope) -> Link | None:
    """None with a server that has no such extension."""
    extension = scope.get("extensions", {}).get(LINK)
    return None if extension is None else cast(Link, extension["link"])


def _cut(link: Link | None) -> None:
    """The request ends as one whose client has left. Servers without the extension are left to their own ways."""
    if link is None:
        raise ClientDisconnect
    link.cut()
