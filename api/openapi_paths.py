"""The paths of HTTP+JSON, made of its routes, and that of JSON-RPC, made of its methods."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from perdure.telling import Json

from . import codes, extensions, idempotency, versions
from .jsonrpc import METHODS, SHOWN_AS_STATUS, Method
from .openapi_operations import ALWAYS, SPOKEN, WITH_A_BODY, Model, Spoken
from .openapi_pieces import (
    EVENTS,
    JSON,
    SSE,
    answer_headers,
    content,
    failures,
    parameter,
    schema_of,
    told_headers,
    types_in,
)
from .rest import A2A_JSON, BINDINGS
from .wire import Dialect, told, v03, v03_rest, v1
from .wire.schema import components, name_of, ref

# ---------------------------------------------------------------------- HTTP+JSON


@dataclass(frozen=True, slots=True)
class _Binding:
    """Where HTTP+JSON is spoken, in which dialect, and what the document calls it there."""

    dialect: Dialect
    tag: str
    suffix: str
    refused: Model = told.Refused
    extensions: str = extensions.HEADER


_BOUND = {
    "": _Binding(v1, "HTTP+JSON 1.0", ""),
    "/{tenant}": _Binding(v1, "HTTP+JSON 1.0 of a tenant", "OfTenant"),
    "/v1": _Binding(v03_rest, "HTTP+JSON 0.3", "V03", told.Refused03, extensions.HEADER_03),
}


def rest_paths() -> Json:
    """Every path of `rest.BINDINGS`, with what can be done there."""
    found: dict[str, Json] = {}
    for prefix, _, paths in BINDINGS:
        for path, methods, answer, streamed in paths:
            item = found.setdefault(prefix + path, {})
            for method in methods:
                item[method.lower()] = _operation(
                    prefix + path,
                    method,
                    SPOKEN[answer or streamed],
                    _BOUND[prefix],
                    streams=streamed is not None,
                )
    return found


def _operation(path: str, method: str, spoken: Spoken, binding: _Binding, *, streams: bool) -> Json:
    asks = types_in(spoken.asks, binding.dialect)
    in_path = re.findall(r"{(\w+)}", path)
    kinds = [*spoken.raises, *ALWAYS, *(WITH_A_BODY if spoken.body else ())]
    # Subscribing is GET in the protocol's proto and POST in its text.
    twin = "ByPost" if method == "POST" and spoken.name == "subscribeToTask" else ""
    operation: Json = {
        "operationId": spoken.name + binding.suffix + twin,
        "summary": spoken.summary,
        "tags": [binding.tag],
        "parameters": [
            *(_place(name, "path", {"type": "string"}) for name in in_path),
            *([] if spoken.body else _query(asks, in_path)),
            *(parameter(name) for name in (versions.HEADER, binding.extensions, *spoken.headers)),
        ],
        "responses": {"200": _ok(spoken, binding, streams), **failures(kinds, binding.refused)},
    }
    if spoken.body:
        body = {"schema": ref(asks), **_example(spoken, binding.dialect)}
        operation["requestBody"] = {"required": True, "content": {JSON: body, A2A_JSON: body}}
    return operation


def _example(spoken: Spoken, dialect: Dialect) -> Json:
    """A request to try out; one made of the schema would have all kinds of parts at once."""
    if spoken.name not in ("sendMessage", "streamMessage"):
        return {}
    parts = "content" if dialect is v03_rest else "parts"
    return {"example": {"message": {"messageId": "1", "role": "ROLE_USER", parts: [{"text": "hello"}]}}}


def _place(name: str, where: str, schema: Json) -> Json:
    told_of = {"description": schema["description"]} if "description" in schema else {}
    return {"name": name, "in": where, "required": where == "path", **told_of, "schema": schema}


def _query(asks: Model, in_path: Iterable[str]) -> list[Json]:
    members = components()[name_of(asks)].get("properties", {})
    return [_place(name, "query", each) for name, each in members.items() if name not in in_path]


def _ok(spoken: Spoken, binding: _Binding, streams: bool) -> Json:
    gives = schema_of(types_in(spoken.gives, binding.dialect))
    return {
        "description": EVENTS if streams else "Done.",
        "headers": answer_headers(spoken, binding.extensions),
        "content": content(gives, SSE) if streams else content(gives, JSON, A2A_JSON),
    }


# ---------------------------------------------------------------------- JSON-RPC


def rpc() -> Json:
    """`POST /`, with every method of `jsonrpc.METHODS`."""
    methods = {name: SPOKEN[method.answer or method.stream] for name, method in METHODS.items()}
    streaming = [method for method in METHODS.values() if method.stream is not None]
    answering = [method for method in METHODS.values() if method.answer is not None]
    own = (kind for spoken in methods.values() for kind in spoken.raises)
    kinds = dict.fromkeys([*own, *ALWAYS, *WITH_A_BODY])
    names = dict.fromkeys(header for spoken in methods.values() for header in spoken.headers)
    operation: Json = {
        "operationId": "jsonrpc",
        "summary": "Every operation, as JSON-RPC 2.0",
        "description": f"Errors are answers with status 200, these excepted: {_shown(kinds)}.\n\n{_methods(methods)}",
        "tags": ["JSON-RPC"],
        "parameters": [
            parameter(name) for name in (versions.HEADER, extensions.HEADER, extensions.HEADER_03, *names)
        ],
        "requestBody": {
            "required": True,
            "content": {
                JSON: {
                    "schema": {"oneOf": [_request(name, method) for name, method in METHODS.items()]},
                    "examples": _EXAMPLES,
                }
            },
        },
        "responses": {
            "200": {
                "description": f"The result, or an error. Of streaming methods: {EVENTS}",
                "headers": told_headers([extensions.HEADER, extensions.HEADER_03, idempotency.REPLAYED]),
                "content": {
                    JSON: {"schema": _reply(answering)},
                    SSE: {"schema": _reply(streaming)},
                },
            },
            **{
                status: {**response, "content": content(ref(told.RpcRefused), JSON)}
                for status, response in failures(kinds, told.RpcRefused).items()
                if int(status) in SHOWN_AS_STATUS
            },
        },
    }
    return {"/": {"post": operation}}


def _shown(kinds: Iterable[type[Exception]]) -> str:
    found = {codes.code_of(kind).http for kind in kinds} & SHOWN_AS_STATUS
    return ", ".join(str(status) for status in sorted(found))


def _methods(methods: Mapping[str, Spoken]) -> str:
    rows = (f"| `{name}` | {spoken.summary} |" for name, spoken in methods.items())
    return "\n".join(["| method | does |", "| --- | --- |", *rows])


def _request(name: str, method: Method) -> Json:
    spoken = SPOKEN[method.answer or method.stream]
    asks = spoken.asks[method.dialect] if isinstance(spoken.asks, Mapping) else spoken.asks
    needed = any(field.is_required() for field in asks.model_fields.values())
    return {
        "title": name,
        "description": spoken.summary,
        "type": "object",
        "required": ["jsonrpc", "method", *(["params"] if needed else [])],
        "properties": {
            "jsonrpc": {"const": "2.0"},
            "id": {"type": ["string", "integer", "null"]},
            "method": {"const": name},
            "params": ref(asks),
        },
    }


def _reply(methods: Iterable[Method]) -> Json:
    results = [result for method in methods for result in _results(method)]
    once = list({repr(result): result for result in results}.values())
    success = {
        "title": "RpcResult",
        "type": "object",
        "required": ["jsonrpc", "id", "result"],
        "properties": {
            "jsonrpc": {"const": "2.0"},
            "id": {"type": ["string", "integer", "null"]},
            "result": {"anyOf": once},
        },
    }
    return {"oneOf": [success, ref(told.RpcRefused)]}


def _results(method: Method) -> Iterator[Json]:
    spoken = SPOKEN[method.answer or method.stream]
    for dialect in (v1, v03) if method.dialect is None else (method.dialect,):
        yield schema_of(types_in(spoken.gives, dialect))


_EXAMPLES: Json = {
    name: {
        "summary": name,
        "value": {"jsonrpc": "2.0", "id": 1, "method": name, **({"params": params} if params else {})},
    }
    for name, params in {
        "SendMessage": {"message": {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}},
        "ListTasks": {"pageSize": 10},
        "message/send": {
            "message": {
                "kind": "message",
                "messageId": "1",
                "role": "user",
                "parts": [{"kind": "text", "text": "hello"}],
            }
        },
        "contexts/list": {},
    }.items()
}
