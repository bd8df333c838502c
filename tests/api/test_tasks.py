"""Reading, listing and canceling tasks; feedback; conversations."""

from __future__ import annotations

import asyncio
from datetime import datetime

import pytest

from perdure.tasks import ANONYMOUS, TaskState
from tests.api.front import Front, answer, at_once, message, message03, texts


async def test_pages_cover_everything_once_newest_first(front: Front) -> None:
    made = [(await front.call("SendMessage", at_once(str(number))))["task"]["id"] for number in range(5)]
    found, token = [], ""
    for size in (2, 2, 1):
        page = await front.call("ListTasks", {"pageSize": 2, "pageToken": token})
        assert set(page) == {"tasks", "nextPageToken", "pageSize", "totalSize"}
        assert page["pageSize"] == len(page["tasks"]) == size
        assert page["totalSize"] == 5
        found += [task["id"] for task in page["tasks"]]
        token = page["nextPageToken"]
    assert token == ""
    assert found == made[::-1]


async def test_an_empty_list_has_all_four_members(front: Front) -> None:
    empty = {"tasks": [], "nextPageToken": "", "pageSize": 0, "totalSize": 0}
    assert await front.call("ListTasks", {}) == empty
    assert await front.call("ListTasks") == empty
    assert await front.call("tasks/list", {}) == empty
    assert (await front.http.get("/tasks")).json() == empty


async def test_snake_case_and_unknown_members_are_taken(front: Front) -> None:
    for number in range(3):
        await front.call("SendMessage", at_once(str(number)))
    page = await front.call("ListTasks", {"page_size": 2, "unknown": 1, "status": None, "tenant": "t"})
    assert page["pageSize"] == 2
    assert (await front.http.get("/tasks", params={"page_size": "2", "x": "y"})).json()["pageSize"] == 2


async def test_a_list_is_filtered_by_context_state_and_time(echoing: Front) -> None:
    first = (await echoing.call("SendMessage", {"message": message("a", contextId="one")}))["task"]
    asked = (await echoing.call("SendMessage", {"message": message("b?", contextId="two")}))["task"]

    async def ids(**filters: str | int) -> list[str]:
        by_rpc = [task["id"] for task in (await echoing.call("ListTasks", filters))["tasks"]]
        by_rest = (await echoing.http.get("/tasks", params=filters)).json()["tasks"]
        assert [task["id"] for task in by_rest] == by_rpc
        return by_rpc

    assert await ids(contextId="one") == [first["id"]]
    assert await ids(contextId="none") == []
    assert await ids(status="TASK_STATE_INPUT_REQUIRED") == [asked["id"]]
    assert await ids(status="TASK_STATE_UNSPECIFIED") == [asked["id"], first["id"]]
    assert await ids(status="TASK_STATE_FAILED") == []
    assert await ids(statusTimestampAfter=asked["status"]["timestamp"])  # inclusive
    assert await ids(statusTimestampAfter="2999-01-01T00:00:00+01:00") == []
    by_number = await echoing.call("ListTasks", {"status": 6})
    assert [task["id"] for task in by_number["tasks"]] == [asked["id"]]
    listed = await echoing.call("tasks/list", {"status": "completed"})
    assert [task["id"] for task in listed["tasks"]] == [first["id"]]


async def test_artifacts_are_listed_only_when_asked_for(echoing: Front) -> None:
    await echoing.call("SendMessage", {"message": message("a")})
    assert "artifacts" not in (await echoing.call("ListTasks"))["tasks"][0]
    page = await echoing.call("ListTasks", {"includeArtifacts": True})
    assert texts(page["tasks"][0]["artifacts"]) == ["a"]
    for flag, shown in (("true", True), ("false", False)):
        page = (await echoing.http.get("/tasks", params={"includeArtifacts": flag})).json()
        assert ("artifacts" in page["tasks"][0]) is shown


async def test_cancel_returns_the_canceled_task_and_tells_its_worker(front: Front) -> None:
    task = (await front.call("SendMessage", at_once()))["task"]
    turn = await front.takes()
    with front.watch.waiter(turn.claim.task_id) as waiter:
        canceled = await front.call("CancelTask", {"id": task["id"], "metadata": {}})
        notice = await waiter.beyond(turn.task.last_seq, resting=True)
    assert notice.state is TaskState.CANCELED
    assert canceled["status"]["state"] == "TASK_STATE_CANCELED"
    assert texts(canceled["history"]) == ["hello"]
    assert (await front.error("CancelTask", {"id": task["id"]}))["code"] == -32002
    assert (await front.error("tasks/cancel", {"id": task["id"]}))["code"] == -32002


async def test_a_canceled_task_keeps_what_it_had(front: Front) -> None:
    task = await front.call(
        "message/send", {"message": message03("go"), "configuration": {"blocking": False}}
    )
    turn = await front.takes()
    await front.writes(turn, 1, metadata={"step": 1})
    canceled = await front.call("tasks/cancel", {"id": task["id"]})
    assert canceled["status"]["state"] == "canceled"
    assert canceled["metadata"] == {"step": 1}


