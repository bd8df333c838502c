"""What comes in goes out again, in the shape of either version."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from api.wire import Dialect, v03, v1
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    RawPart,
    Role,
    StatusChange,
    Task,
    TaskState,
    TextPart,
    UrlPart,
)
from perdure.telling import Update
from tests.api.front import Front, Json, message, message03

EXTRA = {"metadata": {"a": [1, {"b": None}]}, "filename": "a.txt", "mediaType": "text/plain"}
PARTS: list[tuple[Json, Json]] = [
    ({"text": ""}, {"kind": "text", "text": ""}),
    ({"text": "a", "metadata": {"b": 1}}, {"kind": "text", "text": "a", "metadata": {"b": 1}}),
    ({"data": {"a": 1}}, {"kind": "data", "data": {"a": 1}}),
    ({"data": {}}, {"kind": "data", "data": {}}),
    (
        {"data": [1, 2]},
        {"kind": "data", "data": {"value": [1, 2]}, "metadata": {"data_part_compat": True}},
    ),
    ({"data": None}, {"kind": "data", "data": {"value": None}, "metadata": {"data_part_compat": True}}),
    (
        {"raw": "aGk=", **EXTRA},
        {
            "kind": "file",
            "file": {"bytes": "aGk=", "name": "a.txt", "mimeType": "text/plain"},
            "metadata": EXTRA["metadata"],
        },
    ),
    ({"url": "https://a.test/f"}, {"kind": "file", "file": {"uri": "https://a.test/f"}}),
]


@pytest.mark.parametrize(("new", "old"), PARTS)
async def test_a_part_of_1_0_is_returned_in_both_versions(front: Front, new: Json, old: Json) -> None:
    params = {"message": message(parts=[new]), "configuration": {"returnImmediately": True}}
    task = (await front.call("SendMessage", params))["task"]
    assert task["history"][0]["parts"] == [new]
    assert (await front.call("tasks/get", {"id": task["id"]}))["history"][0]["parts"] == [old]


@pytest.mark.parametrize(("new", "old"), PARTS)
async def test_a_part_of_0_3_is_returned_in_both_versions(front: Front, new: Json, old: Json) -> None:
    params = {"message": message03(parts=[old]), "configuration": {"blocking": False}}
    task = await front.call("message/send", params)
    assert task["history"][0]["parts"] == [old]
    assert (await front.call("GetTask", {"id": task["id"]}))["history"][0]["parts"] == [new]


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        ({"raw": "-_-_"}, {"raw": "+/+/"}),
        ({"raw": "aGk"}, {"raw": "aGk="}),
        ({"raw": ""}, {"raw": ""}),
        (
            {"text": "a", "media_type": "text/plain", "unknown": 1},
            {"text": "a", "mediaType": "text/plain"},
        ),
        ({"text": "a", "data": None, "url": None, "metadata": None}, {"text": "a"}),
        ({"text": "\U0001f600 \u2028"}, {"text": "\U0001f600 \u2028"}),
    ],
)
async def test_other_spellings_of_a_part(front: Front, sent: Json, returned: Json) -> None:
    body = message(parts=[sent])
    task = (await front.call("SendMessage", {"message": body, "configuration": {"returnImmediately": True}}))[
        "task"
    ]
    assert task["history"][0]["parts"] == [returned]


async def test_a_message_is_kept_with_all_its_members(front: Front) -> None:
    said = message(
        contextId="talk", metadata={"a": 1}, extensions=["https://x.test"], referenceTaskIds=["t1", "t2"]
    )
    snake = {
        "message_id": said["messageId"],
        "role": 1,
        "parts": said["parts"],
        "context_id": "talk",
        "metadata": {"a": 1},
        "extensions": said["extensions"],
        "reference_task_ids": ["t1", "t2"],
    }
    for form in (said, snake):
        params = {"message": form, "configuration": {"return_immediately": True}}
        task = (await front.call("SendMessage", params))["task"]
        assert task["history"] == [said | {"taskId": task["id"]}]
    old = message03(
        contextId="talk", metadata={"a": 1}, extensions=["https://x.test"], referenceTaskIds=["t1"]
    )
    task = await front.call("message/send", {"message": old, "configuration": {"blocking": False}})
    assert task["history"] == [old | {"taskId": task["id"]}]


async def test_a_part_of_0_3_without_its_kind_is_understood(front: Front) -> None:
    params = {"message": message03(parts=[{"text": "a"}]), "configuration": {"blocking": False}}
    task = await front.call("message/send", params)
    assert task["history"][0]["parts"] == [{"kind": "text", "text": "a"}]


# ---------------------------------------------------------------------- the writers alone

TASK_ID = UUID("0198f7a5-7d3c-7000-8000-000000000000")
NOON = datetime(2025, 12, 7, 12, 0, 0, 123999, tzinfo=UTC)
ASKS = Message(message_id="m", role=Role.AGENT, parts=(TextPart("which?"),))
RESULT = Artifact(
    artifact_id="a",
    name="n",
    description="d",
    metadata={"k": "v"},
    extensions=("https://x.test",),
    parts=(TextPart("t"), RawPart(b"\xff"), UrlPart("https://a.test"), DataPart(1)),
)


def a_task(state: TaskState = TaskState.INPUT_REQUIRED, **members: Any) -> Task:
    told: dict[str, Any] = {
        "status_message": ASKS,
        "history": (),
        "artifacts": (RESULT,),
        "metadata": {"m": 1},
    } | members
    return Task(
        task_id=TASK_ID,
        context_id="talk",
        owner="me",
        state=state,
        status_timestamp=NOON,
        created_at=NOON,
        updated_at=NOON,
        last_seq=9,
        **told,
    )


def test_a_task_of_1_0() -> None:
    assert v1.task(a_task()) == {
        "id": str(TASK_ID),
        "contextId": "talk",
        "status": {
            "state": "TASK_STATE_INPUT_REQUIRED",
            "message": {"messageId": "m", "role": "ROLE_AGENT", "parts": [{"text": "which?"}]},
            "timestamp": "2025-12-07T12:00:00.123Z",
        },
        "artifacts": [
            {
                "artifactId": "a",
                "name": "n",
                "description": "d",
                "metadata": {"k": "v"},
                "extensions": ["https://x.test"],
                "parts": [{"text": "t"}, {"raw": "/w=="}, {"url": "https://a.test"}, {"data": 1}],
            }
        ],
        "metadata": {"m": 1},
    }


def test_a_task_of_0_3() -> None:
    said = {
        "kind": "message",
        "messageId": "m",
        "role": "agent",
        "parts": [{"kind": "text", "text": "which?"}],
    }
    assert v03.task(a_task()) == {
        "kind": "task",
        "id": str(TASK_ID),
        "contextId": "talk",
        "status": {"state": "input-required", "message": said, "timestamp": "2025-12-07T12:00:00.123Z"},
        "artifacts": [
            {
                "artifactId": "a",
                "name": "n",
                "description": "d",
                "metadata": {"k": "v"},
                "extensions": ["https://x.test"],
                "parts": [
                    {"kind": "text", "text": "t"},
                    {"kind": "file", "file": {"bytes": "/w=="}},
                    {"kind": "file", "file": {"uri": "https://a.test"}},
                    {"kind": "data", "data": {"value": 1}, "metadata": {"data_part_compat": True}},
                ],
            }
        ],
        "metadata": {"m": 1},
    }


@pytest.mark.parametrize("dialect", [v1, v03])
def test_what_says_nothing_is_left_out(dialect: Dialect) -> None:
    bare = dialect.task(a_task(status_message=None, artifacts=(), metadata={}))
    assert set(bare) - {"kind"} == {"id", "contextId", "status"}
    assert set(bare["status"]) == {"state", "timestamp"}


@pytest.mark.parametrize("state", TaskState)
def test_every_state_has_its_name_in_both_versions(state: TaskState) -> None:
    update = Update(task_id=TASK_ID, context_id="talk", seq=1, time=NOON, body=StatusChange(state))
    new, old = v1.update(update)["statusUpdate"], v03.update(update)
    assert new["status"] == {"state": f"TASK_STATE_{state.name}", "timestamp": "2025-12-07T12:00:00.123Z"}
    assert old["status"]["state"] == state.value
    assert old["final"] is state.rests
    assert v1.read_state(new["status"]["state"]) is state
    assert v03.read_state(state.value) is state


def test_progress_is_told_in_the_metadata_of_a_status() -> None:
    change = StatusChange(TaskState.WORKING, metadata={"progress": 0.5})
    update = Update(task_id=TASK_ID, context_id="talk", seq=1, time=NOON, body=change)
    assert v1.update(update)["statusUpdate"]["metadata"] == {"progress": 0.5}
    assert v03.update(update)["metadata"] == {"progress": 0.5}


def test_a_chunk_says_whether_it_appends_and_is_the_last() -> None:
    chunk = ArtifactChunk(Artifact(artifact_id="a", parts=(TextPart("t"),)), append=True, last_chunk=False)
    update = Update(task_id=TASK_ID, context_id="talk", seq=1, time=NOON, body=chunk)
    assert v1.update(update)["artifactUpdate"] == {
        "taskId": str(TASK_ID),
        "contextId": "talk",
        "artifact": {"artifactId": "a", "parts": [{"text": "t"}]},
        "append": True,
    }
    assert v03.update(update) == {
        "kind": "artifact-update",
        "taskId": str(TASK_ID),
        "contextId": "talk",
        "artifact": {"artifactId": "a", "parts": [{"kind": "text", "text": "t"}]},
        "append": True,
        "lastChunk": False,
    }
