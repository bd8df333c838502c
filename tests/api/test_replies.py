"""Direct replies: a message for whoever waited for the answer to a new message; the task is there all the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from perdure.notes import REPLY
from perdure.tasks import Message, StatusChange, TaskState, TextPart
from tests.api.front import (
    End,
    Front,
    Json,
    Live,
    at_once,
    chunk,
    echo,
    message,
    message03,
    opened_front,
    says,
)
from tests.api.test_stream import NEW, told

REPLIED = Message(message_id="r1", parts=(TextPart("hi"),), metadata={REPLY: True, "mood": "good"})
SHOWN: Json = {
    "messageId": "r1",
    "role": "ROLE_AGENT",
    "parts": [{"text": "hi"}],
    "metadata": {"mood": "good"},
}


def replies(turn: Any) -> End:
    return {"state": TaskState.COMPLETED, "status_message": REPLIED}


@pytest.fixture
async def chatty() -> AsyncIterator[Front]:
    """A front door whose agent may reply."""
    async with opened_front({"direct_replies": True}) as front:
        yield front


async def test_a_send_that_waits_is_answered_with_the_message_alone(front: Front) -> None:
    front.plays(replies)
    assert await front.call("SendMessage", {"message": message()}) == {"message": SHOWN}
    assert (await front.http.post("/message:send", json={"message": message()})).json() == {"message": SHOWN}
    old = await front.call("message/send", {"message": message03()})
    assert (old["kind"], old["role"], old["parts"]) == ("message", "agent", [{"kind": "text", "text": "hi"}])
    assert "taskId" not in old


async def test_the_task_is_there_all_the_same(front: Front) -> None:
    front.plays(replies)
    await front.call("SendMessage", {"message": message()})
    (task,) = (await front.call("ListTasks", {}))["tasks"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert task["status"]["message"]["parts"] == [{"text": "hi"}]


async def test_nobody_sees_how_a_reply_is_marked(front: Front) -> None:
    front.plays(replies)
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        frames = [frame.data["result"] for frame in await client.rest()]
    name = {"id": frames[0]["task"]["id"]}
    told = [
        frames[-1]["statusUpdate"],
        await front.call("GetTask", name),
        await front.call("tasks/get", name),
        (await front.http.get(f"/v1/tasks/{name['id']}")).json(),
    ]
    async with front.live("message/stream", {"message": message03()}) as client:
        told.append((await client.rest())[-1].data["result"])
    async with Live(front.app, "POST", "/v1/message:stream", {"message": message03()}) as client:
        told.append((await client.rest())[-1].data["statusUpdate"])
    assert [shown["status"]["message"]["metadata"] for shown in told] == [{"mood": "good"}] * 6


async def test_who_knows_of_the_task_gets_the_task(front: Front) -> None:
    task = (await front.call("SendMessage", at_once()))["task"]
    await front.ends(await front.takes(), state=TaskState.INPUT_REQUIRED, status_message=says("so?"))
    front.plays(replies)
    answer = await front.call("SendMessage", {"message": message(taskId=task["id"])})
    assert answer["task"]["status"]["message"]["parts"] == [{"text": "hi"}]


async def test_a_reply_beside_an_artifact_comes_with_the_task(front: Front) -> None:
    front.plays(lambda turn: {**replies(turn), "new_artifacts": [chunk("more", append=False, last=True)]})
    answer = await front.call("SendMessage", {"message": message()})
    assert answer["task"]["status"]["message"]["parts"] == [{"text": "hi"}]


async def test_an_agents_own_message_is_no_reply(front: Front) -> None:
    front.plays(lambda turn: {"state": TaskState.COMPLETED, "status_message": says("done")})
    assert "task" in await front.call("SendMessage", {"message": message()})


# ---------------------------------------------------------------------- streams


async def test_a_stream_is_the_one_message(chatty: Front) -> None:
    chatty.plays(replies)
    async with chatty.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        (frame,) = await client.rest()
    assert (frame.id, frame.data["result"]) == (None, {"message": SHOWN})
    async with chatty.live("message/stream", {"message": message03()}) as client:
        (frame,) = await client.rest()
    assert frame.data["result"]["kind"] == "message"
    async with Live(chatty.app, "POST", "/message:stream", {"message": message()}) as client:
        (frame,) = await client.rest()
    assert frame.data == {"message": SHOWN}


async def test_a_stream_stands_while_nobody_knows(chatty: Front) -> None:
    async with chatty.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        assert (await client.starts()).status == 200
        await chatty.ends(await chatty.takes_next(), **replies(None))
        assert len(await client.rest()) == 1


@pytest.mark.parametrize(
    ("write", "heard"),
    [
        ({"new_artifacts": [chunk("a", append=False)]}, "a"),
        ({"status_metadata": {"progress": {"fraction": 0.5, "note": ""}}}, "WORKING"),
        ({"new_messages": [says("wait")]}, "WORKING"),
    ],
)
async def test_a_stream_is_a_tasks_from_the_first_thing_it_says(
    chatty: Front, write: dict[str, Any], heard: str
) -> None:
    async with chatty.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        turn = await chatty.takes_next()
        await chatty.storage.update_task(turn.claim, 1, **write)
        await chatty.watch.refresh()
        first = [frame for _ in range(3) if (frame := await client.frame())]
        assert told(first) == ["task TASK_STATE_SUBMITTED", "WORKING", heard]
        await chatty.ends(turn, number=2, **replies(turn))
        assert told(await client.rest()) == ["COMPLETED"]


async def test_a_turn_that_says_nothing_is_a_task_at_its_end(chatty: Front) -> None:
    chatty.plays(echo)
    async with chatty.live("SendStreamingMessage", {"message": message("why?")}, **NEW) as client:
        frames = await client.rest()
    assert told(frames) == ["task TASK_STATE_SUBMITTED", "WORKING", "INPUT_REQUIRED"]
    assert [frame.id for frame in frames] == [1, 2, 3]


async def test_a_stream_that_ends_before_anything_is_known_tells_the_task(chatty: Front) -> None:
    async with chatty.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        await client.starts()
        chatty.watch.dismiss()  # the server stops
        assert told(await client.rest()) == ["task TASK_STATE_SUBMITTED"]


async def test_leaving_a_stream_that_waits_lets_go_of_its_task(chatty: Front) -> None:
    async with chatty.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        await client.starts()
        assert chatty.watch._followers
    await asyncio.sleep(0)
    assert not chatty.watch._followers


async def test_without_the_config_a_stream_begins_with_its_task(front: Front) -> None:
    front.plays(replies)
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        frames = await client.rest()
    assert told(frames) == ["task TASK_STATE_SUBMITTED", "WORKING", "COMPLETED"]
    (body,) = [event.body for event in await front.log(frames[0].data["result"]["task"]["id"])][-1:]
    assert isinstance(body, StatusChange)
    assert body.message is not None
    assert await front.call("SendMessage", {"message": message()}) == {"message": SHOWN}  # needs no setting