async def test_a_waiting_send_returns_when_its_task_is_canceled(front: Front) -> None:
    sending = asyncio.create_task(front.call("SendMessage", {"message": message()}))
    await front.bell.get()
    task_id = (await front.call("ListTasks"))["tasks"][0]["id"]
    await front.call("CancelTask", {"id": task_id})
    assert (await sending)["task"]["status"]["state"] == "TASK_STATE_CANCELED"


async def test_canceling_rings_for_the_next_task_of_the_conversation(front: Front) -> None:
    first = (await front.call("SendMessage", at_once("one", contextId="talk")))["task"]
    second = (await front.call("SendMessage", at_once("two", contextId="talk")))["task"]
    front.plays(lambda turn: answer("done"))
    await front.call("CancelTask", {"id": first["id"]})
    await asyncio.gather(*front.turns)
    assert (await front.call("GetTask", {"id": second["id"]}))["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_times_are_utc_with_milliseconds(front: Front) -> None:
    task = (await front.call("SendMessage", at_once()))["task"]
    stamp = task["status"]["timestamp"]
    assert len(stamp) == len("2025-12-07T10:00:00.000Z")
    assert stamp.endswith("Z")
    assert datetime.fromisoformat(stamp).tzinfo is not None


# ---------------------------------------------------------------------- feedback


async def test_feedback_is_stored(front: Front) -> None:
    task = (await front.call("SendMessage", at_once()))["task"]
    given = {"taskId": task["id"], "feedback": "good", "rating": 5, "metadata": {"by": "me"}}
    stored = await front.call("tasks/feedback", given)
    assert {name: stored[name] for name in given} == given
    assert stored["feedbackId"]
    kept = await front.storage.load_feedback(ANONYMOUS, (await front.takes()).claim.task_id)
    assert [(one.text, one.rating, one.metadata) for one in kept] == [("good", 5, {"by": "me"})]


@pytest.mark.parametrize(
    "wrong", [{"rating": 0}, {"rating": 6}, {"rating": 2.5}, {"rating": True}, {"feedback": 1}, {}]
)
async def test_wrong_feedback_is_refused_and_not_stored(front: Front, wrong: dict[str, object]) -> None:
    task = (await front.call("SendMessage", at_once()))["task"]
    assert (await front.error("tasks/feedback", {"taskId": task["id"], **wrong}))["code"] == -32602
    turn = await front.takes()
    assert await front.storage.load_feedback(ANONYMOUS, turn.claim.task_id) == []


# ---------------------------------------------------------------------- conversations


async def test_conversations_are_listed_newest_first_in_pages(front: Front) -> None:
    for name in ("one", "two", "three"):
        await front.call("SendMessage", at_once(contextId=name))
    page = await front.call("contexts/list", {"pageSize": 2})
    assert [context["contextId"] for context in page["contexts"]] == ["three", "two"]
    rest = await front.call("contexts/list", {"pageSize": 2, "pageToken": page["nextPageToken"]})
    assert [context["contextId"] for context in rest["contexts"]] == ["one"]
    assert rest["nextPageToken"] == ""


async def test_a_conversation_is_read_in_the_version_that_the_client_speaks(echoing: Front) -> None:
    task = (await echoing.call("SendMessage", {"message": message("hi", contextId="talk")}))["task"]
    old = await echoing.call("contexts/get", {"contextId": "talk"})
    assert [said["role"] for said in old["messages"]] == ["user", "agent"]
    new = await echoing.call("contexts/get", {"contextId": "talk"}, A2A_Version="1.0")
    assert [said["role"] for said in new["messages"]] == ["ROLE_USER", "ROLE_AGENT"]
    assert texts(new["messages"]) == ["hi", "hi"]
    assert new["taskIds"] == [task["id"]]
    last = await echoing.call("contexts/get", {"contextId": "talk", "historyLength": 1})
    assert len(last["messages"]) == 1


async def test_clearing_a_conversation_deletes_its_tasks_and_ends_its_turns(front: Front) -> None:
    task = (await front.call("SendMessage", at_once(contextId="talk")))["task"]
    turn = await front.takes()
    with front.watch.waiter(turn.claim.task_id) as waiter:
        assert await front.call("contexts/clear", {"contextId": "talk"}) == {
            "contextId": "talk",
            "tasksDeleted": 1,
        }
        assert (await waiter.beyond(0)).state is None
    assert (await front.error("GetTask", {"id": task["id"]}))["code"] == -32001
    for method in ("contexts/get", "contexts/clear"):
        assert (await front.error(method, {"contextId": "talk"}))["code"] == -32001


async def test_a_send_whose_conversation_is_cleared_while_it_waits_is_answered(front: Front) -> None:
    sending = asyncio.create_task(front.error("SendMessage", {"message": message(contextId="talk")}))
    await front.bell.get()
    await front.call("contexts/clear", {"contextId": "talk"})
    assert (await sending)["code"] == -32001
