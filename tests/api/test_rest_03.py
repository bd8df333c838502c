"""HTTP+JSON 0.3 under /v1. That the shapes are right is judged by the protobuf classes of 0.3's own proto, strictly."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from a2a.compat.v0_3 import a2a_v0_3_pb2 as pb
from google.protobuf.json_format import ParseDict  # type: ignore[import-untyped] # its stubs are a package of their own

from api.wire import v03_rest
from perdure.tasks import TaskState
from tests.api.front import Front, Json, Live, answer, at_once, chunk, says

TASK = "/v1/tasks/{}".format


def said(words: str = "hello", **members: Any) -> Json:
    """A SendMessageRequest that does not wait."""
    return {
        "message": {"messageId": str(uuid4()), "role": "ROLE_USER", "content": [{"text": words}], **members}
    }


async def sent(front: Front, body: Json | None = None) -> Json:
    response = await front.http.post("/v1/message:send", json=body or said())
    assert response.status_code == 200, response.text
    ParseDict(response.json(), pb.SendMessageResponse())
    task: Json = response.json()["task"]
    return task


async def test_send_get_list_and_cancel(front: Front) -> None:
    task = await sent(front)
    assert task["status"]["state"] == "TASK_STATE_SUBMITTED"
    assert task["history"][0]["content"] == [{"text": "hello"}]
    got = (await front.http.get(TASK(task["id"]))).json()
    ParseDict(got, pb.Task())
    assert got == task
    assert "history" not in (await front.http.get(TASK(task["id"]) + "?historyLength=0")).json()
    listed = (await front.http.get("/v1/tasks?status=TASK_STATE_SUBMITTED")).json()
    assert listed["tasks"] == [task]
    canceled = (await front.http.post(TASK(task["id"]) + ":cancel", json={})).json()
    ParseDict(canceled, pb.Task())
    assert canceled["status"]["state"] == "TASK_STATE_CANCELLED"
    for name, number in (
        ("TASK_STATE_CANCELLED", 1),
        ("canceled", 1),
        ("TASK_STATE_UNSPECIFIED", 1),
        ("failed", 0),
    ):
        assert (await front.http.get(f"/v1/tasks?status={name}")).json()["totalSize"] == number
    assert (await front.http.get("/v1/tasks?status=odd")).status_code == 400


async def test_a_blocking_send_waits(echoing: Front) -> None:
    task = await sent(echoing, said("hi") | {"configuration": {"blocking": True}})
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["artifacts"][0]["parts"] == [{"text": "hi"}]
    asked = await sent(echoing, said("so?") | {"configuration": {"blocking": True}})
    assert asked["status"]["message"]["role"] == "ROLE_AGENT"


@pytest.mark.parametrize(
    "message",
    [
        {"message_id": "m", "role": "ROLE_USER", "content": [{"text": "hello"}]},
        {"messageId": "m", "role": 1, "content": [{"text": "hello"}]},
        {"kind": "message", "messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hello"}]},
    ],
)
@pytest.mark.parametrize("member", ["message", "request"])
async def test_every_spelling_is_understood(front: Front, message: Json, member: str) -> None:
    task = await sent(front, {member: message})
    assert task["history"][0]["content"] == [{"text": "hello"}]


@pytest.mark.parametrize(
    "member",
    ["pushNotification", "push_notification", "pushNotificationConfig", "push_notification_config"],
)
async def test_a_send_brings_its_push_config_in_every_spelling(pushing: Front, member: str) -> None:
    task = await sent(pushing, said() | {"configuration": {member: {"url": "https://hook.test/a"}}})
    listed = (await pushing.http.get(TASK(task["id"]) + "/pushNotificationConfigs")).json()
    assert [each["pushNotificationConfig"]["url"] for each in listed["configs"]] == ["https://hook.test/***"]


@pytest.mark.parametrize("member", ["referenceTaskIds", "reference_task_ids"])
async def test_references_are_handed_on(front: Front, member: str) -> None:
    await sent(front, {"message": said()["message"] | {member: ["a", "b"]}})
    assert (await front.takes()).conversation[-1].reference_task_ids == ("a", "b")


async def test_files_and_data(front: Front) -> None:
    parts = [
        {"file": {"fileWithBytes": "QVA4PQ==", "mimeType": "text/plain", "name": "f"}},
        {"file": {"fileWithUri": "https://a.test/f"}, "metadata": {"a": "b"}},
        {"data": {"data": {"a": [1, None]}}},
    ]
    task = await sent(front, said(content=parts))
    assert task["history"][0]["content"] == parts
    new = (await front.http.get(f"/tasks/{task['id']}")).json()["history"][0]["parts"]
    assert new[0] == {"raw": "AP8=", "mediaType": "text/plain", "filename": "f"}
    assert new[2] == {"data": {"a": [1, None]}}


def test_a_bare_message() -> None:
    for sent_back in (v03_rest.sent(says("hi")), v03_rest.update(says("hi"))):
        assert sent_back["message"]["content"] == [{"text": "hi"}]
        ParseDict(sent_back, pb.SendMessageResponse())


async def test_data_that_0_3_cannot_spell_is_wrapped(front: Front) -> None:
    sent_in = (await front.http.post("/message:send", json=at_once(parts=[{"data": [1]}]))).json()["task"]
    task = (await front.http.get(TASK(sent_in["id"]))).json()
    part = task["history"][0]["content"][0]
    assert part == {"data": {"data": {"value": [1]}}, "metadata": {"data_part_compat": True}}
    again = await sent(front, said(content=[part]))
    assert (await front.http.get(f"/tasks/{again['id']}")).json()["history"][0]["parts"] == [{"data": [1]}]


async def test_streams(front: Front) -> None:
    end = {"state": TaskState.COMPLETED, "new_artifacts": [chunk("a", append=False), chunk("b", last=True)]}
    front.plays(lambda turn: end | {"status_message": says("done")})
    async with Live(front.app, "POST", "/v1/message:stream", said()) as live:
        frames = await live.rest()
    for frame in frames:
        ParseDict(frame.data, pb.StreamResponse())
    assert [next(iter(frame.data)) for frame in frames] == [
        "task",
        "statusUpdate",
        "artifactUpdate",
        "artifactUpdate",
        "statusUpdate",
    ]
    assert "final" not in frames[1].data["statusUpdate"]
    assert frames[3].data["artifactUpdate"]["append"] is True
    assert frames[4].data["statusUpdate"]["final"] is True
    assert frames[4].data["statusUpdate"]["status"]["message"]["content"] == [{"text": "done"}]
    task_id = frames[0].data["task"]["id"]
    resumed = Live(front.app, "GET", TASK(task_id) + ":subscribe", None, {"Last-Event-ID": str(frames[3].id)})
    async with resumed as live:
        assert [frame.data for frame in await live.rest()] == [frames[4].data]


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_subscribe(front: Front, method: str) -> None:
    task = await sent(front)
    turn = await front.takes()
    async with Live(front.app, method, TASK(task["id"]) + ":subscribe") as live:
        first = await live.frame()
        assert first is not None
        assert first.data["task"]["status"]["state"] == "TASK_STATE_WORKING"
        await front.ends(turn, **answer("hi"))
        assert len(await live.rest()) == 2
    assert (await front.http.request(method, TASK(task["id"]) + ":subscribe")).status_code == 400


async def test_push_configs(pushing: Front) -> None:
    task = await sent(pushing)
    path = TASK(task["id"]) + "/pushNotificationConfigs"
    config = {"id": "a", "url": "https://a.test", "token": "t", "authentication": {"schemes": ["Bearer"]}}
    name = f"tasks/{task['id']}/pushNotificationConfigs"
    named = {"name": f"{name}/a", "pushNotificationConfig": config}
    shown = {"id": "a", "url": "https://a.test", "authentication": {"schemes": ["Bearer"]}}
    # As the proto has it, and as the official client sends it.
    for body in (named, {"parent": f"tasks/{task['id']}", "config_id": "a", "config": named}):
        saved = (await pushing.http.post(path, json=body)).json()
        ParseDict(saved, pb.TaskPushNotificationConfig())
        assert saved == named | {"pushNotificationConfig": shown}
    other = {"config_id": "b", "config": {"push_notification_config": {"url": "https://b.test"}}}
    assert (await pushing.http.post(path, json=other)).json()["name"] == f"{name}/b"
    assert (await pushing.http.get(f"{path}/a")).json() == named | {"pushNotificationConfig": shown}
    listed = (await pushing.http.get(path)).json()
    ParseDict(listed, pb.ListTaskPushNotificationConfigResponse())
    assert [each["name"] for each in listed["configs"]] == [f"{name}/a", f"{name}/b"]
    assert "nextPageToken" not in listed
    gone = await pushing.http.delete(f"{path}/a")
    assert (gone.status_code, gone.json()) == (200, {})
    assert (await pushing.http.get(f"{path}/a")).status_code == 404
    assert (await pushing.http.post(path, json={})).status_code == 400
    inline = said() | {"configuration": {"push_notification": config}}
    task = await sent(pushing, inline)
    assert len((await pushing.http.get(TASK(task["id"]) + "/pushNotificationConfigs")).json()["configs"]) == 1


async def test_errors_say_what_they_are_in_the_words_of_0_3(front: Front) -> None:
    response = await front.http.get("/v1/tasks/x")
    assert response.status_code == 404
    body = response.json()
    assert (body["type"], body["message"]) == ("TaskNotFoundError", "there is no task x")
    assert body["error"]["details"][0]["reason"] == "TASK_NOT_FOUND"
    for wrong, status, kind in (
        ({"message": {}}, 400, "InvalidParamsError"),
        (said(content=[{}]), 400, "InvalidParamsError"),
        (said(content=[{"file": {}}]), 400, "InvalidParamsError"),
        (said(taskId="x"), 404, "TaskNotFoundError"),
    ):
        response = await front.http.post("/v1/message:send", json=wrong)
        assert (response.status_code, response.json()["type"]) == (status, kind)
    assert (await front.http.get("/v1/nothing")).json()["type"] == "MethodNotFoundError"
    assert (await front.http.get("/v1/card")).json()["type"] == "UnsupportedOperationError"
    assert await front.stored() == 0


@pytest.mark.parametrize(
    ("version", "status"), [("0.3", 200), ("0.3.0", 200), ("", 200), ("1.0", 400), ("9.0", 400)]
)
async def test_the_version_is_0_3(front: Front, version: str, status: int) -> None:
    response = await front.http.get("/v1/tasks", headers={"A2A-Version": version})
    assert response.status_code == status


async def test_there_is_no_tenant_called_v1(front: Front) -> None:
    await sent(front)
    assert (await front.http.get("/v1/tasks")).json()["tasks"][0]["history"][0]["content"]
    assert (await front.http.get("/v2/tasks")).json()["tasks"][0]["history"][0]["parts"]


@pytest.mark.parametrize(
    ("sent_as", "file"), [("AP8=", "AP8="), ("QVA4PQ==", "AP8="), ("YQ==", "YQ=="), ("", "")]
)
async def test_a_file_may_be_encoded_once_or_twice(front: Front, sent_as: str, file: str) -> None:
    """By the letter of the proto, or as the official clients do."""
    task = await sent(front, said(content=[{"file": {"fileWithBytes": sent_as, "mimeType": "text/plain"}}]))
    new = (await front.http.get(f"/tasks/{task['id']}")).json()["history"][0]["parts"]
    assert new == [{"raw": file, "mediaType": "text/plain"}]
