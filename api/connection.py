"""Connections whose client does not read: they are cut after a while, and nothing is kept for them.

A stream is written as far as the client reads: what it has not taken fills the buffers of the connection (64 KiB here, and the
kernel's), then the next write waits. Nothing is lost by cutting it there: a stream's place is with its client, as the id of the
last event that arrived, and the events are in the log.
"""

from __future__ import annotations

import asyncio

import structlog
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

log = structlog.get_logger(__name__)

CUT = "perdure.cut"
"""An extension of the ASGI scope: `{"cut": <function>}` ends the request's connection at once."""


class Connection(HttpToolsProtocol):
    """uvicorn's, with the extension. An application can only return, upon which uvicorn closes the connection in order: it
    first waits until the client has read what is buffered, and with it the memory and the file descriptor wait for ever."""

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["extensions"] = {CUT: {"cut": self.transport.abort}}


class SlowReaders:
    """ASGI middleware: a connection that takes nothing for `seconds`, while something is to be written to it, is cut."""

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app = app
        self._seconds = seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def bounded(message: Message) -> None:
            try:
                async with asyncio.timeout(self._seconds):
                    await send(message)
            except TimeoutError:
                log.info("connection.slow_reader", client=scope.get("client"), seconds=self._seconds)
                _cut(scope)

        await self._app(scope, receive, bounded)


def _cut(scope: Scope) -> None:
    """The request ends as one whose client has left. Servers without the extension are left to their own ways."""
    extension = scope.get("extensions", {}).get(CUT)
    if extension is None:
        raise ClientDisconnect
    extension["cut"]()
