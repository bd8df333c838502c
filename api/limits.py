"""The limit on the size of a body, for those that say their length and those that come in chunks; and the answers to bodies that
are too large or too slow."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import jsonrpc, rest
from .codes import RequestTooLarge, RequestTooSlow, refusal

LINGER_BYTES = 64 * 1024 * 1024
LINGER_SECONDS = 5.0
"""How much of a refused body is still taken, and thrown away."""


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_bytes`. What comes after the limit is not kept.

    It is read, within bounds: most clients look for an answer when they have sent everything, and a connection that is closed
    before takes the answer with it.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        length = _said_length(scope)
        try:
            if length is not None and length > self._max_bytes:
                # who asks before sending is told at once
                raise _TooLarge(more="Expect" not in Request(scope).headers)
            # No server lets a body be longer than it was said to be.
            await self._app(scope, self._counted(receive) if length is None else receive, send)
        except _TooLarge as found:
            if found.more:
                await _read_off(receive)
            await self._refuse(Request(scope), scope, receive, send)
        except ClientDisconnect:  # left before its request was complete: nobody to answer
            return

    def _counted(self, receive: Receive) -> Receive:
        left = self._max_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                raise _TooLarge(more=message.get("more_body", False))
            return message

        return counted

    async def _refuse(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        too_large = RequestTooLarge(f"the request is larger than {self._max_bytes} bytes")
        await _answer(too_large, request)(scope, receive, send)


def _said_length(scope: Scope) -> int | None:
    """None where the body has to be counted: its length is not said, or it comes in chunks all the same."""
    said = dict(scope["headers"])
    length = said.get(b"content-length", b"")
    if b"transfer-encoding" in said or not length.isdigit() or len(length) > 18:
        return None
    return int(length)


async def refuse_late(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request whose body did not come; the connection is closed with it."""
    answer = _answer(RequestTooSlow("the request took too long to arrive"), Request(scope))
    answer.headers["Connection"] = "close"
    await answer(scope, receive, send)


def _answer(error: Exception, request: Request) -> Response:
    told, is_rpc = refusal(error), request.url.path == "/"
    return jsonrpc.refused(told, jsonrpc.Reply()) if is_rpc else rest.refused(told, request)


async def _read_off(receive: Receive) -> None:
    left = LINGER_BYTES
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_SECONDS):
            while left > 0:
                message = await receive()
                left -= len(message.get("body", b""))
                if not message.get("more_body"):
                    return


class _TooLarge(Exception):
    """Carried from `receive` through the app to the middleware; `more` of the body is on its way."""

    def __init__(self, *, more: bool) -> None:
        self.more = more
