"""Several agents behind one front door: by path and by tenant, each with its own card and its own tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from perdure.owners import owner_at
from perdure.settings import AuthSettings
from perdure.storage import TaskQuery
from perdure.storage.operators import WorkerBeat
from perdure.tasks import ANONYMOUS
from tests.api.front import Front, answer, at_work, opened_front
from tests.api.test_authentication import key_for

Json = dict[str, Any]


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """Two agents, that the test plays."""
    async with opened_front(
        {"capabilities": {"push_notifications": True}}, agents=("weather", "travel")
    ) as front:
        yield front


def stranger(front: Front) -> httpx.AsyncClient:
    """A client that asks for what no document tells of."""
    return httpx.AsyncClient(transport=httpx.ASGITransport(front.app), base_url="http://agent.test")


def sending(text: str = "hello", **members: Any) -> Json:
    message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": text}], "contextId": "talk"}
    return {"message": message, "configuration": {"returnImmediately": True}, **members}


async def rpc(front: Front, path: str, method: str, params: Any) -> Json:
    body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
    reply: Json = (await front.http.post(path, json=body)).json()
    return reply


async def task_at(front: Front, agent: str, **members: Any) -> str:
    reply = await rpc(front, f"/agents/{agent}", "SendMessage", sending(**members))
    return str(reply["result"]["task"]["id"])


# ---------------------------------------------------------------------- where what is


async def test_which_agents_there_are(front: Front) -> None:
    listed = (await front.http.get("/agents")).json()["agents"]
    assert [(each["name"], each["card"]) for each in listed] == [
        (name, f"http://agent.test/agents/{name}/.well-known/agent-card.json")
        for name in ("weather", "travel")
    ]
    for each in listed:
        card = (await front.http.get(httpx.URL(each["card"]).path)).json()
        assert card["name"] == each["name"]
        assert card["url"] == each["url"]


async def test_a_card_leads_to_its_agent_by_path_and_by_tenant(front: Front) -> None:
    card = (await front.http.get("/agents/travel/.well-known/agent-card.json")).json()
    assert [
        (each["url"], each["protocolBinding"], each["protocolVersion"], each.get("tenant"))
        for each in card["supportedInterfaces"]
    ] == [
        ("http://agent.test/agents/travel", "JSONRPC", "1.0", None),
        ("http://agent.test/agents/travel", "HTTP+JSON", "1.0", None),
        ("http://agent.test/agents/travel", "JSONRPC", "0.3", None),
        ("http://agent.test/agents/travel", "HTTP+JSON", "0.3", None),
        ("http://agent.test/", "JSONRPC", "1.0", "travel"),
        ("http://agent.test/", "HTTP+JSON", "1.0", "travel"),
    ]


async def test_the_root_has_the_card_of_the_first(front: Front) -> None:
    cards = [
        (await front.http.get(f"{path}/.well-known/agent-card.json")).json()
        for path in ("", "/agents/weather")
    ]
    assert cards[0] == cards[1]


@pytest.mark.parametrize("path", ["/agents/travel", "/agents/travel/"])
async def test_json_rpc_below_an_agents_path(front: Front, path: str) -> None:
    reply = await rpc(front, path, "SendMessage", sending())
    turn = await front.takes("travel")
    assert reply["result"]["task"]["id"] == str(turn.claim.task_id)
    assert turn.claim.owner == owner_at("travel", ANONYMOUS)


@pytest.mark.parametrize("path", ["/agents/travel", "/agents/travel/acme", "/travel"])
async def test_rest_below_an_agents_path_and_of_a_tenant_of_its_name(front: Front, path: str) -> None:
    sent = await front.http.post(f"{path}/message:send", json=sending())
    turn = await front.takes("travel")
    task = str(turn.claim.task_id)
    assert sent.json()["task"]["id"] == task
    await front.ends(turn, **answer("done"))
    found = await front.http.get(f"{path}/tasks/{task}")
    assert found.json()["status"]["state"] == "TASK_STATE_COMPLETED"
    listed = await front.http.get(f"{path}/tasks")
    assert [each["id"] for each in listed.json()["tasks"]] == [task]


async def test_0_3_below_an_agents_path(front: Front) -> None:
    message = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hi"}]}
    params = {"message": message, "configuration": {"blocking": False}}
    reply = await rpc(front, "/agents/travel", "message/send", params)
    assert reply["result"]["id"] == str((await front.takes("travel")).claim.task_id)
    message = {"messageId": "m", "role": "ROLE_USER", "content": [{"text": "hi"}]}
    await front.http.post("/agents/travel/v1/message:send", json={"message": message})
    await front.takes("travel")
    refused = await front.http.get("/agents/travel/v1/tasks/none")
    assert refused.json()["type"] == "TaskNotFoundError"  # the form of 0.3


async def test_without_a_tenant_the_root_is_the_first_agent(front: Front) -> None:
    await rpc(front, "/", "SendMessage", sending())
    await front.takes("weather")


async def test_by_a_tenants_name_the_root_is_each_of_them(front: Front) -> None:
    reply = await rpc(front, "/", "SendMessage", sending(tenant="travel"))
    task = reply["result"]["task"]["id"]
    assert task == str((await front.takes("travel")).claim.task_id)
    assert "result" in await rpc(front, "/", "GetTask", {"tenant": "travel", "id": task})
    for elsewhere in ({"id": task}, {"tenant": "weather", "id": task}):
        assert (await rpc(front, "/", "GetTask", elsewhere))["error"]["code"] == -32001


async def test_a_tenant_that_is_no_agent_is_told_which_there_are(front: Front) -> None:
    error = (await rpc(front, "/", "SendMessage", sending(tenant="rain")))["error"]
    assert error["code"] == -32602
    assert "weather, travel" in str(error)
    refused = await front.http.post("/rain/message:send", json=sending())
    assert refused.status_code == 400
    assert "weather, travel" in refused.text


@pytest.mark.parametrize(
    "path", ["/agents/rain", "/agents/rain/", "/agents/rain/tasks", "/agents/weather2/tasks"]
)
async def test_an_agent_that_is_not_there(front: Front, path: str) -> None:
    async with stranger(front) as http:
        for method in ("GET", "POST"):
            refused = await http.request(method, path)
            assert refused.status_code == 404
            assert "weather, travel" in refused.text


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/ops", "/agents"])
async def test_what_is_the_servers_is_not_below_an_agent(front: Front, path: str) -> None:
    async with stranger(front) as http:
        assert (await http.get(f"/agents/travel{path}")).status_code == 404
        assert (await http.get(path)).status_code == 200


async def test_the_document_of_each_agent(front: Front) -> None:
    for path, title in (("/agents/travel", "travel"), ("", "weather")):
        document = (await front.http.get(f"{path}/openapi.json")).json()
        assert document["info"]["title"] == title
        assert (await front.http.get(f"{path}/docs")).status_code == 200


async def test_behind_a_path_of_a_proxy(front: Front) -> None:
    transport = httpx.ASGITransport(front.app, root_path="/a2a")
    async with httpx.AsyncClient(transport=transport, base_url="http://agent.test") as http:
        card = await http.get("/a2a/agents/travel/.well-known/agent-card.json")
        assert card.json()["name"] == "travel"


async def test_an_address_with_a_path_is_the_agents_own() -> None:
    config = {"deployment": {"url": "https://example.com/weather"}}
    async with opened_front(config, agents=("weather", "travel")) as front:
        card = (await front.http.get("/agents/weather/.well-known/agent-card.json")).json()
        assert {each["url"] for each in card["supportedInterfaces"]} == {"https://example.com/weather"}


async def test_the_operators_page_tells_agents_apart(front: Front) -> None:
    await task_at(front, "travel")
    other = await task_at(front, "weather")
    pages = await front.http.get("/ops/tasks?agent=travel")
    assert "anonymous at travel" in pages.text
    assert other not in pages.text
    linked = "/ops/tasks?owner=anonymous&amp;agent=travel"
    assert linked in pages.text
    assert (await front.http.get(linked.replace("&amp;", "&"))).text.count("<article") == 1
    assert (await front.http.get("/ops/tasks?owner=anonymous")).text.count("<article") == 0
    for path in ("/ops", "/ops/conversations", "/ops/workers", f"/ops/tasks/{other}"):
        assert (await front.http.get(path)).status_code == 200
    talk = await front.http.get("/ops/conversation?owner=anonymous&agent=travel&context=talk")
    assert "anonymous at travel" in talk.text
    await front.storage.beat(
        WorkerBeat(worker_id="w", slots=1, running=0, version="1", agents=("travel", "weather"))
    )
    assert "serves" in (await front.http.get("/ops/workers")).text


# ---------------------------------------------------------------------- what is kept apart, what is shared


async def test_one_conversation_id_at_two_agents_is_two_conversations(front: Front) -> None:
    tasks = {agent: await task_at(front, agent) for agent in ("weather", "travel")}
    for agent, task in tasks.items():
        turn = await front.takes(agent)
        assert (str(turn.claim.task_id), len(turn.conversation)) == (task, 1)
        listed = await rpc(front, f"/agents/{agent}", "ListTasks", {"contextId": "talk"})
        assert [each["id"] for each in listed["result"]["tasks"]] == [task]


async def test_a_task_of_another_agent_is_not_referred_to() -> None:
    """What a handler gets of `referenceTaskIds` is of its own agent."""
    seen: list[int] = []

    def handler(messages: Any, turn: Any) -> str:
        seen.append(len(turn.referenced_tasks))
        return "done"

    async with opened_front(handler=handler, agents=("weather", "travel")) as front, at_work(front):
        blocking: Json = {"configuration": {}}
        first = await rpc(front, "/agents/weather", "SendMessage", sending() | blocking)
        for agent in ("travel", "weather"):
            params = sending() | blocking
            params["message"]["referenceTaskIds"] = [first["result"]["task"]["id"]]
            reply = await rpc(front, f"/agents/{agent}", "SendMessage", params)
            assert reply["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert seen == [0, 0, 1]


async def test_a_slow_agent_takes_no_slot_from_another() -> None:
    """In one process: the turns of one fill all its slots, and the other's run all the same."""
    go = asyncio.Event()

    async def handler(messages: Any, turn: Any) -> str:
        if messages[-1]["content"] == "slow":
            await go.wait()
        return "done"

    async with (
        opened_front({"slots": 1}, handler=handler, agents=("weather", "travel")) as front,
        at_work(front),
    ):
        for number in range(3):
            params = sending("slow")
            params["message"]["contextId"] = f"talk {number}"
            await rpc(front, "/agents/weather", "SendMessage", params)
        reply = await rpc(front, "/agents/travel", "SendMessage", sending("quick") | {"configuration": {}})
        assert reply["result"]["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
        go.set()


async def test_who_calls_is_asked_below_every_agent() -> None:
    async with opened_front(auth=AuthSettings(api_keys=True), agents=("weather", "travel")) as front:
        key = await key_for(front.storage, "ada")
        async with stranger(front) as http:
            for path in ("/agents/travel", "/agents/travel/tasks", "/agents/nobody", "/"):
                assert (await http.post(path, json={})).status_code == 401
        for path in ("/agents", "/agents/travel/.well-known/agent-card.json", "/agents/travel/docs"):
            assert (await front.http.get(path)).status_code == 200
        sent = await front.http.post(
            "/agents/travel/message:send", json=sending(), headers={"X-API-Key": key}
        )
        assert sent.status_code == 200
        found = await front.storage.list_tasks(TaskQuery(owner=owner_at("travel", "ada")))
        assert found.total == 1


async def test_an_unauthenticated_request_below_an_agent_is_answered_as_json_rpc() -> None:
    async with opened_front(auth=AuthSettings(api_keys=True), agents=("weather", "travel")) as front:
        body = {"jsonrpc": "2.0", "id": 9, "method": "GetTask", "params": {"id": "x"}}
        refused = await front.http.post("/agents/travel", json=body)
        assert (refused.status_code, refused.json()["id"]) == (401, 9)


async def test_nobody_comes_in_by_a_name_that_is_a_callers_at_an_agent() -> None:
    async with opened_front(auth=AuthSettings(api_keys=True)) as front:
        await key_for(front.storage, "ada")
        key = await key_for(front.storage, owner_at("travel", "ada"))
        with capture_logs() as logs:
            refused = await front.http.get("/tasks", headers={"X-API-Key": key})
        assert refused.status_code == 401
        assert [line["reason"] for line in logs] == ["a name that is none of a caller"]
