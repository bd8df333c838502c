"""Streams (sections 3.1.2, 3.1.6, 3.5.2, 4.2)."""

from __future__ import annotations

from perdure.tasks import TaskState
from tests.api.front import answer, chunk, echo, question, texts

from .marks import IN_ONE_LOOP, NEW, OLD, agent, must
from .speakers import Said, Speaker, refused, state
from .test_messages import ENDS, at, replies
from .test_tasks import UNKNOWN

pytestmark = IN_ONE_LOOP


def told(events: list[Said]) -> list[str]:
    return [event.short for event in events]


# ---------------------------------------------------------------------- 3.1.2


@must("3.1.2", "A stream is open while the task works, and says each change when it happens")
async def test_a_stream_is_live(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        assert (await events.first()).kind == "task"
        turn = await speaker.front.takes()
        assert (await events.first()).short == "WORKING"
        await speaker.front.writes(turn, 1, chunk("half", append=False))
        assert (await events.first()).short == "half"
        await speaker.front.ends(turn, number=2, **answer("done"))
        assert told(await events.rest()) == ["done", "COMPLETED"]


@must("3.1.2", "A stream of a task begins with the task; updates of its status and its artifacts follow")
async def test_a_stream_begins_with_the_task(echoing: Speaker) -> None:
    async with echoing.stream("hi") as events:
        said = await events.rest()
    assert said[0].kind == "task"
    assert {event.kind for event in said[1:]} == {"statusUpdate", "artifactUpdate"}
    assert {event.body["taskId"] for event in said[1:]} == {said[0].body["id"]}


@must("3.1.2", "A stream ends when the task has ended, with the update that says so")
async def test_a_stream_ends_with_the_task(speaker: Speaker) -> None:
    for end in ENDS:
        async with speaker.stream() as events:
            task_id = (await events.first()).body["id"]
            turn = await speaker.front.takes()
            if end is TaskState.CANCELED:
                await speaker.cancel(task_id)
            else:
                await speaker.front.ends(turn, state=end)
            assert told(await events.rest()) == ["WORKING", end.name]


@must("3.1.2", "The stream of a send ends when the task needs its caller; the next message opens another")
async def test_the_stream_of_a_send_ends_at_a_question(speaker: Speaker) -> None:
    async with speaker.stream("so?") as events:
        task = (await events.first()).body
        await speaker.front.ends(await speaker.front.takes(), **question("why so?"))
        said = await events.rest()
    assert told(said)[-1] == "INPUT_REQUIRED"
    assert texts([said[-1].body["status"]["message"]]) == ["why so?"]
    async with speaker.stream("because", taskId=task["id"]) as events:
        assert (await events.first()).kind == "task"
        await speaker.front.ends(await speaker.front.takes(), **answer("because"))
        assert told(await events.rest())[-2:] == ["because", "COMPLETED"]


@must("3.1.2", "If the agent answers with a message, the stream is that message and nothing else")
@agent(direct_replies=True)
async def test_a_stream_of_a_message(speaker: Speaker) -> None:
    speaker.front.plays(replies)
    async with speaker.stream() as events:
        (only,) = await events.rest()
    assert (only.kind, texts([only.body])) == ("message", ["hi"])


@must("3.1.2", "Streaming to a task that does not exist: TaskNotFound")
async def test_streaming_to_an_unknown_task(speaker: Speaker) -> None:
    for task_id in UNKNOWN[:2]:
        assert (await refused(speaker.stream(taskId=task_id).opened())).name == "TASK_NOT_FOUND"
        assert await speaker.front.stored() == 0


@must("3.1.2", "Streaming to a task that has ended is refused: UnsupportedOperation")
async def test_streaming_to_an_ended_task(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = await at(speaker, end)
        assert (await refused(speaker.stream(taskId=task_id).opened())).name == "UNSUPPORTED_OPERATION"


@must("3.2.2", "returnImmediately (0.3: blocking) changes nothing about a stream")
async def test_waiting_means_nothing_for_a_stream(echoing: Speaker) -> None:
    for wait in (True, False):
        async with echoing.stream("hi", wait=wait) as events:
            assert told(await events.rest())[-1] == "COMPLETED"


@must("3.2.4", "historyLength holds for the task with which a stream begins")
async def test_the_history_of_a_snapshot(echoing: Speaker) -> None:
    task = await echoing.send("one?", wait=True)
    async with echoing.stream("two?", taskId=task["id"], history=1) as events:
        first = (await events.rest())[0].body
    assert len(first["history"]) == 1
    async with echoing.stream("three?", history=0) as events:
        assert "history" not in (await events.rest())[0].body


@must("3.3.3", "A task does not depend on its caller: one that leaves its stream, or its wait, stops nothing")
async def test_a_caller_that_leaves(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        task_id = (await events.first()).body["id"]
    turn = await speaker.front.takes()
    await speaker.front.ends(turn, **answer("done"))
    assert state(await speaker.get(task_id)) == "COMPLETED"


# ---------------------------------------------------------------------- 3.1.6


@must("3.1.6", "A subscription begins with the task as it stands")
async def test_a_subscription_begins_with_the_task(speaker: Speaker) -> None:
    task = await speaker.send("go")
    turn = await speaker.front.takes()
    await speaker.front.writes(turn, 1, chunk("half", append=False))
    async with speaker.subscribe(task["id"]) as events:
        first = await events.first()
    assert (first.kind, first.body) == ("task", await speaker.get(task["id"]))
    assert texts(first.body["artifacts"]) == ["half"]


@must("3.1.6", "A subscription says every change after its first event, and ends with the task")
async def test_a_subscription_ends_with_the_task(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = (await speaker.send())["id"]
        async with speaker.subscribe(task_id) as events:
            assert state((await events.first()).body) == "SUBMITTED"
            turn = await speaker.front.takes()
            if end is TaskState.CANCELED:
                await speaker.cancel(task_id)
            else:
                await speaker.front.ends(turn, state=end)
            assert told(await events.rest()) == ["WORKING", end.name]


@must("3.1.6", "A subscription stays open while the task waits for its caller")
async def test_a_subscription_outlives_a_question(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    async with speaker.subscribe(task_id) as events:
        await events.first()
        await speaker.front.ends(await speaker.front.takes(), **question("why?"))
        assert [(await events.first()).short for _ in range(2)] == ["WORKING", "INPUT_REQUIRED"]
        speaker.front.plays(echo)
        await speaker.send("because", taskId=task_id)
        assert told(await events.rest())[-2:] == ["because", "COMPLETED"]


@must("3.1.6", "Subscribing to a task that has ended is refused: UnsupportedOperation")
async def test_subscribing_to_an_ended_task(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = await at(speaker, end)
        assert (await refused(speaker.subscribe(task_id).opened())).name == "UNSUPPORTED_OPERATION"


@must("3.1.6", "Subscribing to a task that does not exist: TaskNotFound")
async def test_subscribing_to_an_unknown_task(speaker: Speaker) -> None:
    for task_id in UNKNOWN[:2]:
        assert (await refused(speaker.subscribe(task_id).opened())).name == "TASK_NOT_FOUND"


# ---------------------------------------------------------------------- 3.5.2


@must("3.5.2", "Every stream of a task says the same events in the order in which they were made")
async def test_every_stream_says_the_same(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    async with speaker.subscribe(task_id) as one, speaker.subscribe(task_id) as other:
        await one.first()
        await other.first()
        turn = await speaker.front.takes()
        for number in range(1, 6):
            await speaker.front.writes(turn, number, chunk(f"{number} ", append=number > 1))
        await speaker.front.ends(turn, number=6, state=TaskState.COMPLETED)
        said = await one.rest()
        assert await other.rest() == said
    assert told(said) == ["WORKING", "1 ", "2 ", "3 ", "4 ", "5 ", "COMPLETED"]


@must("3.5.2", "Closing one stream touches no other, nor the task")
async def test_closing_one_stream(speaker: Speaker) -> None:
    async with speaker.stream() as sender:
        task_id = (await sender.first()).body["id"]
        async with speaker.subscribe(task_id) as leaver:
            await leaver.first()
        await speaker.front.ends(await speaker.front.takes(), **answer("done"))
        assert told(await sender.rest()) == ["WORKING", "done", "COMPLETED"]


@must("3.5.3", "A task is the same by every way: the updates of its stream add up to what GetTask returns")
async def test_a_stream_adds_up_to_the_task(speaker: Speaker) -> None:
    async with speaker.stream() as events:
        task_id = (await events.first()).body["id"]
        turn = await speaker.front.takes()
        await speaker.front.writes(turn, 1, chunk("one ", append=False))
        await speaker.front.writes(turn, 2, chunk("two", last=True))
        await speaker.front.ends(turn, number=3, state=TaskState.COMPLETED)
        said = await events.rest()
    task = await speaker.get(task_id)
    assert texts(task["artifacts"]) == ["".join(e.short for e in said if e.kind == "artifactUpdate")]
    assert task["status"] == said[-1].body["status"]


# ---------------------------------------------------------------------- 4.2


@must("4.2.1", "A status update has taskId, contextId and status, and no more than A2A knows")
async def test_a_status_update(speaker: Speaker) -> None:
    async with speaker.stream(contextId="talk") as events:
        task = (await events.first()).body
        await speaker.front.ends(await speaker.front.takes(), **question("why?"))
        said = await events.rest()
    known = {"taskId", "contextId", "status", "metadata"}
    known |= {"kind", "final"} if speaker.binding == OLD else {"final"} if speaker.old else set()
    for event in said:
        assert {"taskId", "contextId", "status"} <= set(event.body) <= known
        assert (event.body["taskId"], event.body["contextId"]) == (task["id"], "talk")
        assert event.body["status"]["timestamp"].endswith("Z")
    assert said[-1].body["status"]["message"]["role"] in ("ROLE_AGENT", "agent")


@must(
    "4.2.2",
    "An artifact update has taskId, contextId and artifact, and says how to add it: append, lastChunk",
)
async def test_an_artifact_update(speaker: Speaker) -> None:
    async with speaker.stream(contextId="talk") as events:
        task_id = (await events.first()).body["id"]
        turn = await speaker.front.takes()
        await speaker.front.writes(turn, 1, chunk("one ", append=False), chunk("two", last=True))
        await speaker.front.ends(turn, number=2, state=TaskState.COMPLETED)
        first, second = [said.body for said in await events.rest() if said.kind == "artifactUpdate"]
    for body in (first, second):
        assert (body["taskId"], body["contextId"]) == (task_id, "talk")
        assert body["artifact"]["artifactId"] == "answer"
    assert (first.get("append", False), first.get("lastChunk", False)) == (False, False)
    assert (second["append"], second["lastChunk"]) == (True, True)


@must("3.2.3", "An event of a stream has exactly one of task, message, statusUpdate and artifactUpdate", *NEW)
async def test_an_event_says_one_thing(echoing: Speaker) -> None:
    async with echoing.stream("so?") as events:
        said = await events.rest()  # `said` takes the one member of each
    assert {event.kind for event in said} <= {"task", "message", "statusUpdate", "artifactUpdate"}
