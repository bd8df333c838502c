"""What belongs to one binding: JSON-RPC (section 9), HTTP+JSON (section 11)."""

from __future__ import annotations

import orjson
import pytest

from perdure.agent import Turn
from tests.api.front import Live, at_once, at_work, message, opened_front, texts

from .marks import BOTH_RPC, IN_ONE_LOOP, NEW, REST, RPC, agent, must, should
from .speakers import METHODS, RestSpeaker, Speaker, state
from .test_push import HOOK

pytestmark = IN_ONE_LOOP

A2A_JSON = "application/a2a+json"

# ---------------------------------------------------------------------- 9


@must("9.1", "An answer is a JSON-RPC 2.0 response with Content-Type application/json", *BOTH_RPC)
async def test_an_answer_is_json_rpc(speaker: Speaker) -> None:
    for params in (speaker.sending(), {}):
        response = await speaker.front.post(speaker.methods["send"], params)
        reply = response.json()
        assert response.headers["content-type"] == "application/json"
        assert reply["jsonrpc"] == "2.0"
        assert ("result" in reply) != ("error" in reply)


@must("9.1", "The id of a request comes back as it was: text, number or null", *BOTH_RPC)
async def test_ids_come_back(speaker: Speaker) -> None:
    for request_id in ("a", "", "ü", 0, 1, -7, 2**53, None):
        for params in (speaker.sending(), {}):
            body = {"jsonrpc": "2.0", "id": request_id, "method": speaker.methods["send"], "params": params}
            assert (await speaker.front.http.post("/", json=body)).json()["id"] == request_id


@should("9.1", "A request without an id is answered as well: A2A knows no notifications", *BOTH_RPC)
async def test_a_request_without_an_id(speaker: Speaker) -> None:
    body = {"jsonrpc": "2.0", "method": speaker.methods["send"], "params": speaker.sending()}
    reply = (await speaker.front.http.post("/", json=body)).json()
    assert reply["id"] is None
    assert "result" in reply


@must("9.2", "Service parameters come as HTTP headers", RPC, REST)
async def test_service_parameters_are_headers(speaker: Speaker) -> None:
    headers = {"A2A_Version": "1.0", "A2A_Extensions": "https://ext.test/a,https://ext.test/b"}
    assert await speaker.answer("send", speaker.sending(), **headers)


@must("9.4", "All methods are there under their names", *BOTH_RPC)
async def test_every_method_is_there(speaker: Speaker) -> None:
    for method in speaker.methods.values():
        headers = {"A2A_Version": "1.0"} if speaker.binding == RPC else {}
        reply = await speaker.front.post(method, None, **headers)
        if reply.headers["content-type"] == "application/json":
            assert reply.json().get("error", {}).get("code") != -32601, method
        else:
            assert "-32601" not in reply.text
    assert set(speaker.methods) >= set(METHODS) - {"list"}


