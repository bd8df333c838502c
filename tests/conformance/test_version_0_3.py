"""What 0.3.0 says otherwise than 1.0; its sections are written `0.3: 7.1`."""

from __future__ import annotations

from perdure.tasks import TaskState
from tests.api.front import answer, chunk, message03, question

from .marks import IN_ONE_LOOP, OLD, must, should
from .speakers import Json, Speaker, refused
from .test_push import FULL

pytestmark = IN_ONE_LOOP

PARTS: list[Json] = [
    {"kind": "text", "text": "hello"},
    {"kind": "text", "text": "", "metadata": {"a": 1}},
    {"kind": "file", "file": {"bytes": "AAEC", "name": "a.bin", "mimeType": "application/octet-stream"}},
    {"kind": "file", "file": {"uri": "https://files.test/a"}},
    {"kind": "data", "data": {"a": [1, None]}},
    {"kind": "data", "data": {}},
]
STATES = {
    TaskState.COMPLETED: "completed",
    TaskState.FAILED: "failed",
    TaskState.REJECTED: "rejected",
    TaskState.INPUT_REQUIRED: "input-required",
    TaskState.AUTH_REQUIRED: "auth-required",
}


@must("0.3: 6.1", "A task has kind, id, contextId and status", OLD)
async def test_a_task(speaker: Speaker) -> None:
    task = await speaker.send()
    assert {"kind", "id", "contextId", "status"} <= set(task)
    assert task["kind"] == "task"


@must("0.3: 6.3", "States are their names in lower case, with hyphens", OLD)
async def test_states(speaker: Speaker) -> None:
    task = await speaker.send()
    assert task["status"]["state"] == "submitted"
    turn = await speaker.front.takes()
    assert (await speaker.get(task["id"]))["status"]["state"] == "working"
    await speaker.front.ends(turn, **answer("x"))
    for state, name in STATES.items():
        task_id = (await speaker.send())["id"]
        await speaker.front.ends(await speaker.front.takes(), state=state)
        assert (await speaker.get(task_id))["status"]["state"] == name
    task_id = (await speaker.send())["id"]
    assert (await speaker.cancel(task_id))["status"]["state"] == "canceled"


@must(
    "0.3: 6.4",
    "A message has kind, messageId, role (user, agent) and parts, and comes back with all its members",
    OLD,
)
async def test_a_message(speaker: Speaker) -> None:
    said = message03(
        "hi", contextId="talk", metadata={"a": 1}, extensions=["https://x"], referenceTaskIds=["t"]
    )
    task = await speaker.answer("send", {"message": said, "configuration": {"blocking": False}})
    assert task["history"] == [{**said, "taskId": task["id"]}]


@must(
    "0.3: 6.5",
    "Parts are text, file (bytes or uri) and data, each with its kind, and come back as they were sent",
    OLD,
)
async def test_parts(speaker: Speaker) -> None:
    assert (await speaker.send(parts=PARTS))["history"][0]["parts"] == PARTS


@must("0.3: 6.5", "A part that is none of them is refused", OLD)
async def test_wrong_parts(speaker: Speaker) -> None:
    for part in (
        {"kind": "text"},
        {"kind": "video", "text": "a"},
        {"kind": "file", "file": {}},
        {"kind": "file", "file": {"bytes": "AA==", "uri": "https://x"}},
        {"kind": "data", "data": [1]},
        {"kind": "data", "text": "a"},
    ):
        assert (await refused(speaker.send(parts=[part]))).name == "INVALID_PARAMS"
    assert await speaker.front.stored() == 0


@must("0.3: 7.1", "message/send returns a bare task, without a wrapper", OLD)
async def test_a_bare_task(speaker: Speaker) -> None:
    result = await speaker.front.call("message/send", speaker.sending())
    assert result["kind"] == "task"


