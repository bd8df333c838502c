"""Push notification configs: create, get, list, delete, in both versions and over REST; refused where push is switched off."""

from __future__ import annotations

from uuid import UUID

import pytest
from jsonschema import ValidationError  # type: ignore[import-untyped] # its stubs are a package of their own

from api.callbacks import CONFIGS_PER_READ
from perdure.storage import WebhookConfig
from perdure.tasks import ANONYMOUS
from tests.api.documented import check_request
from tests.api.front import Front, Json, at_once, message, message03

HOOK = "https://hook.test/a"
FULL = {"url": HOOK, "token": "t", "authentication": {"scheme": "Bearer", "credentials": "c"}}
SHOWN_HOOK = "https://hook.test/***"
SHOWN = {"url": SHOWN_HOOK, "authentication": {"scheme": "Bearer"}}
"""What is told of it again: no secrets."""


async def a_task(front: Front) -> str:
    task_id: str = (await front.call("SendMessage", at_once()))["task"]["id"]
    return task_id


async def test_a_config_lives_from_create_to_delete(pushing: Front) -> None:
    task_id = await a_task(pushing)
    made = await pushing.call("CreateTaskPushNotificationConfig", {"taskId": task_id, **FULL})
    assert made == {"id": made["id"], "taskId": task_id, **SHOWN}
    assert made["id"]
    name = {"taskId": task_id, "id": made["id"]}
    assert await pushing.call("GetTaskPushNotificationConfig", name) == made
    listed = await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id})
    assert listed == {"configs": [made], "nextPageToken": ""}
    for _ in range(2):  # deleting again is no error
        assert await pushing.call("DeleteTaskPushNotificationConfig", name) == {}
    assert (await pushing.error("GetTaskPushNotificationConfig", name))["code"] == -32001


async def test_configs_come_in_pages(pushing: Front) -> None:
    task_id = await a_task(pushing)
    for name in ("a", "b", "c"):
        await pushing.call("CreateTaskPushNotificationConfig", {"taskId": task_id, "id": name, "url": HOOK})
    page = await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id, "pageSize": 2})
    assert [config["id"] for config in page["configs"]] == ["a", "b"]
    params = {"taskId": task_id, "pageToken": page["nextPageToken"]}
    rest = await pushing.call("ListTaskPushNotificationConfigs", params)
    assert [config["id"] for config in rest["configs"]] == ["c"]


async def test_the_shapes_of_0_3(pushing: Front) -> None:
    task_id = await a_task(pushing)
    hook = {"url": HOOK, "token": "t", "authentication": {"schemes": ["Bearer"], "credentials": "c"}}
    made = await pushing.call(
        "tasks/pushNotificationConfig/set", {"taskId": task_id, "pushNotificationConfig": hook}
    )
    assert made["taskId"] == task_id
    shown = {"url": SHOWN_HOOK, "authentication": {"schemes": ["Bearer"]}}
    assert made["pushNotificationConfig"] == shown | {"id": made["pushNotificationConfig"]["id"]}
    assert await pushing.call("tasks/pushNotificationConfig/get", {"id": task_id}) == made
    assert await pushing.call("tasks/pushNotificationConfig/list", {"id": task_id}) == [made]
    name = {"id": task_id, "pushNotificationConfigId": made["pushNotificationConfig"]["id"]}
    assert await pushing.call("tasks/pushNotificationConfig/get", name) == made
    assert await pushing.call("tasks/pushNotificationConfig/delete", name) is None
    assert (await pushing.error("tasks/pushNotificationConfig/get", {"id": task_id}))["code"] == -32001


async def test_set_without_an_id_replaces_and_get_without_an_id_finds_any(pushing: Front) -> None:
    task_id = await a_task(pushing)
    for url in (HOOK, "https://other.test/b"):
        params = {"taskId": task_id, "pushNotificationConfig": {"url": url}}
        await pushing.call("tasks/pushNotificationConfig/set", params)
    (only,) = await pushing.call("tasks/pushNotificationConfig/list", {"id": task_id})
    assert only["pushNotificationConfig"]["url"] == "https://other.test/***"
    other = await a_task(pushing)
    made = await pushing.call("CreateTaskPushNotificationConfig", {"taskId": other, "id": "x", "url": HOOK})
    found = await pushing.call("tasks/pushNotificationConfig/get", {"id": other})
    assert found["pushNotificationConfig"]["id"] == made["id"]


@pytest.mark.parametrize("wrong", [{}, {"pushNotificationConfigId": None}, {"pushNotificationConfigId": ""}])
async def test_a_delete_of_0_3_names_its_config(pushing: Front, wrong: Json) -> None:
    """Else it would say that it is done, and nothing would be deleted."""
    task_id = await a_task(pushing)
    params = {"taskId": task_id, "pushNotificationConfig": {"url": HOOK}}
    made = await pushing.call("tasks/pushNotificationConfig/set", params)
    error = await pushing.error("tasks/pushNotificationConfig/delete", {"id": task_id, **wrong})
    assert (error["code"], error["data"]["field"]) == (-32602, "pushNotificationConfigId")
    assert await pushing.call("tasks/pushNotificationConfig/list", {"id": task_id}) == [made]
    request = {"jsonrpc": "2.0", "id": 1, "method": "tasks/pushNotificationConfig/delete"}
    with pytest.raises(ValidationError):
        check_request("POST", "/", {**request, "params": {"id": task_id, **wrong}})


