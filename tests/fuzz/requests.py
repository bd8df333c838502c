"""JSON-RPC requests, good ones and what becomes of them: members that are lost, swapped for others, of another type or too large,
bytes that are changed, headers that mean nothing."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Sequence
from typing import Any

import orjson
from hypothesis import strategies as st

from api.jsonrpc import METHODS

Json = dict[str, Any]

LONGEST = 6_000_000
"""Bytes of a body: half as much again as is taken."""
BIG = [2**31, 2**53, 2**63, 2**64, 10**30, -(2**63) - 1, 1e308, -1, 0, 0.5, -0.0]
STRANGE = [
    "", " ", "\x00", "\ud800", "\u2028", "\ufeff", "x" * 300, "x" * 10_000, "../../etc/passwd", "'; DROP TABLE tasks; --", "%00",
    "null", "true", "1e999", "NaN", "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "2026-01-01", "P1D", "==", "AAAA=",
    "http://", "https://[::1", "javascript:alert(1)", "TASK_STATE_WORKING", "ROLE_AGENT", "agent", "text/plain; q=", "*/*",
    "{}", "[]",
]  # fmt: skip
texts = st.sampled_from(STRANGE) | st.text(max_size=20)
values = st.recursive(
    st.none() | st.booleans() | st.sampled_from(BIG) | st.integers() | st.floats() | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)


def _nested(levels: int) -> Any:
    value: Any = 1
    for level in range(levels):
        value = [value] if level % 2 else {"a": value}
    return value


anything = values | st.integers(1, 200).map(_nested)


# ---------------------------------------------------------------------- good ones


def message(**members: Any) -> Json:
    """Of 1.0."""
    return {
        "messageId": "m",
        "role": "ROLE_USER",
        "parts": [{"text": "hello"}, {"data": {"a": [1]}}, {"raw": "aGVsbG8=", "filename": "a.txt"}],
        "metadata": {"customer": "c", "perdure": {"priority": 1}},
        "extensions": ["https://a.test"],
        "referenceTaskIds": ["t"],
        **members,
    }


def message03(**members: Any) -> Json:
    parts = [
        {"kind": "text", "text": "hello?"},
        {"kind": "file", "file": {"bytes": "aGVsbG8=", "mimeType": "text/plain"}},
    ]
    return {"kind": "message", "messageId": "m", "role": "user", "parts": parts, **members}


PUSH = {
    "url": "https://hook.invalid/a",
    "token": "t",
    "authentication": {"schemes": ["Bearer"], "credentials": "c"},
}
PUSH1 = {**PUSH, "authentication": {"scheme": "Bearer", "credentials": "c"}}


def params_of(method: str, task_id: str, context_id: str) -> Json:
    """What the method takes."""
    send = {"returnImmediately": True, "historyLength": 3, "acceptedOutputModes": ["text/plain"]}
    by_name: dict[str, Json] = {
        "SendMessage": {"message": message(contextId=context_id), "configuration": send, "metadata": {"a": 1}},
        "SendStreamingMessage": {"message": message(taskId=task_id), "configuration": send},
        "ListTasks": {
            "contextId": context_id, "status": "TASK_STATE_WORKING", "pageSize": 3, "pageToken": "t", "historyLength": 1,
            "statusTimestampAfter": "2026-01-01T00:00:00Z", "includeArtifacts": True,
        },
        "CreateTaskPushNotificationConfig": {"taskId": task_id, "id": "c", **PUSH1},
        "GetTaskPushNotificationConfig": {"taskId": task_id, "id": "c"},
        "ListTaskPushNotificationConfigs": {"taskId": task_id, "pageSize": 3, "pageToken": "c"},
        "DeleteTaskPushNotificationConfig": {"taskId": task_id, "id": "c"},
        "message/send": {
            "message": message03(taskId=task_id), "configuration": {"blocking": False, "pushNotificationConfig": PUSH},
        },
        "message/stream": {"message": message03(contextId=context_id)},
        "tasks/pushNotificationConfig/set": {"taskId": task_id, "pushNotificationConfig": PUSH},
        "tasks/pushNotificationConfig/get": {"id": task_id, "pushNotificationConfigId": "c"},
        "tasks/pushNotificationConfig/list": {"id": task_id},
        "tasks/pushNotificationConfig/delete": {"id": task_id, "pushNotificationConfigId": "c"},
        "tasks/list": {"status": "working", "pageSize": 2},
        "tasks/feedback": {"taskId": task_id, "feedback": "good", "rating": 4, "metadata": {"a": 1}},
        "contexts/list": {"pageSize": 2, "pageToken": "t"},
        "contexts/get": {"contextId": context_id, "historyLength": 2},
        "contexts/clear": {"contextId": context_id},
    }  # fmt: skip
    return copy.deepcopy(by_name.get(method, {"id": task_id, "historyLength": 2}))


# ---------------------------------------------------------------------- what becomes of them


MOST_GROWN = 20_000


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths to everything within."""
    found = [path] if path else []
    members = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, member in members:
        found += places(member, (*path, name))
    return found


