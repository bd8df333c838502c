"""How errors are told (sections 3.3.2, 5.4, 9.5, 11.6). `speakers` holds every refusal against the table of section 5.4."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from perdure.errors import StorageUnavailable
from tests.api.front import at_work, opened_front, texts

from .errors import ERROR_INFO, ERRORS
from .marks import BOTH_REST, BOTH_RPC, IN_ONE_LOOP, NEW, OLD, RPC, must, should
from .speakers import Json, RestSpeaker, Speaker, refused, role, state

pytestmark = IN_ONE_LOOP


@must("5.4", "Every error has its code in JSON-RPC, its HTTP status and its reason")
async def test_every_error_has_its_code(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    await speaker.cancel(task_id)
    seen = {
        (await refused(asked)).name
        for asked in (
            speaker.get("x"),
            speaker.cancel(task_id),
            speaker.send(taskId=task_id),
            speaker.extended_card(),
            speaker.get(task_id, historyLength=-1),
            speaker.answer("get", {"id": task_id}, A2A_Version="99.0"),
        )
    }
    assert seen >= {"TASK_NOT_FOUND", "TASK_NOT_CANCELABLE", "UNSUPPORTED_OPERATION", "VERSION_NOT_SUPPORTED"}
    assert seen <= set(ERRORS)


@must("5.4", "A body that is not said to be JSON: ContentTypeNotSupported")
async def test_a_body_that_is_no_json(speaker: Speaker) -> None:
    path = speaker.paths["send"][1] if isinstance(speaker, RestSpeaker) else "/"
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "application/xml"):
        response = await speaker.front.http.post(path, content=b"{}", headers={"Content-Type": media_type})
        error = response.json()["error"]
        assert error["code"] == (400 if speaker.over_http else -32005)
        assert response.status_code == (400 if speaker.over_http else 200)
        details = error["details"] if speaker.over_http else error["data"]
        assert details[0]["reason"] == "CONTENT_TYPE_NOT_SUPPORTED"


@must(
    "3.3.2",
    "Input is checked before anything is done with it: what is missing or of the wrong type is refused, and nothing is stored",
)
async def test_input_is_checked(speaker: Speaker) -> None:
    good = speaker.message()
    wrongs: list[Json] = [
        {},
        {"message": None},
        {"message": "hello"},
        {"message": []},
        {"message": {**good, speaker.parts: []}},
        {"message": {**good, speaker.parts: "hello"}},
        {"message": {**good, speaker.parts: [{}]}},
        {"message": {**good, speaker.parts: [{"text": 1}]}},
        {"message": {**good, "role": "boss"}},
        {"message": {**good, "metadata": []}},
        {"message": {name: value for name, value in good.items() if name != "messageId"}},
        {"message": {**good, "messageId": ""}},
        {"message": {name: value for name, value in good.items() if name != "role"}},
        {"message": {name: value for name, value in good.items() if name != speaker.parts}},
        {"message": good, "configuration": []},
        {"message": good, "configuration": {"historyLength": "many"}},
    ]
    for wrong in wrongs:
        assert (await refused(speaker.answer("send", wrong))).name == "INVALID_PARAMS"
    assert await speaker.front.stored() == 0


@should("3.3.2", "The error names the member that is wrong, and says what would be right")
async def test_the_wrong_member_is_named(speaker: Speaker) -> None:
    params = {"message": speaker.message(parts=[])}
    error = await refused(speaker.answer("send", params))
    assert error.fields == [f"message.{speaker.parts}"]
    assert "at least 1" in error.message
    params = {"message": speaker.message(role="boss")}
    error = await refused(speaker.answer("send", params))
    assert error.fields == ["message.role"]
    assert ("user" if speaker.binding == OLD else "ROLE_USER") in error.message


@should("3.3.2", "An error says in words what to do about it")
async def test_errors_say_something(speaker: Speaker) -> None:
    error = await refused(speaker.get("0198f7a5-7d3c-7000-8000-000000000000"))
    assert len(error.message) > 12
    assert "0198f7a5-7d3c-7000-8000-000000000000" in error.message


@must("3.3.2", "What goes wrong inside is an internal error that tells nothing of the inside")
async def test_inner_errors_are_not_shown(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the password is 42")

    monkeypatch.setattr(speaker.front.storage, "load_task", broken)
    status, error = await asked(speaker)
    assert (status, error["code"]) == ((500, 500) if speaker.over_http else (200, -32603))
    assert "42" not in str(error)


@should("3.3.2", "What will pass is told apart from what will not: 503 with Retry-After")
async def test_a_passing_failure(speaker: Speaker, monkeypatch: pytest.MonkeyPatch) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("10.0.0.1 refused")

    monkeypatch.setattr(speaker.front.storage, "load_task", away)
    status, error = await asked(speaker)
    assert status == 503
    assert error["code"] == (503 if speaker.over_http else -32603)
    assert "10.0.0.1" not in str(error)


async def asked(speaker: Speaker) -> tuple[int, Json]:
    """The HTTP status and the error of asking for a task, whatever they are."""
    task_id = "0198f7a5-7d3c-7000-8000-000000000000"
    if isinstance(speaker, RestSpeaker):
        response = await speaker.front.http.get(speaker.paths["get"][1].format(id=task_id))
    else:
        response = await speaker.front.post(speaker.methods["get"], {"id": task_id})
    return response.status_code, response.json()["error"]


@should("3.3.2", "A request that is too large is refused before it is read: HTTP 413")
async def test_a_request_that_is_too_large(speaker: Speaker) -> None:
    async with opened_front(max_body_bytes=2000) as front:
        asking = type(speaker)(front)
        path = asking.paths["send"][1] if isinstance(asking, RestSpeaker) else "/"
        response = await front.http.post(path, json={"x": "a" * 2000})
        error = response.json()["error"]
        assert response.status_code == 413
        assert error["code"] == (413 if asking.over_http else -32600)
        assert "2000 bytes" in error["message"]


@must("5.4", "An answer of the agent that cannot be told fails its task, with a neutral text, for everybody")
async def test_an_invalid_answer_of_the_agent(speaker: Speaker) -> None:
    async with (
        opened_front(storage=speaker.front.storage, handler=lambda messages: object()) as front,
        at_work(front),
    ):
        asking = type(speaker)(front)
        task = await asking.send(wait=True)
        said = task["status"]["message"]
        assert (state(task), role(said)) == ("FAILED", "agent")
        assert texts([said]) == ["The agent gave an answer that cannot be stored; the error was logged."]
        assert (await asking.get(task["id"]))["status"] == task["status"]
        async with asking.stream() as events:
            assert [event.short for event in await events.rest()][-1] == "FAILED"


# ---------------------------------------------------------------------- 9.5


@must(
    "9.5",
    "An error of JSON-RPC has code, message and data: a list of typed objects, among them an ErrorInfo",
    RPC,
)
async def test_the_error_object(speaker: Speaker) -> None:
    error = await speaker.front.error("GetTask", {"id": "x"}, A2A_Version="1.0")
    assert set(error) == {"code", "message", "data"}
    info = {"@type": ERROR_INFO, "reason": "TASK_NOT_FOUND", "domain": "a2a-protocol.org", "metadata": {}}
    assert error["data"] == [info]


@must("9.5", "A body that is no JSON: parse error, with the id null", *BOTH_RPC)
async def test_a_parse_error(speaker: Speaker) -> None:
    for body in (b"{this is no json", b"", b'{"jsonrpc": "2.0", "id": 7', b"\xff\xfe"):
        response = await speaker.front.http.post(
            "/", content=body, headers={"Content-Type": "application/json"}
        )
        reply = response.json()
        assert (response.status_code, reply["id"], reply["error"]["code"]) == (200, None, -32700)


@must("9.5", "JSON that is no request: invalid request", *BOTH_RPC)
async def test_an_invalid_request(speaker: Speaker) -> None:
    method = speaker.methods["get"]
    good = {"jsonrpc": "2.0", "id": 7, "method": method, "params": {"id": "x"}}
    for wrong in (
        [],
        1,
        "x",
        None,
        {},
        {**good, "jsonrpc": "1.0"},
        {**good, "jsonrpc": 2.0},
        {name: value for name, value in good.items() if name != "jsonrpc"},
        {name: value for name, value in good.items() if name != "method"},
        {**good, "method": 1},
        {**good, "method": ""},
        {**good, "id": {}},
        {**good, "id": [1]},
        {**good, "id": True},
        [good],
    ):
        body = orjson.dumps(wrong)
        response = await speaker.front.http.post(
            "/", content=body, headers={"Content-Type": "application/json"}
        )
        reply = response.json()
        assert (response.status_code, reply["error"]["code"]) == (200, -32600), wrong
        assert reply["id"] == (7 if isinstance(wrong, dict) and wrong.get("id") == 7 else None)


@must("9.5", "A method that does not exist: method not found", *BOTH_RPC)
async def test_an_unknown_method(speaker: Speaker) -> None:
    for name in ("DoSomething", "sendMessage", "message/sends", "rpc.discover", "SendMessage "):
        error = await speaker.front.error(name, {})
        assert error["code"] == -32601


@must("9.5", "Params of the wrong type: invalid params, and no invalid request", *BOTH_RPC)
async def test_wrong_params(speaker: Speaker) -> None:
    wrongs: list[Any] = [[], "x", 1, {"id": 1}, {"id": None}, {"id": []}, {}, None]
    for params in wrongs:
        error = await speaker.front.error(speaker.methods["get"], params)
        assert error["code"] == -32602


# ---------------------------------------------------------------------- 11.6


@must(
    "11.6",
    "An error over HTTP is a google.rpc.Status: code, status, message and details with an ErrorInfo",
    *BOTH_REST,
)
async def test_the_error_over_http(speaker: Speaker) -> None:
    response = await speaker.front.http.get("/v1/tasks/x" if speaker.old else "/tasks/x")
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["status"]) == (404, 404, "NOT_FOUND")
    info = {"@type": ERROR_INFO, "reason": "TASK_NOT_FOUND", "domain": "a2a-protocol.org", "metadata": {}}
    assert error["details"] == [info]


@must("11.6", "Also an unknown path, a wrong HTTP method and a broken body are told so", *BOTH_REST)
async def test_errors_before_an_operation(speaker: Speaker) -> None:
    http, at = speaker.front.http, "/v1" if speaker.old else ""
    json = {"Content-Type": "application/json"}
    for response, status in (
        (await http.get(f"{at}/nothing/here/at/all"), 404),
        (await http.get(f"{at}/message:send"), 405),
        (await http.post(f"{at}/message:send", content=b"{", headers=json), 400),
        (await http.post(f"{at}/message:send", content=b"", headers=json), 400),
        (await http.post(f"{at}/message:send", json=[]), 400),
    ):
        error = response.json()["error"]
        assert (response.status_code, error["code"]) == (status, status)
        assert error["details"][0]["@type"] == ERROR_INFO


@must("9.5", "The details of wrong params are a BadRequest with fieldViolations", *NEW)
async def test_a_bad_request_has_its_violations(speaker: Speaker) -> None:
    error = await refused(speaker.send(parts=[]))
    (violation,) = error.details[1]["fieldViolations"]
    assert violation["field"] == "message.parts"
    assert violation["description"]
