"""The straight way of a request that is all there to its answer that is all there: most are both.

Nearly all requests are for JSON-RPC, so its path is looked for before all others; and where nothing more is to come, neither a
stream is made of a body nor messages of an answer. What Starlette and uvicorn do instead gives the same bytes, and is what
happens wherever a request is not of that kind.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure import tracing

from .connection import link_of


class Straight:
    """ASGI middleware, the last: `POST /` goes to its endpoint without a look at the routes, where it stands as well."""

    def __init__(self, app: ASGIApp, *, rpc: ASGIApp) -> None:
        self._app = app
        self._rpc = rpc

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and scope["method"] == "POST" and _is_root(scope):
            scope["endpoint"] = self._rpc
            return self._rpc(scope, receive, send)
        return self._app(scope, receive, send)


def _is_root(scope: Scope) -> bool:
    root: str = scope.get("root_path", "")
    return bool(scope["path"] == f"{root}/")


async def body_of(receive: Receive) -> bytes:
    """All of it. `ClientDisconnect` if its sender leaves before."""
    pieces: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        pieces.append(message.get("body", b""))
        if not message.get("more_body"):
            return b"".join(pieces)


class Whole:
    """An answer of JSON, as an ASGI application: a 200 with these headers beside the usual ones."""

    __slots__ = ("_body", "_headers")

    def __init__(self, body: bytes, headers: Mapping[str, str]) -> None:
        self._body, self._headers = body, headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # A span takes the status from the messages.
        link = None if self._headers or tracing.is_on() else link_of(scope)
        if link is None or not link.answer(self._body):
            await Response(self._body, 200, self._headers, "application/json")(scope, receive, send)