@must(
    "9.4.2",
    "A stream is text/event-stream; each event is a JSON-RPC response with the id of the request",
    *BOTH_RPC,
)
async def test_events_are_responses(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        await events.live.starts()
        assert events.live.headers["content-type"].startswith("text/event-stream")
        await events.first()  # `raises` and `_result` hold each event against the envelope
        await speaker.cancel(str((await speaker.front.takes()).claim.task_id))
        assert [said.short for said in await events.rest()] == ["WORKING", "CANCELED"]


@should("9.4.2", "An error of a streaming method is a plain answer for whoever names 1.0", RPC)
async def test_errors_before_a_stream(speaker: Speaker) -> None:
    for method, params in (("SubscribeToTask", {"id": "x"}), ("SendStreamingMessage", {"message": {}})):
        response = await speaker.front.post(method, params, A2A_Version="1.0")
        assert response.headers["content-type"] == "application/json"
        assert "error" in response.json()


# ---------------------------------------------------------------------- 11


@must("11.1", "Bodies are read as application/json and as application/a2a+json", REST)
async def test_both_media_types_are_read(speaker: Speaker) -> None:
    for media_type in ("application/json", A2A_JSON, f"{A2A_JSON}; charset=utf-8"):
        response = await speaker.front.http.post(
            "/message:send", content=orjson.dumps(at_once()), headers={"Content-Type": media_type}
        )
        assert response.status_code == 200


@should(
    "11.1",
    "Answers are application/a2a+json for clients that show that they know it, by Accept or Content-Type",
    REST,
)
async def test_the_media_type_of_answers(speaker: Speaker) -> None:
    http, body = speaker.front.http, orjson.dumps(at_once())
    sent = await http.post("/message:send", content=body, headers={"Content-Type": A2A_JSON})
    found = await http.get("/tasks", headers={"Accept": A2A_JSON})
    error = await http.get("/tasks/x", headers={"Accept": A2A_JSON})
    plain = await http.get("/tasks", headers={"Accept": "application/json"})
    types = [response.headers["content-type"] for response in (sent, found, error, plain)]
    assert types == [A2A_JSON, A2A_JSON, A2A_JSON, "application/json"]


@must("11.3", "Every operation is at its path, with its HTTP method", REST)
@agent(capabilities={"push_notifications": True, "extended_agent_card": True})
async def test_paths(speaker: Speaker) -> None:
    task = (await speaker.front.http.post("/message:send", json=at_once())).json()["task"]
    path = f"/tasks/{task['id']}"
    for method, address, body, status in (
        ("GET", path, None, 200),
        ("GET", "/tasks", None, 200),
        ("POST", f"{path}/pushNotificationConfigs", {"id": "c", "url": HOOK}, 200),
        ("GET", f"{path}/pushNotificationConfigs", None, 200),
        ("GET", f"{path}/pushNotificationConfigs/c", None, 200),
        ("DELETE", f"{path}/pushNotificationConfigs/c", None, 200),
        ("GET", "/extendedAgentCard", None, 400),  # there is none, but the path is
        ("POST", f"{path}:cancel", None, 200),
        ("POST", f"{path}:cancel", {}, 400),
        ("POST", f"{path}:subscribe", None, 400),
        ("GET", f"{path}:subscribe", None, 400),
    ):
        response = await speaker.front.http.request(method, address, json=body)
        assert response.status_code == status, (method, address, response.text)


@must("11.3", "Clients may subscribe by GET, as the proto has it, and by POST, as the text has it", REST)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_subscribing_by_get_and_post(speaker: Speaker, method: str) -> None:
    task_id = (await speaker.send())["id"]
    async with Live(speaker.front.app, method, f"/tasks/{task_id}:subscribe") as live:
        frame = await live.frame()
        assert frame is not None
        assert frame.data["task"]["id"] == task_id


@must("11.3", "The tenant may be the first part of every path", REST)
async def test_tenants(speaker: Speaker) -> None:
    http = speaker.front.http
    task = (await http.post("/acme/message:send", json=at_once())).json()["task"]
    assert (await http.get(f"/acme/tasks/{task['id']}")).json()["id"] == task["id"]
    assert (await http.get("/acme/tasks")).json()["totalSize"] == 1
    assert state((await http.post(f"/acme/tasks/{task['id']}:cancel")).json()) == "CANCELED"


@must("3.2.1", "A tenant in a request is taken, whatever it is", *NEW)
async def test_a_tenant_in_the_request(speaker: Speaker) -> None:
    asked = {"tenant": "acme", **speaker.sending()}
    task_id = (await speaker.answer("send", asked))["task"]["id"]
    config = await speaker.create_config(task_id, id="c", url=HOOK, tenant="acme")
    assert config == {"tenant": "acme", "taskId": task_id, "id": "c", "url": "https://hook.test/***"}


@should("3.2.1", "The agent is told of the tenant, as it came", *NEW)
async def test_a_tenant_reaches_the_agent(speaker: Speaker) -> None:
    def tells(messages: object, turn: Turn) -> object:
        return turn.tenant

    async with opened_front(storage=speaker.front.storage, handler=tells) as front, at_work(front):
        asking = type(speaker)(front)
        asked = {"tenant": "Acme & Co", **asking.sending(wait=True)}
        assert texts((await asking.answer("send", asked))["task"]["artifacts"]) == ["Acme & Co"]


@must(
    "11.5",
    "Parameters of a query are camelCase: contextId, pageSize, pageToken, historyLength, includeArtifacts ...",
    REST,
)
async def test_queries_are_camel_case(speaker: Speaker) -> None:
    task = await speaker.send(contextId="talk")
    query = "contextId=talk&status=TASK_STATE_SUBMITTED&pageSize=1&historyLength=0&includeArtifacts=true"
    page = (await speaker.front.http.get(f"/tasks?{query}&statusTimestampAfter=2020-01-01T00:00:00Z")).json()
    assert [found["id"] for found in page["tasks"]] == [task["id"]]
    assert "history" not in page["tasks"][0]
    found = (await speaker.front.http.get(f"/tasks/{task['id']}?historyLength=0")).json()
    assert "history" not in found


@must("11.7", "A stream is text/event-stream; each event is a StreamResponse without an envelope", REST)
async def test_events_have_no_envelope(speaker: Speaker) -> None:
    async with Live(speaker.front.app, "POST", "/message:stream", {"message": message()}) as live:
        await live.starts()
        assert live.headers["content-type"].startswith("text/event-stream")
        frame = await live.frame()
        assert frame is not None
        assert list(frame.data) == ["task"]


@should("11.7", "An idle stream is kept open by comments", *NEW)
async def test_idle_streams_are_kept_open(speaker: Speaker) -> None:
    async with opened_front(keep_alive=0.01) as front:
        client: Speaker = type(speaker)(front)
        async with client.stream() as events:
            await events.first()
            assert (await events.live.block() or "").startswith(":")


@must("5.1", "Every binding does the same: what one makes, the others see")
async def test_bindings_agree(speaker: Speaker) -> None:
    task = await speaker.send("hi", contextId="talk")
    for other in (Speaker(speaker.front), RestSpeaker(speaker.front)):
        found = await other.get(task["id"])
        assert (found["contextId"], found["history"][0]["parts"]) == ("talk", [{"text": "hi"}])
    assert state(await RestSpeaker(speaker.front).cancel(task["id"])) == "CANCELED"
    assert state(await speaker.get(task["id"])) == "CANCELED"
