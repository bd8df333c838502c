"""Which version answers: by the method's name, and by A2A-Version."""

from __future__ import annotations

import pytest

from tests.api.front import Front, at_once, message03


@pytest.mark.parametrize("version", [None, "", "1.0", "1.0.3", " 1.0 "])
async def test_a_method_of_1_0_is_served_for_clients_of_1_0(front: Front, version: str | None) -> None:
    headers = {} if version is None else {"A2A_Version": version}
    assert "task" in await front.call("SendMessage", at_once(), **headers)
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    assert (await front.http.get("/tasks", headers=names)).status_code == 200


@pytest.mark.parametrize("version", [None, "0.3", "0.3.0"])
async def test_a_method_of_0_3_is_served_for_clients_of_0_3(front: Front, version: str | None) -> None:
    headers = {} if version is None else {"A2A_Version": version}
    params = {"message": message03(), "configuration": {"blocking": False}}
    assert (await front.call("message/send", params, **headers))["kind"] == "task"


@pytest.mark.parametrize(
    ("method", "version", "code"),
    [
        ("SendMessage", "0.3", -32603),  # to a client of 0.3, which has no other code for it
        ("SendMessage", "2.0", -32009),
        ("SendMessage", "99.0", -32009),
        ("SendMessage", "latest", -32009),
        ("SendMessage", "1", -32009),
        ("message/send", "1.0", -32009),
        ("message/send", "0.2", -32009),
        ("contexts/list", "99.0", -32009),
    ],
)
async def test_another_version_is_refused_and_nothing_is_stored(
    front: Front, method: str, version: str, code: int
) -> None:
    params = at_once() if method == "SendMessage" else {"message": message03()}
    error = await front.error(method, params, A2A_Version=version)
    assert error["code"] == code
    if code == -32009 and method == "SendMessage":
        assert error["data"][0]["reason"] == "VERSION_NOT_SUPPORTED"
    assert await front.stored() == 0


async def test_the_version_may_stand_in_the_query(front: Front) -> None:
    body = {"jsonrpc": "2.0", "id": 1, "method": "ListTasks"}
    assert "result" in (await front.http.post("/?A2A-Version=1.0", json=body)).json()
    assert (await front.http.post("/?A2A-Version=0.3", json=body)).json()["error"]["code"] == -32603
    assert (await front.http.get("/tasks?A2A-Version=1.0")).status_code == 200


@pytest.mark.parametrize("version", ["0.3", "99.0"])
async def test_rest_is_1_0_only(front: Front, version: str) -> None:
    response = await front.http.post("/message:send", json=at_once(), headers={"A2A-Version": version})
    assert response.status_code == 400
    assert response.json()["error"]["details"][0]["reason"] == "VERSION_NOT_SUPPORTED"
    assert await front.stored() == 0


async def test_our_own_methods_answer_in_the_version_of_the_client(front: Front) -> None:
    await front.call("SendMessage", at_once())
    new = await front.call("tasks/list", {}, A2A_Version="1.0")
    assert new["tasks"][0]["status"]["state"] == "TASK_STATE_SUBMITTED"
    for headers in ({"A2A_Version": "0.3"}, {}):
        old = await front.call("tasks/list", {}, **headers)
        assert old["tasks"][0]["status"]["state"] == "submitted"