@must(
    "0.3: 7.2",
    "Each event of message/stream is a bare task or update with its kind; the last one is final",
    OLD,
)
async def test_events(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        said = [await events.first()]
        turn = await speaker.front.takes()
        await speaker.front.writes(turn, 1, chunk("one", append=False, last=True))
        await speaker.front.ends(turn, number=2, **question("why?"))
        said += await events.rest()
    kinds = [event.body["kind"] for event in said]
    assert kinds == ["task", "status-update", "artifact-update", "status-update"]
    finals = [event.body["final"] for event in said if event.body["kind"] == "status-update"]
    assert finals == [False, True]


@must("0.3: 7.2.2", "A status update has taskId, contextId, kind, status and final", OLD)
async def test_status_updates(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        await events.first()
        await speaker.front.ends(await speaker.front.takes(), **answer("x"))
        updates = [said.body for said in await events.rest() if said.kind == "statusUpdate"]
    assert all({"taskId", "contextId", "kind", "status", "final"} <= set(update) for update in updates)
    assert [update["final"] for update in updates] == [False, True]


@must("0.3: 7.3", "historyLength of tasks/get gives the last messages", OLD)
async def test_history(speaker: Speaker) -> None:
    task_id = (await speaker.send("one"))["id"]
    await speaker.send("two", taskId=task_id)
    found = await speaker.get(task_id, historyLength=1)
    assert [said["parts"] for said in found["history"]] == [[{"kind": "text", "text": "two"}]]


@must("0.3: 7.5", "A config is nested under pushNotificationConfig, with schemes, and set returns it so", OLD)
async def test_configs_are_nested(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    inner = {**FULL, "id": "mine", "authentication": {"schemes": ["Bearer"], "credentials": "c"}}
    params = {"taskId": task_id, "pushNotificationConfig": inner}
    shown = {"id": "mine", "url": "https://hook.test/***", "authentication": {"schemes": ["Bearer"]}}
    saved = {"taskId": task_id, "pushNotificationConfig": shown}  # without its secrets
    assert await speaker.front.call("tasks/pushNotificationConfig/set", params) == saved
    found = await speaker.front.call("tasks/pushNotificationConfig/list", {"id": task_id})
    assert found == [saved]


@must(
    "0.3: 7.6",
    "tasks/pushNotificationConfig/get needs no id of a config: it returns the one that was set",
    OLD,
)
async def test_get_without_an_id(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    made = await speaker.create_config(task_id, **FULL)
    found = await speaker.front.call("tasks/pushNotificationConfig/get", {"id": task_id})
    assert found["pushNotificationConfig"]["id"] == made["id"]


@must("0.3: 7.8", "tasks/pushNotificationConfig/delete returns null", OLD)
async def test_delete_returns_null(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    await speaker.create_config(task_id, **FULL, id="mine")
    params = {"id": task_id, "pushNotificationConfigId": "mine"}
    assert await speaker.front.call("tasks/pushNotificationConfig/delete", params) is None


@must("0.3: 7.9", "tasks/resubscribe streams what happens from then on, after the task as it stands", OLD)
async def test_resubscribe(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    async with speaker.subscribe(task_id) as events:
        assert (await events.first()).body["kind"] == "task"
        await speaker.front.ends(await speaker.front.takes(), **answer("done"))
        said = await events.rest()
    assert [event.short for event in said] == ["WORKING", "done", "COMPLETED"]
    assert said[-1].body["final"] is True


@should("0.3: 7.2", "An error of a streaming method is an event of a stream, where no version was named", OLD)
async def test_errors_of_streams(speaker: Speaker) -> None:
    response = await speaker.front.post("tasks/resubscribe", {"id": "x"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert '"code":-32001' in response.text


@must("0.3: 8.1", "Errors have JSON-RPC's codes, and those of A2A for what is A2A's", OLD)
async def test_codes(speaker: Speaker) -> None:
    for method, params, code in (
        ("tasks/get", {"id": "x"}, -32001),
        ("tasks/get", {}, -32602),
        ("tasks/gets", {}, -32601),
        ("agent/getAuthenticatedExtendedCard", None, -32004),
    ):
        assert (await speaker.front.error(method, params))["code"] == code


@must("0.3: 9.2", "A task that asked for input goes on with a message that has its taskId and contextId", OLD)
async def test_input_required(echoing: Speaker) -> None:
    asked = await echoing.send("so?", wait=True)
    assert asked["status"]["state"] == "input-required"
    assert asked["status"]["message"]["kind"] == "message"
    assert asked["status"]["message"]["role"] == "agent"
    done = await echoing.send("yes", wait=True, taskId=asked["id"], contextId=asked["contextId"])
    assert (done["id"], done["status"]["state"]) == (asked["id"], "completed")
