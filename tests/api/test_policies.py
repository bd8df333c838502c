"""What a new task does while its conversation has one that waits or runs: the four policies of an agent, over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import pytest

from perdure.agent import Turn
from perdure.ids import new_token
from perdure.tasks import StatusChange, TaskState
from tests.api.front import Front, Json, answer, at_once, at_work, message, message03, question, says, texts

Opens = Callable[..., AbstractAsyncContextManager[Front]]


async def talks(front: Front, words: str, **members: Any) -> Json:
    """A task in the conversation "talk"."""
    task: Json = (await front.call("SendMessage", at_once(words, contextId="talk", **members)))["task"]
    return task


async def nothing_is_due(front: Front) -> bool:
    return await front.storage.claim_task("another worker", new_token(), lease=60) is None


@pytest.mark.parametrize("config", [{}, {"conversation_policy": "enqueue"}])
async def test_enqueue_a_task_waits_for_the_one_before(open_front: Opens, config: Json) -> None:
    async with open_front(config) as front:
        first, second = await talks(front, "one"), await talks(front, "two")
        turn = await front.takes()
        assert turn.claim.task_id == UUID(first["id"])
        assert await nothing_is_due(front)
        await front.ends(turn, **answer("1"))
        assert (await front.takes()).claim.task_id == UUID(second["id"])


async def test_parallel_tasks_run_beside_each_other(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "parallel"}) as front:
        tasks = [await talks(front, words) for words in ("one", "two")]
        turns = [await front.takes(), await front.takes()]
        assert [str(turn.claim.task_id) for turn in turns] == [task["id"] for task in tasks]


# ---------------------------------------------------------------------- reject


@pytest.mark.parametrize("running", [False, True])
async def test_reject_a_busy_conversation_takes_no_new_task(open_front: Opens, running: bool) -> None:
    async with open_front({"conversation_policy": "reject"}) as front:
        await talks(front, "one")
        turn = await front.takes() if running else None
        said = message("two", contextId="talk")
        error = await front.error("SendMessage", {"message": said})
        assert error["code"] == -32004
        assert error["data"][0]["reason"] == "CONTEXT_BUSY"
        error = await front.error("message/send", {"message": message03("two", contextId="talk")})
        assert error["code"] == -32004
        refused = await front.http.post("/message:send", json={"message": said})
        assert refused.status_code == 409
        assert refused.json()["error"]["status"] == "ABORTED"
        assert refused.json()["error"]["details"][0]["reason"] == "CONTEXT_BUSY"
        assert await front.stored() == 1
        await front.call("SendMessage", at_once("elsewhere", contextId="another talk"))
        await front.ends(turn or await front.takes(), **answer("1"))
        assert (await talks(front, "three"))["status"]["state"] == "TASK_STATE_SUBMITTED"


async def test_reject_lets_messages_to_its_tasks_through(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "reject"}) as front:
        task = await talks(front, "weather")
        await front.ends(await front.takes(), **question("which city?"))
        answered = await talks(front, "Oslo", taskId=task["id"])
        assert answered["status"]["state"] == "TASK_STATE_SUBMITTED"
        turn = await front.takes()
        still = await talks(front, "and Rome", taskId=task["id"])  # while it works
        assert still["status"]["state"] == "TASK_STATE_WORKING"
        await front.ends(turn, **answer("rain"))
        await front.ends(await front.takes(), **answer("rain, sun"))
        found = await front.call("GetTask", {"id": task["id"]})
        assert texts(found["history"]) == ["weather", "which city?", "Oslo", "and Rome"]
        assert await front.stored() == 1


async def test_reject_a_task_that_waits_for_its_caller_does_not_make_it_busy(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "reject"}) as front:
        await talks(front, "weather")
        await front.ends(await front.takes(), **question("which city?"))
        await talks(front, "never mind, what is the time?")
        assert await front.stored() == 2


# ---------------------------------------------------------------------- interrupt


class Patient:
    """A handler that answers at once, but for "long" goes on until it is canceled."""

    def __init__(self) -> None:
        self.began = asyncio.Event()
        self.canceled: list[str] = []

    async def __call__(self, messages: Sequence[Json], turn: Turn) -> str:
        words = turn.message.text
        if words == "long":
            self.began.set()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.canceled.append(turn.task_id)
                raise
        return words.upper()


@pytest.fixture
def only_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody looks for changes whose notice was lost: what is not announced is never seen."""

    async def never(watch: Any) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr("perdure.watch.Watch._refresh", never)


@pytest.mark.usefixtures("only_notices")
async def test_interrupt_stops_the_running_handler_and_the_new_task_completes(open_front: Opens) -> None:
    handler = Patient()
    config = {"conversation_policy": "interrupt"}
    async with open_front(config, handler=handler) as front, at_work(front):
        params = {"message": message("long", contextId="talk")}
        waiting = asyncio.create_task(front.call("SendMessage", params))
        await handler.began.wait()
        new = (await front.call("SendMessage", {"message": message("short", contextId="talk")}))["task"]
        assert new["status"]["state"] == "TASK_STATE_COMPLETED"
        assert texts(new["artifacts"]) == ["SHORT"]
        old = (await waiting)["task"]
        assert old["status"]["state"] == "TASK_STATE_CANCELED"
        assert handler.canceled == [old["id"]]
        last = (await front.log(old["id"]))[-1].body
        assert last == StatusChange(TaskState.CANCELED, metadata={"reason": "interrupted"})


@pytest.mark.usefixtures("only_notices")
async def test_interrupt_cancels_what_waits_as_well_and_its_streams_end(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "interrupt"}) as front:
        async with front.live(
            "SendStreamingMessage", {"message": message("one", contextId="talk")}
        ) as stream:
            _, first = await stream.result()
            second = await talks(front, "two")
            assert [
                frame.data["result"]["statusUpdate"]["status"]["state"] for frame in await stream.rest()
            ] == ["TASK_STATE_CANCELED"]
        turn = await front.takes()
        assert str(turn.claim.task_id) == second["id"] != first["task"]["id"]
        assert [said.text for said in turn.conversation] == ["one", "two"]


async def test_interrupt_leaves_other_conversations_alone(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "interrupt"}) as front:
        other = await front.call("SendMessage", at_once("elsewhere", contextId="another talk"))
        turn = await front.takes()
        await talks(front, "one")
        await front.writes(turn, 1, status_message=says("still here"))
        found = await front.call("GetTask", {"id": other["task"]["id"]})
        assert found["status"]["state"] == "TASK_STATE_WORKING"
