"""HTTP+JSON 1.0: paths, statuses, content types, errors."""

from __future__ import annotations

import pytest

from tests.api.front import Front, Live, at_once, message, texts


async def test_send_get_cancel_and_list(front: Front) -> None:
    response = await front.http.post("/message:send", json=at_once("hi"))
    assert response.status_code == 200
    assert response.headers["content-type"] == "application/json"
    task = response.json()["task"]
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert (await front.http.get(f"/tasks/{task['id']}")).json() == task
    assert (await front.http.get("/tasks")).json()["tasks"] == [task]
    canceled = (await front.http.post(f"/tasks/{task['id']}:cancel", json={"metadata": {}})).json()
    assert canceled["status"]["state"] == "TASK_STATE_CANCELED"


async def test_a_blocking_send(echoing: Front) -> None:
    sent = (await echoing.http.post("/message:send", json={"message": message("hi")})).json()
    assert texts(sent["task"]["artifacts"]) == ["hi"]


async def test_a_cancel_needs_no_body(front: Front) -> None:
    task = (await front.http.post("/message:send", json=at_once())).json()["task"]
    assert (await front.http.post(f"/tasks/{task['id']}:cancel")).status_code == 200


async def test_the_path_has_the_last_word_over_the_body(front: Front) -> None:
    task = (await front.http.post("/message:send", json=at_once())).json()["task"]
    response = await front.http.post(f"/tasks/{task['id']}:cancel", json={"id": "another"})
    assert response.json()["id"] == task["id"]


@pytest.mark.parametrize("query", ["message=x&configuration=y", "metadata=z", "utm_source=a&id=b"])
async def test_the_body_has_the_word_over_the_query(front: Front, query: str) -> None:
    body = {**at_once("hi"), "metadata": {}}
    response = await front.http.post(f"/message:send?{query}", json=body)
    assert response.status_code == 200, response.text
    task = response.json()["task"]
    assert texts(task["history"]) == ["hi"]
    response = await front.http.post(f"/tasks/{task['id']}:cancel?{query}&id=c", json={"id": "another"})
    assert response.json()["id"] == task["id"]


@pytest.mark.parametrize("name", ["historyLength", "history_length"])
@pytest.mark.parametrize("asked", ["historyLength", "history_length"])
async def test_the_query_says_what_the_body_does_not(front: Front, name: str, asked: str) -> None:
    """However either spells it."""
    task = (await front.http.post("/message:send", json=at_once())).json()["task"]
    path = f"/tasks/{task['id']}:subscribe?{asked}=0"
    for body, seen in (({}, False), ({name: 5}, True)):
        async with Live(front.app, "POST", path, body) as live:
            first = await live.frame()
        assert first is not None
        assert ("history" in first.data["task"]) is seen


@pytest.mark.parametrize("prefix", ["", "/v1", "/acme"])
async def test_an_empty_parameter_is_as_if_left_out(front: Front, prefix: str) -> None:
    task = (await front.http.post("/message:send", json=at_once())).json()["task"]
    names = ("contextId", "status", "pageSize", "pageToken", "historyLength", "includeArtifacts")
    for query in ("&".join(f"{name}=" for name in (*names, "statusTimestampAfter")), "pageSize=1&pageSize="):
        response = await front.http.get(f"{prefix}/tasks?{query}")
        assert response.status_code == 200, response.text
        assert [found["id"] for found in response.json()["tasks"]] == [task["id"]]
    response = await front.http.get(f"{prefix}/tasks/{task['id']}?historyLength=")
    assert len(response.json()["history"]) == 1


