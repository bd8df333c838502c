"""The operators' own port, if OPS__PORT gives them one: then the page and the metrics are there and nowhere else."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send


def for_operators(path: str) -> bool:
    """Whether a path is theirs."""
    return path in ("/ops", "/metrics") or path.startswith("/ops/")


class OwnPort:
    """ASGI middleware: 404 for their paths on any other port, and for all others on theirs, but for the probes."""

    def __init__(self, app: ASGIApp, *, port: int | None) -> None:
        self._app = app
        self._port = port

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http" and self._port is not None:
            here = (scope.get("server") or (None, None))[1] == self._port
            path = scope["path"]
            if here is not for_operators(path) and path not in ("/healthz", "/readyz"):
                return Response("There is nothing at this path on this port.\n", 404)(scope, receive, send)
        return self._app(scope, receive, send)
