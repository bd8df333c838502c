"""What the paths are put together from: parameters, headers, failures, schemas."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from perdure.telling import Json

from . import codes, extensions, idempotency, versions
from .openapi_operations import Model, Spoken
from .rest import A2A_JSON
from .wire import Dialect
from .wire.schema import PLACE, ref

JSON = "application/json"
SSE = "text/event-stream"

EVENTS = (
    "Server-sent events. The schema is that of an event's data; its id is its number in the task's log, for Last-Event-ID. "
    "An event called `error` has an error as its data, and is the last."
)


# ---------------------------------------------------------------------- parameters and headers


def _header(description: str, **schema: Any) -> Json:
    return {"description": description, "schema": {"type": "string", **schema}}


PARAMETERS: Mapping[str, Json] = {
    name: {"name": name, "in": "header", "required": False, **_header(description, **schema)}
    for name, description, schema in (
        (
            versions.HEADER,
            "The version of A2A that the client speaks; may stand in the query instead. Left out: that of the method or path.",
            {"pattern": versions.SERVED.pattern, "examples": [*versions.DIALECTS]},
        ),
        (
            extensions.HEADER,
            "URIs of the A2A extensions that the client speaks, with commas between them.",
            {},
        ),
        (extensions.HEADER_03, f"{extensions.HEADER}, as 0.3 calls it.", {}),
        ("Last-Event-ID", "The id of the last event that the client saw: the stream goes on after it.", {}),
        (
            idempotency.HEADER,
            "Makes a send safe to repeat: the same key with the same content answers with the task of the first time.",
            {"maxLength": idempotency.LONGEST + 2},
        ),
    )
}
HEADERS: Mapping[str, Json] = {
    extensions.HEADER: _header("The extensions that were active."),
    extensions.HEADER_03: _header(f"{extensions.HEADER}, for clients that sent it by this name."),
    idempotency.REPLAYED: _header("The send was a repeated one.", enum=["true"]),
    "Retry-After": {"description": "Seconds after which to try again.", "schema": {"type": "integer"}},
    "WWW-Authenticate": _header("How to authenticate."),
    "ETag": _header("Give it back as If-None-Match."),
    "Cache-Control": _header("How long it may be kept."),
}


def parameter(name: str) -> Json:
    return {"$ref": f"#/components/parameters/{name}"}


def told_headers(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def answer_headers(spoken: Spoken, extension: str) -> Json:
    replayed = [idempotency.REPLAYED] if idempotency.HEADER in spoken.headers else []
    return told_headers([extension, *replayed])


# ---------------------------------------------------------------------- failures


def failures(kinds: Iterable[type[Exception]], shape: Model) -> Json:
    """Responses by status, each with the reasons that it can have."""
    found: dict[int, list[codes.Code]] = {}
    for kind in kinds:
        code = codes.code_of(kind)
        found.setdefault(code.http, []).append(code)
    return {
        str(status): {
            "description": "; ".join(dict.fromkeys(f"{code.status}: {code.reason}" for code in each)),
            **_failure_headers(status),
            "content": content(ref(shape), JSON, A2A_JSON),
        }
        for status, each in sorted(found.items())
    }


def _failure_headers(status: int) -> Json:
    names = {
        401: ["WWW-Authenticate"],
        403: ["WWW-Authenticate"],
        429: ["Retry-After"],
        503: ["Retry-After"],
    }.get(status)
    return {"headers": told_headers(names)} if names else {}


# ---------------------------------------------------------------------- schemas


def types_in(types: Any, dialect: Dialect) -> Any:
    return types[dialect] if isinstance(types, Mapping) else types


def schema_of(types: Any) -> Json:
    """Of one type, of one of several, of an array (a list in a list), or of null."""
    if types is None:
        return {"type": "null"}
    if not isinstance(types, list):
        return ref(types)
    if isinstance(types[0], list):
        return {"type": "array", "items": ref(types[0][0])}
    return {"anyOf": [ref(each) for each in types]}


def content(schema: Json, *media_types: str) -> Json:
    return {media_type: {"schema": schema} for media_type in media_types}


def used(paths: Json, schemas: Mapping[str, Json]) -> Json:
    """The schemas that are referred to, directly or by one another."""
    found: dict[str, Json] = {}
    waiting = set(_refs(paths))
    while waiting:
        name = waiting.pop()
        found[name] = schemas[name]
        waiting |= set(_refs(schemas[name])) - set(found)
    return dict(sorted(found.items()))


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        place = value.get("$ref")
        if isinstance(place, str) and place.startswith(PLACE):
            yield place.removeprefix(PLACE)
        value = value.values()
    elif not isinstance(value, list):
        return
    for each in value:
        yield from _refs(each)
