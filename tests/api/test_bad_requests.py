"""Every bad request gets a clear error, and nothing is stored."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import orjson
import pytest

from tests.api.front import Front, Json, at_once, message, message03, opened_front

DEEP = b"[" * 70 + b"]" * 70
DEEPER_THAN_PARSERS = b"[" * 5000 + b"]" * 5000
BIG = 2**63


def rpc(method: str = "SendMessage", **members: Any) -> bytes:
    return orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": method, **members})


def raw_message(part: bytes) -> bytes:
    """A SendMessage with the given bytes for its part."""
    return rpc(params=at_once()).replace(b'{"text":"hello"}', part)


NOT_A_REQUEST: dict[str, tuple[bytes, int]] = {
    "empty": (b"", -32700),
    "not JSON": (b"{", -32700),
    "not UTF-8": (b'{"jsonrpc":"2.0","method":"\xff"}', -32700),
    "byte order mark": (b"\xef\xbb\xbf{}", -32700),
    "NaN": (b'{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"id":NaN}}', -32700),
    "infinity": (raw_message(b'{"data":1e999}'), -32700),
    "lone surrogate": (raw_message(b'{"text":"\\ud800"}'), -32700),
    "raw NUL": (raw_message(b'{"text":"\x00"}'), -32700),
    "deeper than parsers go": (DEEPER_THAN_PARSERS, -32700),
    "a batch": (b"[" + rpc() + b"]", -32600),
    "an empty batch": (b"[]", -32600),
    "a text": (b'"hello"', -32600),
    "a number": (b"1", -32600),
    "null": (b"null", -32600),
    "no jsonrpc": (b'{"id":1,"method":"ListTasks"}', -32600),
    "jsonrpc 1.0": (b'{"jsonrpc":"1.0","id":1,"method":"ListTasks"}', -32600),
    "jsonrpc as a number": (b'{"jsonrpc":2.0,"id":1,"method":"ListTasks"}', -32600),
    "no method": (b'{"jsonrpc":"2.0","id":1}', -32600),
    "empty method": (rpc(""), -32600),
    "method as a number": (b'{"jsonrpc":"2.0","id":1,"method":1}', -32600),
    "unknown method": (rpc("SendMassage"), -32601),
    "unknown 0.3 method": (rpc("message/sent"), -32601),
    "id as an object": (b'{"jsonrpc":"2.0","id":{},"method":"ListTasks"}', -32600),
    "id as a list": (b'{"jsonrpc":"2.0","id":[1],"method":"ListTasks"}', -32600),
    "id as a bool": (b'{"jsonrpc":"2.0","id":true,"method":"ListTasks"}', -32600),
    "id as a fraction": (b'{"jsonrpc":"2.0","id":1.5,"method":"ListTasks"}', -32600),
    "params as a list": (rpc(params=[]), -32602),
    "params as a text": (rpc(params="hello"), -32602),
    "no params": (rpc(), -32602),
    "null params": (rpc(params=None), -32602),
    "escaped NUL": (raw_message(b'{"text":"a\\u0000b"}'), -32602),
    "NUL in a name": (raw_message(b'{"data":{"a\\u0000":1}}'), -32602),
    "integer beyond 64 bits": (raw_message(b'{"data":%d}' % BIG), -32602),
    "too deep": (raw_message(b'{"data":' + DEEP + b"}"), -32602),
}


@pytest.mark.parametrize("case", NOT_A_REQUEST)
async def test_what_is_no_request_is_refused_and_nothing_is_stored(front: Front, case: str) -> None:
    body, code = NOT_A_REQUEST[case]
    response = await front.http.post("/", content=body, headers={"Content-Type": "application/json"})
    reply = response.json()
    assert response.status_code == 200
    assert reply["error"]["code"] == code, reply
    assert reply["error"]["message"]
    assert set(reply["error"]) <= {"code", "message", "data"}
    assert await front.stored() == 0


async def test_a_number_beyond_64_bits_that_json_makes_a_float_is_kept_as_one(front: Front) -> None:
    body = raw_message(b'{"data":123456789012345678901234567890}')
    reply = (await front.http.post("/", content=body, headers={"Content-Type": "application/json"})).json()
    assert reply["result"]["task"]["history"][0]["parts"] == [{"data": 1.2345678901234568e29}]


LONG = "x" * 257
PARTS: dict[str, Any] = {
    "empty parts": [],
    "parts as an object": {},
    "parts as null": None,
    "part as a text": ["hello"],
    "part without content": [{}],
    "part with metadata only": [{"metadata": {}}],
    "two contents": [{"text": "a", "url": "https://a.test"}],
    "text as a number": [{"text": 1}],
    "null text": [{"text": None}],
    "raw that is no base64": [{"raw": "?"}],
    "raw of a wrong length": [{"raw": "abcde"}],
    "raw as a number": [{"raw": 1}],
    "url as a list": [{"url": []}],
    "metadata as a list": [{"text": "a", "metadata": []}],
    "filename as a number": [{"text": "a", "filename": 1}],
    "too many parts": [{"text": "a"}] * 101,
}
MESSAGES: dict[str, tuple[Json, str]] = {
    **{name: ({"parts": parts}, "message.parts") for name, parts in PARTS.items()},
    "no message id": ({"messageId": None}, "message.messageId"),
    "empty message id": ({"messageId": ""}, "message.messageId"),
    "long message id": ({"messageId": LONG}, "message.messageId"),
    "message id as a number": ({"messageId": 1}, "message.messageId"),
    "no role": ({"role": None}, "message.role"),
    "unknown role": ({"role": "ROLE_SYSTEM"}, "message.role"),
    "0.3 role": ({"role": "user"}, "message.role"),
    "unspecified role": ({"role": "ROLE_UNSPECIFIED"}, "message.role"),
    "role as a list": ({"role": ["ROLE_USER"]}, "message.role"),
    "the agent's role": ({"role": "ROLE_AGENT"}, "message.role"),
    "long context id": ({"contextId": LONG}, "message.contextId"),
    "context id as a number": ({"contextId": 7}, "message.contextId"),
    "task id as an object": ({"taskId": {}}, "message.taskId"),
    "metadata as a text": ({"metadata": "x"}, "message.metadata"),
    "extensions as a text": ({"extensions": "x"}, "message.extensions"),
    "reference as a number": ({"referenceTaskIds": [1]}, "message.referenceTaskIds"),
    "too many references": ({"referenceTaskIds": ["t"] * 101}, "message.referenceTaskIds"),
}


@pytest.mark.parametrize("case", MESSAGES)
async def test_a_wrong_message_names_the_field_and_nothing_is_stored(front: Front, case: str) -> None:
    members, where = MESSAGES[case]
    error = await front.error("SendMessage", {"message": message() | members})
    assert error["code"] == -32602
    info, bad_request = error["data"]
    assert info["@type"] == "type.googleapis.com/google.rpc.ErrorInfo"
    assert bad_request["@type"] == "type.googleapis.com/google.rpc.BadRequest"
    assert bad_request["fieldViolations"][0]["field"].startswith(where)
    assert bad_request["fieldViolations"][0]["description"]
    assert await front.stored() == 0


MESSAGES03: dict[str, Json] = {
    "empty parts": {"parts": []},
    "unknown kind": {"parts": [{"kind": "image", "text": "a"}]},
    "kind of another member": {"parts": [{"kind": "file", "text": "a"}]},
    "file without content": {"parts": [{"kind": "file", "file": {"name": "a"}}]},
    "file with both contents": {"parts": [{"kind": "file", "file": {"bytes": "", "uri": "https://a.test"}}]},
    "bytes that are no base64": {"parts": [{"kind": "file", "file": {"bytes": "?"}}]},
    "data that is no object": {"parts": [{"kind": "data", "data": [1]}]},
    "1.0 role": {"role": "ROLE_USER"},
    "the agent's role": {"role": "agent"},
    "no message id": {"messageId": None},
}


@pytest.mark.parametrize("case", MESSAGES03)
async def test_a_wrong_message_of_version_0_3_is_refused_and_nothing_is_stored(
    front: Front, case: str
) -> None:
    error = await front.error("message/send", {"message": message03() | MESSAGES03[case]})
    assert error["code"] == -32602
    assert error["data"]["field"].startswith("message.")
    assert await front.stored() == 0


CONFIGURATIONS: dict[str, Any] = {
    "history below zero": {"historyLength": -1},
    "history as a fraction": {"historyLength": 1.5},
    "history as a bool": {"historyLength": True},
    "history beyond 32 bits": {"historyLength": 2**31},
    "a text for a flag": {"returnImmediately": "yes"},
    "a number for a flag": {"returnImmediately": 1},
    "modes as a text": {"acceptedOutputModes": "text/plain"},
    "a list": [],
}


@pytest.mark.parametrize("case", CONFIGURATIONS)
async def test_a_wrong_configuration_is_refused_and_nothing_is_stored(front: Front, case: str) -> None:
    params = {"message": message(), "configuration": CONFIGURATIONS[case]}
    assert (await front.error("SendMessage", params))["code"] == -32602
    assert await front.stored() == 0


async def test_a_push_config_is_refused_where_push_is_switched_off(front: Front) -> None:
    push = {"taskPushNotificationConfig": {"url": "https://hook.test"}}
    error = await front.error("SendMessage", {"message": message(), "configuration": push})
    assert error["code"] == -32003
    assert error["data"][0]["reason"] == "PUSH_NOTIFICATION_NOT_SUPPORTED"
    assert await front.stored() == 0


@pytest.mark.parametrize("task_id", ["0198f7a5-7d3c-7000-8000-000000000000", "no-uuid", "x" * 256])
@pytest.mark.parametrize("method", ["SendMessage", "message/send"])
async def test_a_message_to_an_unknown_task_is_refused(front: Front, method: str, task_id: str) -> None:
    said = (message if method == "SendMessage" else message03)(taskId=task_id)
    error = await front.error(method, {"message": said})
    assert error["code"] == -32001
    assert await front.stored() == 0


@pytest.mark.parametrize("method", ["GetTask", "CancelTask", "tasks/get", "tasks/cancel", "tasks/feedback"])
async def test_an_unknown_task_is_not_found(front: Front, method: str) -> None:
    for task_id in ("0198f7a5-7d3c-7000-8000-000000000000", "no-uuid"):
        params = {"taskId": task_id, "rating": 3} if "feedback" in method else {"id": task_id}
        assert (await front.error(method, params))["code"] == -32001


@pytest.mark.parametrize(
    "params", [{}, {"id": 1}, {"id": ""}, {"id": None}, {"id": "a", "historyLength": -1}]
)
@pytest.mark.parametrize("method", ["GetTask", "tasks/get"])
async def test_wrong_params_of_get_are_refused(front: Front, method: str, params: Json) -> None:
    assert (await front.error(method, params))["code"] == -32602


@pytest.mark.parametrize(
    "params",
    [
        {"pageSize": 0},
        {"pageSize": 101},
        {"pageSize": -1},
        {"pageSize": "many"},
        {"pageSize": True},
        {"pageToken": "nonsense"},
        {"pageToken": "bm9uc2Vuc2U"},
        {"pageToken": "é"},
        {"pageToken": 1},
        {"status": "TASK_STATE_DONE"},
        {"status": "completed"},
        {"status": 99},
        {"status": []},
        {"historyLength": -1},
        {"statusTimestampAfter": "yesterday"},
        {"statusTimestampAfter": 1},
        {"statusTimestampAfter": "2025-12-07T10:00:00"},
        {"statusTimestampAfter": "0001-01-01T00:00:00+14:00"},
        {"includeArtifacts": "perhaps"},
        {"contextId": LONG},
        {"contextId": 1},
    ],
)
async def test_wrong_params_of_list_are_refused(front: Front, params: Json) -> None:
    assert (await front.error("ListTasks", params))["code"] == -32602
    if "pageSize" not in params or params["pageSize"] is not True:
        query = {name: str(value) for name, value in params.items() if not isinstance(value, int | list)}
        if query:
            response = await front.http.get("/tasks", params=query)
            assert response.status_code == 400
            assert response.json()["error"]["status"] == "INVALID_ARGUMENT"


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "application/xml", ""]
)
async def test_a_body_that_is_not_said_to_be_json_is_refused(front: Front, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    reply = (await front.http.post("/", content=rpc(params=at_once()), headers=headers)).json()
    assert reply["error"]["code"] == -32005
    assert await front.stored() == 0
    response = await front.http.post("/message:send", content=orjson.dumps(at_once()), headers=headers)
    assert response.status_code == 400
    assert response.json()["error"]["details"][0]["reason"] == "CONTENT_TYPE_NOT_SUPPORTED"
    assert await front.stored() == 0


@pytest.mark.parametrize(
    "content_type", ["application/json; charset=utf-8", "Application/JSON", "application/a2a+json"]
)
async def test_json_under_its_other_names_is_taken(front: Front, content_type: str) -> None:
    headers = {"Content-Type": content_type}
    reply = (await front.http.post("/", content=rpc(params=at_once()), headers=headers)).json()
    assert "result" in reply


async def chunked(size: int) -> AsyncIterator[bytes]:
    for _ in range(0, size, 100):
        yield b" " * 100


async def test_a_body_over_the_limit_is_413_whether_it_says_its_length_or_not() -> None:
    async with opened_front(max_body_bytes=2000) as front:
        json = {"Content-Type": "application/json"}
        for content in (b" " * 2001, chunked(3000)):
            response = await front.http.post("/", content=content, headers=json)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == -32600
        for content in (b" " * 2001, chunked(3000)):
            response = await front.http.post("/message:send", content=content, headers=json)
            assert response.status_code == 413
            assert response.json()["error"]["code"] == 413
        padded = rpc(params=at_once()).ljust(2000)
        assert "result" in (await front.http.post("/", content=padded, headers=json)).json()
        assert await front.stored() == 1


async def test_no_limit_of_ours_or_of_python_makes_deep_json_an_internal_error() -> None:
    async with opened_front(max_depth=100) as front:
        for depth in (90, 120, 300, 500, 900):
            body = raw_message(b'{"data":' + b"[" * depth + b"]" * depth + b"}")
            response = await front.http.post("/", content=body, headers={"Content-Type": "application/json"})
            assert ("result" in response.json()) is (depth < 100)
            assert response.json().get("error", {"code": -32602})["code"] == -32602


async def test_an_id_comes_back_as_it_was_sent(front: Front) -> None:
    for sent in ("1", '"seven"', "null", '""', "-3"):
        body = f'{{"jsonrpc":"2.0","id":{sent},"method":"ListTasks"}}'
        reply = await front.http.post("/", content=body, headers={"Content-Type": "application/json"})
        assert reply.text.startswith(f'{{"jsonrpc":"2.0","id":{sent},"result":')


async def test_a_request_without_an_id_is_answered_too(front: Front) -> None:
    reply = (await front.http.post("/", json={"jsonrpc": "2.0", "method": "ListTasks"})).json()
    assert reply["id"] is None
    assert "result" in reply


async def test_the_reply_to_a_request_that_is_not_understood_has_the_id_null(front: Front) -> None:
    reply = (await front.http.post("/", content=b"{", headers={"Content-Type": "application/json"})).json()
    assert reply["id"] is None


UNSTORABLE = {
    "escaped NUL": b'{"text":"a\\u0000b"}',
    "integer beyond 64 bits": b'{"data":%d}' % BIG,
    "too deep": b'{"data":' + DEEP + b"}",
}


@pytest.mark.parametrize("method", ["SendMessage", "SendStreamingMessage", "message/send", "message/stream"])
@pytest.mark.parametrize("case", UNSTORABLE)
async def test_what_cannot_be_stored_is_refused_as_everything_is(
    front: Front, method: str, case: str
) -> None:
    """With the id of the request, in its version, and as a stream where that is how errors of this method come."""
    old, named = "/" in method, {} if "/" in method else {"A2A-Version": "1.0"}
    body = raw_message(UNSTORABLE[case]).replace(b'"SendMessage"', f'"{method}"'.encode())
    headers = {"Content-Type": "application/json", **named}
    response = await front.http.post("/", content=body, headers=headers)
    streamed = response.headers["Content-Type"].startswith("text/event-stream")
    assert streamed is (method == "message/stream")
    reply = orjson.loads(response.text.partition("data: ")[2] if streamed else response.text)
    assert (reply["id"], reply["error"]["code"]) == (1, -32602)
    data = reply["error"]["data"]
    violation = data if old else data[1]["fieldViolations"][0]
    assert violation["field"].startswith("message.parts[0].")
    assert await front.stored() == 0


@pytest.mark.parametrize("sent", ['"a\\u0000b"', str(BIG), str(2**64 - 1)])
async def test_an_id_that_cannot_be_kept_is_refused_and_comes_back_as_null(front: Front, sent: str) -> None:
    body = f'{{"jsonrpc":"2.0","id":{sent},"method":"tasks/list"}}'
    response = await front.http.post("/", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["id"] is None
    assert response.json()["error"]["code"] == -32602
    assert response.json()["error"]["data"]["field"] == "id"


async def test_other_http_methods_and_paths_get_json_too(front: Front) -> None:
    response = await front.http.get("/")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.json()["error"]["code"] == 405
    response = await front.http.get("/no/such/path")
    assert response.status_code == 404
    assert response.json()["error"]["status"] == "NOT_FOUND"