async def test_every_path_is_there_under_a_tenant(front: Front) -> None:
    task = (await front.http.post("/acme/message:send", json=at_once())).json()["task"]
    assert (await front.http.get(f"/acme/tasks/{task['id']}")).json() == task
    assert (await front.http.get("/acme/tasks")).json()["totalSize"] == 1
    assert (await front.http.post(f"/acme/tasks/{task['id']}:cancel")).status_code == 200


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({}, "application/json"),
        ({"Accept": "application/a2a+json"}, "application/a2a+json"),
        ({"Accept": "application/json, application/a2a+json"}, "application/a2a+json"),
        ({"Content-Type": "application/a2a+json"}, "application/a2a+json"),
        ({"Accept": "*/*"}, "application/json"),
    ],
)
async def test_the_media_type_of_the_answer(front: Front, headers: dict[str, str], expected: str) -> None:
    response = await front.http.post("/message:send", json=at_once(), headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"] == expected
    response = await front.http.get("/tasks/x", headers=headers)
    assert response.headers["content-type"] == expected


async def test_an_error_is_a_google_rpc_status(front: Front) -> None:
    response = await front.http.get("/tasks/x")
    assert response.status_code == 404
    assert response.json() == {
        "error": {
            "code": 404,
            "status": "NOT_FOUND",
            "message": "there is no task x",
            "details": [
                {
                    "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                    "reason": "TASK_NOT_FOUND",
                    "domain": "a2a-protocol.org",
                    "metadata": {},
                }
            ],
        }
    }


async def test_a_wrong_field_is_named(front: Front) -> None:
    response = await front.http.post("/message:send", json={"message": message(parts=[])})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["status"] == "INVALID_ARGUMENT"
    assert error["details"][1]["fieldViolations"][0]["field"] == "message.parts"


async def test_statuses_of_errors(front: Front) -> None:
    json = {"Content-Type": "application/json"}
    task = (await front.http.post("/message:send", json=at_once())).json()["task"]
    await front.http.post(f"/tasks/{task['id']}:cancel")
    assert (await front.http.post(f"/tasks/{task['id']}:cancel")).status_code == 400
    more = {"message": message("more", taskId=task["id"])}
    assert (await front.http.post("/message:send", json=more)).status_code == 400
    assert (await front.http.post("/message:send", content=b"{", headers=json)).status_code == 400
    assert (await front.http.post("/message:send", json=[])).status_code == 400
    assert (await front.http.post("/message:send")).status_code == 400
    assert (await front.http.get("/message:send")).status_code == 405
    assert (await front.http.get("/tasks?contextId=%00")).status_code == 400
    assert (await front.http.get("/tasks/%00")).status_code == 400
    assert (await front.http.get("/tasks?pageSize=0")).status_code == 400
    assert (await front.http.get("/extendedAgentCard")).status_code == 400
    assert await front.stored() == 1


@pytest.mark.parametrize(
    ("prefix", "canceled"), [("", "TASK_STATE_CANCELED"), ("/v1", "TASK_STATE_CANCELLED")]
)
async def test_a_state_in_a_query_may_be_a_number(front: Front, prefix: str, canceled: str) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    await front.call("CancelTask", {"id": task_id})
    for state, found in (("5", 1), (canceled, 1), ("3", 0), ("0", 1)):
        assert (await front.http.get(f"{prefix}/tasks?status={state}")).json()["totalSize"] == found
    for wrong in ("9", "-1", "99999999999999999999", "\u00b2"):
        assert (await front.http.get(f"{prefix}/tasks", params={"status": wrong})).status_code == 400


@pytest.mark.parametrize("prefix", ["", "/acme", "/v1"])
async def test_a_stream_is_not_begun_for_its_head(front: Front, prefix: str) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    response = await front.http.head(f"{prefix}/tasks/{task_id}:subscribe")
    assert (response.status_code, response.headers["Allow"]) == (405, "GET, POST")
    assert (await front.http.head(f"{prefix}/tasks/{task_id}")).status_code == 200


@pytest.mark.parametrize(
    ("path", "allowed"),
    [
        ("/tasks/a/pushNotificationConfigs", "GET, HEAD, POST"),
        ("/acme/tasks/a/pushNotificationConfigs/b", "DELETE, GET, HEAD"),
        ("/v1/tasks", "GET, HEAD"),
        ("/message:send", "POST"),
        ("/acme/tasks/a:cancel", "POST"),
        ("/", "POST"),
    ],
)
async def test_all_methods_of_a_path_are_named(front: Front, path: str, allowed: str) -> None:
    response = await front.http.put(path, json={})
    if "cancel" in path:  # nor is it taken for a task with this id
        response = await front.http.get(path)
    assert (response.status_code, response.headers["Allow"]) == (405, allowed)
    assert allowed in response.json()["error"]["message"]
