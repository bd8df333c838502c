"""The HTTP+JSON bindings: A2A 1.0 (section 11) at the root and under `/{tenant}`, 0.3 under `/v1`.

They run the operations that JSON-RPC runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import Scope

from perdure.errors import InvalidParams
from perdure.telling import Json

from . import operations as run
from . import stream
from .auth import identify
from .codes import MethodNotAllowed, MethodNotFound, Refusal, refusal
from .jsonrpc import check_content_type
from .operations import Answer, Door, Stream
from .scopes import allow
from .versions import HEADER, named_version, negotiated
from .wire import Dialect, v03_rest, v1
from .wire.reading import check_decoded, check_storable, decode, spelled
from .wire.writing import error_details

A2A_JSON = "application/a2a+json"


def routes(door: Door) -> list[Route]:
    """All paths. A custom verb (`:cancel`) stands before the path that would take it for a part of the id."""
    return [
        (_Verb if ":" in path else Route)(
            prefix + path, partial(endpoint, door, dialect, answer, streamed), methods=methods
        )
        for prefix, dialect, paths in BINDINGS
        for path, methods, answer, streamed in paths
    ]


class _Verb(Route):
    """A path with a custom verb. It is nobody else's, whatever the HTTP method; and its HEAD would begin a stream."""

    def __init__(self, path: str, endpoint: Any, *, methods: list[str]) -> None:
        super().__init__(path, endpoint, methods=methods)
        self.methods = set(methods)

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        match, inside = super().matches(scope)
        return (Match.NONE if match is Match.NONE else Match.FULL), inside


Paths = list[tuple[str, list[str], Answer | None, Stream | None]]

_TASKS: Paths = [
    ("/message:send", ["POST"], run.send_message, None),
    ("/message:stream", ["POST"], None, run.stream_message),
    ("/tasks", ["GET"], run.list_tasks, None),
    ("/tasks/{id}:cancel", ["POST"], run.cancel_task, None),
    ("/tasks/{id}:subscribe", ["GET", "POST"], None, run.subscribe),
    ("/tasks/{id}", ["GET"], run.get_task, None),
    ("/tasks/{taskId}/pushNotificationConfigs", ["POST"], run.save_callback, None),
    ("/tasks/{taskId}/pushNotificationConfigs", ["GET"], run.list_callbacks, None),
    ("/tasks/{taskId}/pushNotificationConfigs/{id}", ["GET"], run.get_callback, None),
    ("/tasks/{taskId}/pushNotificationConfigs/{id}", ["DELETE"], run.delete_callback, None),
]
_PATHS: Paths = [*_TASKS, ("/extendedAgentCard", ["GET"], run.get_extended_card, None)]
_PATHS_03: Paths = [*_TASKS, ("/card", ["GET"], run.get_extended_card, None)]

BINDINGS: Sequence[tuple[str, Dialect, Paths]] = [
    ("/v1", v03_rest, _PATHS_03),  # first, since no tenant is called v1
    ("", v1, _PATHS),
    ("/{tenant}", v1, _PATHS),
]


async def endpoint(
    door: Door, own: Dialect, answer: Answer | None, streamed: Stream | None, request: Request
) -> Response:
    """Answer one request."""
    body = await request.body()
    try:
        caller = identify(request)
        door.rates.take(caller)
        dialect = negotiated(own, named_version(request))
        call = door.call(caller, dialect, _params(door, request, body), request, body)
        allow(call.caller, answer or streamed)
        if answer is not None:
            return _json(await answer(call), request, headers=call.said)
        assert streamed is not None  # noqa: S101 - a path has one or the other
        words = stream.Words(dialect)
        return await stream.event_stream(
            streamed(call, words.past(request.scope)),
            words,
            lambda error: _error(refusal(error), request),
            keep_alive=call.door.settings.keep_alive,
            error_event="error",  # how clients of this binding tell a frame with an error
            headers=call.said,
        )
    except Exception as error:
        return refused(refusal(error), request)


def _params(door: Door, request: Request, body: bytes) -> Mapping[str, Any]:
    """Query, body and path as one object. The body has the word over the query, in which anyone on the way may leave something,
    and the path the last one. A parameter that is empty was left out: a form sends all of its fields."""
    query = {name: value for name, value in request.query_params.multi_items() if value}
    path = request.path_params
    query.pop(HEADER, None)
    check_storable({**query, **path}, max_depth=2)
    if not body:
        return query | path
    check_content_type(request)
    inside = decode(body)
    if not isinstance(inside, dict):
        raise InvalidParams("", "the body must be an object")
    check_decoded(inside, body, max_depth=door.settings.max_depth)
    said = {spelled(name) for name in inside}  # the body may spell a name otherwise
    return {name: value for name, value in query.items() if spelled(name) not in said} | inside | path


def _media_type(request: Request) -> str:
    named = request.headers.get("Accept", "") + request.headers.get("Content-Type", "")
    return A2A_JSON if A2A_JSON in named.lower() else "application/json"


def _json(
    value: Any, request: Request, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    return Response(orjson.dumps(value), status, headers, _media_type(request))


def _error(told: Refusal, request: Request) -> Json:
    """A google.rpc.Status in the form of AIP-193. 0.3 names no form; beside it is what its official client reads."""
    code = told.code
    old = {"type": _NAMES.get(code.rpc, "InternalError"), "message": told.text} if _is_03(request) else {}
    return {
        **old,
        "error": {
            "code": code.http,
            "status": code.status,
            "message": told.text,
            "details": error_details(code.reason, told.field, told.description),
        },
    }


def _is_03(request: Request) -> bool:
    path: str = request.scope["path"]
    return path.removeprefix(request.scope.get("root_path", "")).startswith("/v1/")


_NAMES = {
    -32700: "JSONParseError",
    -32600: "InvalidRequestError",
    -32601: "MethodNotFoundError",
    -32602: "InvalidParamsError",
    -32001: "TaskNotFoundError",
    -32002: "TaskNotCancelableError",
    -32003: "PushNotificationNotSupportedError",
    -32004: "UnsupportedOperationError",
    -32005: "ContentTypeNotSupportedError",
    -32006: "InvalidAgentResponseError",
    -32007: "AuthenticatedExtendedCardNotConfiguredError",
}
"""What 0.3 calls its errors (section 8.2 there)."""


def refused(told: Refusal, request: Request) -> Response:
    """The answer to a request that failed."""
    return _json(_error(told, request), request, status=told.code.http, headers=told.headers)


async def refuse(request: Request, error: Exception) -> Response:
    """The answer to what a route raised that is none of these bindings."""
    return refused(refusal(error), request)


async def no_route(request: Request, error: Exception) -> Response:
    """Starlette found no route, or none for this HTTP method."""
    assert isinstance(error, HTTPException)  # noqa: S101 - Starlette calls this for nothing else
    if error.status_code != 405:
        return refused(refusal(MethodNotFound("there is nothing at this path")), request)
    allowed = ", ".join(_allowed(request))
    told = refusal(MethodNotAllowed(f"{request.method} is not possible here; what is: {allowed}"))
    response = refused(told, request)
    response.headers["Allow"] = allowed
    return response


def _allowed(request: Request) -> list[str]:
    """The HTTP methods of this path's routes. Starlette names those of the first one alone (RFC 9110, section 10.2.1)."""
    routes = [route for route in request.app.routes if isinstance(route, Route)]
    path = next(route.path for route in routes if route.endpoint is request.scope["endpoint"])
    return sorted({method for route in routes if route.path == path for method in route.methods or ()})
