"""POST /: bytes -> operation -> bytes. Which version a method belongs to is told by its name (PascalCase: 1.0; a/b: 0.3)."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from perdure import tracing
from perdure.errors import CallerError
from perdure.stored.storable import unstorable
from perdure.telling import Json

from . import deliveries, stream
from . import operations as run
from .auth import identify
from .codes import INTERNAL, InvalidRequest, MethodNotFound, Refusal, WrongContentType, refusal
from .operations import Answer, Door, Stream
from .scopes import allow
from .straight import Whole, body_of
from .versions import DIALECTS, named_version, negotiated
from .wire import Dialect, v03, v1
from .wire.reading import check_decoded, decode


@dataclass(frozen=True, slots=True)
class Method:
    """What runs, and the version whose method it is; None for ours, which answer in whatever version the client speaks."""

    dialect: Dialect | None
    answer: Answer | None = None
    stream: Stream | None = None


METHODS: Mapping[str, Method] = {
    "SendMessage": Method(v1, run.send_message),
    "SendStreamingMessage": Method(v1, stream=run.stream_message),
    "GetTask": Method(v1, run.get_task),
    "ListTasks": Method(v1, run.list_tasks),
    "CancelTask": Method(v1, run.cancel_task),
    "SubscribeToTask": Method(v1, stream=run.subscribe),
    "CreateTaskPushNotificationConfig": Method(v1, run.save_callback),
    "GetTaskPushNotificationConfig": Method(v1, run.get_callback),
    "ListTaskPushNotificationConfigs": Method(v1, run.list_callbacks),
    "DeleteTaskPushNotificationConfig": Method(v1, run.delete_callback),
    "GetExtendedAgentCard": Method(v1, run.get_extended_card),
    "message/send": Method(v03, run.send_message),
    "message/stream": Method(v03, stream=run.stream_message),
    "tasks/get": Method(v03, run.get_task),
    "tasks/cancel": Method(v03, run.cancel_task),
    "tasks/resubscribe": Method(v03, stream=run.subscribe),
    "tasks/pushNotificationConfig/set": Method(v03, run.save_callback),
    "tasks/pushNotificationConfig/get": Method(v03, run.get_callback),
    "tasks/pushNotificationConfig/list": Method(v03, run.list_callbacks),
    "tasks/pushNotificationConfig/delete": Method(v03, run.delete_callback),
    "agent/getAuthenticatedExtendedCard": Method(v03, run.get_extended_card),
    "tasks/list": Method(None, run.list_tasks),
    "tasks/feedback": Method(None, run.give_feedback),
    "contexts/list": Method(None, run.list_contexts),
    "contexts/get": Method(None, run.get_context),
    "contexts/clear": Method(None, run.clear_context),
    "webhooks/deliveries": Method(None, deliveries.list_deliveries),
    "webhooks/attempts": Method(None, deliveries.list_attempts),
    "webhooks/replay": Method(None, deliveries.replay),
    "webhooks/enable": Method(None, deliveries.enable),
}

SHOWN_AS_STATUS = frozenset({401, 403, 408, 413, 429, 503})
"""Errors that are an HTTP status as well. All others are 200, as JSON-RPC over HTTP has it."""


@dataclass(slots=True)
class Reply:
    """How an answer to this request must look; filled in as the request is understood."""

    id: str | int | None = None
    dialect: Dialect = v1
    named: str | None = None
    """The version that the client names."""
    as_stream: bool = False

    def result(self, result: Any) -> Json:
        return {"jsonrpc": "2.0", "id": self.id, "result": result}

    def around(self) -> tuple[bytes, bytes]:
        """What stands before and after a result."""
        return orjson.dumps(self.result(0))[: -len("0}")], b"}"

    def error(self, refused: Refusal) -> Json:
        error: Json = {"code": self._code(refused), "message": refused.text}
        if (
            data := self.dialect.error_data(refused.code.reason, refused.field, refused.description)
        ) is not None:
            error["data"] = data
        return {"jsonrpc": "2.0", "id": self.id, "error": error}

    def _code(self, refused: Refusal) -> int:
        """Who names a version that is not served knows the code that says so."""
        speaks_it = self.named in (None, self.dialect.VERSION)
        return (
            INTERNAL.rpc if speaks_it and refused.code.rpc in self.dialect.UNKNOWN_CODES else refused.code.rpc
        )


class Endpoint:
    """POST /, as an ASGI application: an error is an answer here, so that nothing of what Starlette puts around a function is
    needed."""

    def __init__(self, door: Door) -> None:
        self._door = door

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request, reply = Request(scope, receive), Reply()
        body = await body_of(receive)
        try:
            answer = await _answer(self._door, request, body, reply)
        except Exception as error:
            told = refusal(error)
            tracing.note({"rpc.response.status_code": str(told.code.rpc)})
            if told.code.http >= 500:
                tracing.fail(told.code.reason)
            answer = refused(told, reply)
        await answer(scope, receive, send)


async def _answer(door: Door, request: Request, body: bytes, reply: Reply) -> ASGIApp:
    caller = identify(request)
    try:
        check_content_type(request)
        envelope, method = _understand(request, body, reply)
    finally:  # what cannot be understood counts as well; by now it is known how to answer
        door.rates.take(caller)
    reply.dialect = negotiated(method.dialect, reply.named)
    check_decoded(envelope, body, max_depth=door.settings.max_depth)
    call = door.call(caller, reply.dialect, envelope.get("params"), request, body)
    allow(call.caller, method.answer or method.stream)
    if method.answer is not None:
        return Whole(orjson.dumps(reply.result(await method.answer(call))), call.said)
    assert method.stream is not None  # noqa: S101 - a method has one or the other
    words = stream.Words(reply.dialect, *reply.around())
    return await stream.event_stream(
        method.stream(call, words.past(request.scope)),
        words,
        lambda error: reply.error(refusal(error)),
        keep_alive=call.door.settings.keep_alive,
        headers=call.said,
    )


def _understand(request: Request, body: bytes, reply: Reply) -> tuple[Mapping[str, Any], Method]:
    """What is asked for. The reply gets to know as much as can be read before something is wrong."""
    envelope = _envelope(decode(body))
    reply.id = _reply_id(envelope)
    method = _method(envelope)
    tracing.note({"rpc.system.name": "jsonrpc", "rpc.method": envelope["method"]})
    reply.named = named = named_version(request)
    reply.dialect = DIALECTS.get(named or "") or method.dialect or reply.dialect
    reply.as_stream = method.stream is not None and not (named or "").startswith("1.")
    return envelope, method


def reply_to(request: Request, body: bytes) -> Reply:
    """How an answer to a request must look that is refused unseen."""
    reply = Reply()
    with suppress(CallerError):
        _understand(request, body, reply)
    return reply


def check_content_type(request: Request) -> None:
    """`WrongContentType` unless the body is said to be JSON. To say nothing is refused too: any web page can send that."""
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if media_type != "application/json" and not media_type.endswith("+json"):
        raise WrongContentType("the Content-Type must be application/json")


def _envelope(value: Any) -> Mapping[str, Any]:
    if isinstance(value, list):
        raise InvalidRequest("batches are not part of A2A: send one request at a time")
    if not isinstance(value, dict):
        raise InvalidRequest("a request must be an object")
    return value


def _reply_id(envelope: Mapping[str, Any]) -> str | int | None:
    """None as well for an id that cannot be kept: the request is refused for it, later, with all else that cannot."""
    match envelope.get("id"):
        case bool():
            raise InvalidRequest("id must be a string, an integer or null")
        case None | str() | int() as found:
            return None if unstorable(found) else found
    raise InvalidRequest("id must be a string, an integer or null")


def _method(envelope: Mapping[str, Any]) -> Method:
    if envelope.get("jsonrpc") != "2.0":
        raise InvalidRequest('jsonrpc must be "2.0"')
    name = envelope.get("method")
    if not isinstance(name, str) or not name:
        raise InvalidRequest("method must be a string")
    try:
        return METHODS[name]
    except KeyError:
        raise MethodNotFound(f"there is no method {name[:100]!r}") from None


def refused(told: Refusal, reply: Reply) -> Response:
    """The answer to a request that failed."""
    status = told.code.http if told.code.http in SHOWN_AS_STATUS else 200
    if reply.as_stream and status == 200:
        return stream.error_stream(reply.error(told))
    return _json(reply.error(told), status=status, headers=told.headers)


def _json(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, headers, "application/json")
