"""A span for each request, where traces are asked for: it takes up the caller's trace and lasts until the answer is sent."""

from __future__ import annotations

from collections.abc import Awaitable

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from perdure import tracing

PROBES = ("/healthz", "/readyz", "/metrics")
METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT"})


class Traced:
    """ASGI middleware, outside of all others; not there at all while nothing is traced. Probes and looks at the operators' page
    are left out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if not tracing.is_on() or scope["type"] != "http" or _is_left_out(scope):
            return self._app(scope, receive, send)
        return self._traced(scope, receive, send)

    async def _traced(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        named = method if method in METHODS else "HTTP"
        attributes = {
            "http.request.method": method,
            "url.scheme": scope["scheme"],
            "url.path": scope["path"][:500],
        }
        with tracing.span(named, "server", attributes, origins=_origins(scope)) as span:

            async def noting(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.note({"http.response.status_code": message["status"]})
                    if message["status"] >= 500:
                        span.fail(str(message["status"]))
                await send(message)

            try:
                await self._app(scope, receive, noting)
            finally:
                if route := _route(scope):
                    span.note({"http.route": route})
                    span.rename(f"{named} {route}")


def _origins(scope: Scope) -> list[str]:
    found: dict[bytes, list[str]] = {b"traceparent": [], b"tracestate": []}
    for name, value in scope["headers"]:
        if name in found:
            found[name].append(value.decode("latin-1"))
    return tracing.incoming(found[b"traceparent"], found[b"tracestate"])


def _is_left_out(scope: Scope) -> bool:
    path = scope["path"].removeprefix(scope.get("root_path", ""))
    looks = scope["method"] in ("GET", "HEAD") and (path == "/ops" or path.startswith("/ops/"))
    return path in PROBES or looks


def _route(scope: Scope) -> str:
    """The path as it is declared, with the root of its application. Starlette says in the scope what it called, not by which
    path."""
    called = scope.get("endpoint")
    routes = scope["app"].routes if called and "app" in scope else ()
    declared = (route.path for route in routes if isinstance(route, Route) and route.endpoint is called)
    return next((f"{scope.get('root_path', '')}{path}" for path in declared), "")