def change(draw: st.DrawFn, request: Json) -> None:
    """One thing is not as it should be."""
    if not places(request):
        return
    path = draw(st.sampled_from(places(request)))
    holder: Any = request
    for step in path[:-1]:
        holder = holder[step]
    act = draw(st.sampled_from(("replace", "replace", "remove", "repeat", "add", "rename", "grow")))
    old = holder[path[-1]]
    match act, holder:
        case "remove", _:
            del holder[path[-1]]
        case ("add", dict()) | ("rename", dict()):
            holder[draw(texts)] = old if act == "rename" else draw(anything)
        case "grow", _:
            # What has grown before does not grow a thousandfold again: three times would be a billion.
            sizes = [size for size in (2, 101, 1001) if size * (1 + len(places(old))) <= MOST_GROWN]
            holder[path[-1]] = [old] * draw(st.sampled_from(sizes or [2]))
        case "repeat", list():
            holder.extend(copy.deepcopy(holder))
        case _:
            holder[path[-1]] = draw(anything)


@st.composite
def envelopes(draw: st.DrawFn, tasks: Sequence[str], contexts: Sequence[str]) -> Any:
    """A request that was changed in up to four places; or any JSON."""
    if draw(st.integers(0, 9)) == 0:
        return draw(anything)
    method = draw(st.sampled_from(sorted(METHODS)))
    task_id, context_id = draw(st.sampled_from(tasks)), draw(st.sampled_from(contexts))
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params_of(method, task_id, context_id)}
    for _ in range(draw(st.integers(1, 4))):
        change(draw, request)
    return request


def written(value: Any) -> bytes:
    """As JSON; what JSON cannot say (NaN, lone surrogates, integers of any size) as careless programs write it."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, ensure_ascii=True).encode()


def spoilt(draw: st.DrawFn, body: bytes) -> bytes:
    """The bytes of a request, changed."""
    act: Callable[[bytes, int], bytes] = draw(st.sampled_from((_cut, _flipped, _inserted, _doubled)))
    return act(body, draw(st.integers(0, max(len(body) - 1, 0))))


def _cut(body: bytes, place: int) -> bytes:
    return body[:place]


def _flipped(body: bytes, place: int) -> bytes:
    return body[:place] + bytes([body[place] ^ 0x80]) + body[place + 1 :] if body else b"\xff"


def _inserted(body: bytes, place: int) -> bytes:
    return body[:place] + b"\x00\xff{" + body[place:]


def _doubled(body: bytes, place: int) -> bytes:
    return body + body[place:]


header_values = st.text(
    st.characters(min_codepoint=33, max_codepoint=255, exclude_characters="\x7f"), max_size=300
)
HEADERS: dict[str, st.SearchStrategy[str]] = {
    "A2A-Version": st.sampled_from(["1.0", "0.3", "1", "0.3.0", "2.0", "1.0.1.1", "x" * 1000])
    | header_values,
    "A2A-Extensions": st.sampled_from(["https://a.test", ",,,", "a" * 5000]) | header_values,
    "Idempotency-Key": st.sampled_from(['"', '"a', "a" * 256, '"a\\"b"', "a,b", "k"]) | header_values,
    "Last-Event-ID": st.sampled_from(["-1", "0", "1", "9" * 18, "9" * 30, "\xb2", "1.0"]) | header_values,
    "Content-Type": st.sampled_from(
        [
            "application/json",
            "application/a2a+json",
            "text/plain",
            "application/json;",
            ";",
            "a+json",
            "multipart/form-data",
        ]
    ),
    "Accept": st.sampled_from(["*/*", "text/event-stream", "application/a2a+json", ""]) | header_values,
    "Accept-Encoding": st.just("identity"),
    "If-None-Match": header_values,
}


@st.composite
def headers(draw: st.DrawFn) -> dict[str, str]:
    """Mostly none but what is needed."""
    found = {"Content-Type": "application/json"}
    if draw(st.integers(0, 2)) == 0:
        for name in draw(st.lists(st.sampled_from(sorted(HEADERS)), max_size=3, unique=True)):
            found[name] = draw(HEADERS[name])
    return found


@st.composite
def rpc(draw: st.DrawFn, tasks: Sequence[str], contexts: Sequence[str]) -> tuple[bytes, dict[str, str]]:
    """A body for `POST /` and its headers."""
    body = written(draw(envelopes(tasks, contexts)))[:LONGEST]
    if draw(st.integers(0, 6)) == 0:
        body = spoilt(draw, body)
    return body, draw(headers())
