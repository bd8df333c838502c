"""Reading, listing and canceling tasks (sections 3.1.3 to 3.1.5, 13.1)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.ids import new_task_id
from perdure.storage import NewTask
from perdure.tasks import Message, Role, TextPart
from tests.api.front import Front, answer, texts

from .marks import IN_ONE_LOOP, NEW, REST, must, should
from .speakers import SOMEBODY_ELSE, Speaker, refused, state
from .test_messages import ENDS, at

pytestmark = IN_ONE_LOOP

UNKNOWN = ["0198f7a5-7d3c-7000-8000-000000000000", "no-uuid", "x" * 200, "ü"]


async def of_somebody_else(front: Front) -> str:
    """The id of a task that another caller owns."""
    task_id = new_task_id()
    said = Message(parts=[TextPart("mine")], role=Role.USER, message_id="m")
    new = NewTask(task_id=task_id, owner=SOMEBODY_ELSE, context_id="talk", message=said, metadata={})
    await front.storage.submit_task(new)
    return str(task_id)


# ---------------------------------------------------------------------- 3.1.3


@must("3.1.3", "A task is returned as it stands: state, artifacts, history")
async def test_get(echoing: Speaker) -> None:
    task = await echoing.send("hi", wait=True)
    found = await echoing.get(task["id"])
    assert found == task
    assert (state(found), texts(found["artifacts"]), texts(found["history"])) == ("COMPLETED", ["hi"], ["hi"])


@must("3.1.3", "A task that does not exist: TaskNotFound, whatever its id looks like")
async def test_an_unknown_task(speaker: Speaker) -> None:
    for task_id in UNKNOWN:
        assert (await refused(speaker.get(task_id))).name == "TASK_NOT_FOUND"


@must("13.1", "Somebody else's task cannot be read, listed, continued, canceled or followed")
async def test_somebody_elses_task(speaker: Speaker) -> None:
    task_id = await of_somebody_else(speaker.front)
    config = {"url": "https://hook.test"}
    for asked in (
        speaker.get(task_id),
        speaker.cancel(task_id),
        speaker.send("more", taskId=task_id),
        speaker.create_config(task_id, **config),
        speaker.configs(task_id),
        speaker.subscribe(task_id).opened(),
    ):
        assert (await refused(asked)).name == "TASK_NOT_FOUND"


@should("3.3.2", "What is not there and what is not yours are answered alike")
async def test_not_there_and_not_yours_are_alike(speaker: Speaker) -> None:
    theirs = await of_somebody_else(speaker.front)
    nobodys = str(new_task_id())
    errors = [await refused(speaker.get(task_id)) for task_id in (theirs, nobodys)]
    assert errors[0].message.replace(theirs, nobodys) == errors[1].message
    assert errors[0].details == errors[1].details


# ---------------------------------------------------------------------- 3.1.4


async def made(speaker: Speaker, number: int, **members: Any) -> list[str]:
    """New tasks; their ids, newest first."""
    return [(await speaker.send(str(n), **members))["id"] for n in range(number)][::-1]


def ids(page: dict[str, Any]) -> list[str]:
    return [task["id"] for task in page["tasks"]]


@must("3.1.4", "Only tasks that the caller may see are listed and counted", *NEW)
async def test_only_ones_own_tasks_are_listed(speaker: Speaker) -> None:
    mine = await made(speaker, 2)
    await of_somebody_else(speaker.front)
    page = await speaker.tasks()
    assert (ids(page), page["totalSize"]) == (mine, 2)


@must(
    "3.1.4",
    "Pages follow a cursor: none is shown twice and none is left out, also when tasks are added",
    *NEW,
)
async def test_pages(speaker: Speaker) -> None:
    known = await made(speaker, 5)
    page = await speaker.tasks(pageSize=2)
    seen = ids(page)
    await made(speaker, 2)
    while page["nextPageToken"]:
        page = await speaker.tasks(pageSize=2, pageToken=page["nextPageToken"])
        seen += ids(page)
    assert seen == known


@must("3.1.4", "All four members are always there; nextPageToken is empty on the last page", *NEW)
async def test_the_members_of_a_page(speaker: Speaker) -> None:
    assert await speaker.tasks() == {"tasks": [], "nextPageToken": "", "pageSize": 0, "totalSize": 0}
    await made(speaker, 3)
    page = await speaker.tasks(pageSize=2)
    assert page["nextPageToken"]
    assert (page["pageSize"], page["totalSize"]) == (2, 3)
    last = await speaker.tasks(pageSize=2, pageToken=page["nextPageToken"])
    assert (last["nextPageToken"], last["pageSize"], last["totalSize"]) == ("", 1, 3)
    assert (await speaker.tasks(pageSize=3))["nextPageToken"] == ""


@must("3.1.4", "The task whose state changed last comes first", *NEW)
async def test_the_order(speaker: Speaker) -> None:
    newest, middle, oldest = await made(speaker, 3)
    assert ids(await speaker.tasks()) == [newest, middle, oldest]
    await speaker.cancel(oldest)
    assert ids(await speaker.tasks()) == [oldest, newest, middle]
    stamps = [task["status"]["timestamp"] for task in (await speaker.tasks())["tasks"]]
    assert stamps == sorted(stamps, reverse=True)


@must("3.1.4", "Without includeArtifacts no task has the member artifacts", *NEW)
async def test_artifacts_are_left_out(echoing: Speaker) -> None:
    await echoing.send("hi", wait=True)
    for asked in ({}, {"includeArtifacts": False}):
        (task,) = (await echoing.tasks(**asked))["tasks"]
        assert "artifacts" not in task


@must("3.1.4", "With includeArtifacts they are there", *NEW)
async def test_artifacts_are_there(echoing: Speaker) -> None:
    await echoing.send("hi", wait=True)
    (task,) = (await echoing.tasks(includeArtifacts=True))["tasks"]
    assert texts(task["artifacts"]) == ["hi"]


@must(
    "3.1.4",
    "The filters contextId, status and statusTimestampAfter (that moment included) hold, and totalSize counts with them",
    *NEW,
)
async def test_filters(speaker: Speaker) -> None:
    old = await made(speaker, 2, contextId="old")
    new = await made(speaker, 2, contextId="new")
    await speaker.cancel(old[0])
    page = await speaker.tasks(contextId="new", pageSize=1)
    assert (ids(page), page["totalSize"]) == ([new[0]], 2)
    assert ids(await speaker.tasks(status="TASK_STATE_CANCELED")) == [old[0]]
    assert ids(await speaker.tasks(status="TASK_STATE_SUBMITTED", contextId="old")) == [old[1]]
    assert ids(await speaker.tasks(contextId="nobody's")) == []
    since = (await speaker.get(old[0]))["status"]["timestamp"]
    found = (await speaker.tasks(statusTimestampAfter=since))["tasks"]
    assert found[0]["id"] == old[0]  # others may have changed in the same millisecond
    assert all(task["status"]["timestamp"] >= since for task in found)
    later = datetime.fromisoformat(since) + timedelta(days=1)
    assert ids(await speaker.tasks(statusTimestampAfter=later.isoformat().replace("+00:00", "Z"))) == []


@must("3.1.4", "historyLength holds for each listed task", *NEW)
async def test_the_history_of_listed_tasks(speaker: Speaker) -> None:
    task = await speaker.send("one")
    await speaker.send("two", taskId=task["id"])
    for length, said in ((0, []), (1, ["two"]), (5, ["one", "two"])):
        (found,) = (await speaker.tasks(historyLength=length))["tasks"]
        assert texts(found.get("history", [])) == said


@must("3.1.4", "A pageSize is 1 to 100, and 50 if it is not given", *NEW)
async def test_page_sizes(speaker: Speaker) -> None:
    await asyncio.gather(*(speaker.send(str(n)) for n in range(51)))
    assert (await speaker.tasks())["pageSize"] == 50
    assert (await speaker.tasks(pageSize=100))["pageSize"] == 51
    for size in (0, -1, 101):
        error = await refused(speaker.tasks(pageSize=size))
        assert (error.name, error.fields) == ("INVALID_PARAMS", ["pageSize"])


@must("3.1.4", "A filter that means nothing is refused: pageToken, status, statusTimestampAfter", *NEW)
async def test_wrong_filters(speaker: Speaker) -> None:
    for wrong in [
        {"pageToken": "nonsense"},
        {"status": "TASK_STATE_FINE"},
        {"status": "completed"},
        {"statusTimestampAfter": "yesterday"},
        {"statusTimestampAfter": "2025-12-07T10:00:00"},
    ]:
        error = await refused(speaker.tasks(**wrong))
        assert (error.name, error.fields) == ("INVALID_PARAMS", list(wrong))


@must("11.5", "Timestamps in a query are read with any offset", REST)
async def test_a_timestamp_with_an_offset(speaker: Speaker) -> None:
    (task_id,) = await made(speaker, 1)
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    assert ids(await speaker.tasks(statusTimestampAfter=past)) == [task_id]


# ---------------------------------------------------------------------- 3.1.5


@must("3.1.5", "Canceling returns the task as it stands then, with what it had")
async def test_cancel(speaker: Speaker) -> None:
    task = await speaker.send("go")
    await speaker.front.takes()
    canceled = await speaker.cancel(task["id"])
    assert (canceled["id"], state(canceled)) == (task["id"], "CANCELED")
    assert texts(canceled["history"]) == ["go"]
    assert await speaker.get(task["id"]) == canceled


@must("3.1.5", "A task that waits for input can be canceled")
async def test_cancel_at_a_question(echoing: Speaker) -> None:
    task = await echoing.send("so?", wait=True)
    assert state(await echoing.cancel(task["id"])) == "CANCELED"


@must("3.1.5", "A task that has ended cannot be canceled: TaskNotCancelable, and it stays as it is")
async def test_an_ended_task_cannot_be_canceled(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = await at(speaker, end)
        assert (await refused(speaker.cancel(task_id))).name == "TASK_NOT_CANCELABLE"
        assert state(await speaker.get(task_id)) == end.name


@must("3.1.5", "Canceling a task that does not exist: TaskNotFound")
async def test_canceling_an_unknown_task(speaker: Speaker) -> None:
    for task_id in UNKNOWN:
        assert (await refused(speaker.cancel(task_id))).name == "TASK_NOT_FOUND"


@must("3.3.1", "Reading changes nothing: asked twice, answered alike")
async def test_reading_is_idempotent(speaker: Speaker) -> None:
    task = await speaker.send()
    await speaker.front.ends(await speaker.front.takes(), **answer("done"))
    assert await speaker.get(task["id"]) == await speaker.get(task["id"])
    if "list" in speaker.methods:
        assert await speaker.tasks() == await speaker.tasks()
