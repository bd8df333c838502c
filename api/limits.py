"""The limit on the size of a body, for those that say their length and those that come in chunks."""

from __future__ import annotations

from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from . import jsonrpc, rest
from .codes import RequestTooLarge, refusal


class BodyLimit:
    """ASGI middleware: 413 for a body of more than `max_bytes`. What comes after the limit is not read."""

    def __init__(self, app: ASGIApp, *, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        left = self._max_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            if message["type"] == "http.request":
                left -= len(message.get("body", b""))
                if left < 0:
                    raise _TooLarge
            return message

        try:
            if self._said_length(request) > self._max_bytes:
                raise _TooLarge
            await self._app(scope, counted, send)
        except _TooLarge:
            await self._refuse(request, scope, receive, send)
        except ClientDisconnect:  # left before its request was complete: nobody to answer
            return

    def _said_length(self, request: Request) -> int:
        text = request.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0

    async def _refuse(self, request: Request, scope: Scope, receive: Receive, send: Send) -> None:
        told = refusal(RequestTooLarge(f"the request is larger than {self._max_bytes} bytes"))
        is_rpc = request.url.path == "/"
        answer = jsonrpc.refused(told, jsonrpc.Reply()) if is_rpc else rest.refused(told, request)
        await answer(scope, receive, send)


class _TooLarge(Exception):
    """Carried from `receive` through the app to the middleware."""