async def test_the_paths_of_rest(pushing: Front) -> None:
    task_id = await a_task(pushing)
    path = f"/tasks/{task_id}/pushNotificationConfigs"
    made = (await pushing.http.post(path, json={"taskId": "another", **FULL})).json()
    assert made == {"id": made["id"], "taskId": task_id, **SHOWN}
    assert (await pushing.http.get(f"{path}/{made['id']}")).json() == made
    assert (await pushing.http.get(path, params={"pageSize": 1})).json()["configs"] == [made]
    response = await pushing.http.delete(f"{path}/{made['id']}")
    assert (response.status_code, response.json()) == (200, {})
    assert (await pushing.http.get(f"{path}/{made['id']}")).status_code == 404


async def test_a_config_may_come_with_the_message(pushing: Front) -> None:
    new = {"returnImmediately": True, "taskPushNotificationConfig": FULL}
    task = (await pushing.call("SendMessage", {"message": message(), "configuration": new}))["task"]
    old = {"blocking": False, "pushNotificationConfig": {"id": "x", "url": HOOK}}
    other = await pushing.call("message/send", {"message": message03(), "configuration": old})
    for task_id in (task["id"], other["id"]):
        listed = await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id})
        assert [config["url"] for config in listed["configs"]] == [SHOWN_HOOK]


@pytest.mark.parametrize(
    "wrong",
    [
        {"url": "ftp://hook.test"},
        {"url": "hook"},
        {"url": 1},
        {"url": None},
        {"authentication": {}},
        {"authentication": {"scheme": ""}},
        {"id": "x" * 257},
        {"token": []},
        {"taskId": None},
    ],
)
async def test_a_wrong_config_is_refused_and_not_stored(pushing: Front, wrong: Json) -> None:
    task_id = await a_task(pushing)
    params = {"taskId": task_id, **FULL} | wrong
    assert (await pushing.error("CreateTaskPushNotificationConfig", params))["code"] == -32602
    assert (await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id}))["configs"] == []


async def test_there_are_no_configs_of_unknown_tasks(pushing: Front) -> None:
    for method, params in (
        ("CreateTaskPushNotificationConfig", {"taskId": "x", "url": HOOK}),
        ("GetTaskPushNotificationConfig", {"taskId": "x", "id": "y"}),
        ("ListTaskPushNotificationConfigs", {"taskId": "x"}),
        ("DeleteTaskPushNotificationConfig", {"taskId": "x", "id": "y"}),
    ):
        assert (await pushing.error(method, params))["code"] == -32001


async def test_all_of_it_is_refused_where_push_is_switched_off(front: Front) -> None:
    task_id = await a_task(front)
    name = {"taskId": task_id, "id": "y"}
    old = {"id": task_id, "pushNotificationConfigId": "y"}
    for method, params in (
        ("CreateTaskPushNotificationConfig", {"taskId": task_id, "url": HOOK}),
        ("GetTaskPushNotificationConfig", name),
        ("ListTaskPushNotificationConfigs", name),
        ("DeleteTaskPushNotificationConfig", name),
        ("tasks/pushNotificationConfig/set", {"taskId": task_id, "pushNotificationConfig": {"url": HOOK}}),
        ("tasks/pushNotificationConfig/get", old),
        ("tasks/pushNotificationConfig/list", old),
        ("tasks/pushNotificationConfig/delete", old),
    ):
        assert (await front.error(method, params))["code"] == -32003


async def test_what_is_wrong_with_an_address_is_said_in_words(pushing: Front) -> None:
    params = {"taskId": await a_task(pushing), "url": "ftp://hook.test"}
    error = await pushing.error("CreateTaskPushNotificationConfig", params)
    assert error["message"] == "url: must be an address that begins with http:// or https://"


async def test_a_tenant_is_told_to_whoever_names_it(pushing: Front) -> None:
    task_id = await a_task(pushing)
    params = {"tenant": "acme", "taskId": task_id, "id": "a", "url": SHOWN_HOOK}
    assert await pushing.call("CreateTaskPushNotificationConfig", params | {"url": HOOK}) == params
    name = {"taskId": task_id, "id": "a"}
    assert await pushing.call("GetTaskPushNotificationConfig", {"tenant": "acme", **name}) == params
    assert "tenant" not in await pushing.call("GetTaskPushNotificationConfig", name)
    path = f"/tasks/{task_id}/pushNotificationConfigs"
    assert (await pushing.http.get(f"/acme{path}")).json()["configs"] == [params]
    made = (await pushing.http.post(f"/acme{path}", json={"url": HOOK})).json()
    assert made["tenant"] == "acme"
    assert (await pushing.http.get(f"{path}?tenant=acme")).json()["configs"] == sorted(
        [params, made], key=lambda config: str(config["id"])
    )
    for wrong in ("GetTaskPushNotificationConfig", "ListTaskPushNotificationConfigs"):
        assert (await pushing.error(wrong, {**name, "tenant": []}))["code"] == -32602


async def test_0_3_has_no_pages_and_tells_all_of_them(pushing: Front) -> None:
    task_id = await a_task(pushing)
    names = [f"{number:03}" for number in range(CONFIGS_PER_READ * 2 + 1)]
    for name in names:
        config = WebhookConfig(config_id=name, task_id=UUID(task_id), url=HOOK)
        await pushing.storage.save_webhook_config(ANONYMOUS, config)
    listed = await pushing.call("tasks/pushNotificationConfig/list", {"id": task_id})
    assert [each["pushNotificationConfig"]["id"] for each in listed] == names
