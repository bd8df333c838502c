"""Sending messages: execution modes, history, metadata, conversations (sections 3.1.1, 3.2, 3.4, 3.7)."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from uuid import UUID

from perdure.notes import REPLY
from perdure.storage import ClaimedTurn
from perdure.tasks import Message, TaskState, TextPart
from tests.api.front import End, answer, echo, question, texts

from .marks import IN_ONE_LOOP, NEW, OLD, REST, RPC, agent, must, should
from .speakers import Speaker, refused, role, state

pytestmark = IN_ONE_LOOP

REPLIED = Message(message_id="r1", parts=(TextPart("hi"),), metadata={REPLY: True})
ENDS = [TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED, TaskState.CANCELED]
INTERRUPTIONS = [TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED]


def replies(turn: ClaimedTurn) -> End:
    """The agent answers with a message."""
    return {
        "state": TaskState.COMPLETED,
        "status_message": replace(REPLIED, context_id=turn.task.context_id),
    }


async def at(speaker: Speaker, end: TaskState) -> str:
    """A task in that state; its id."""
    task_id: str = (await speaker.send("go"))["id"]
    if end is TaskState.CANCELED:
        await speaker.cancel(task_id)
    else:
        await speaker.front.ends(await speaker.front.takes(), state=end)
    return task_id


# ---------------------------------------------------------------------- 3.1.1


@must("3.1.1", "A send is answered with a task, or with a message where no task is needed")
async def test_a_send_is_answered_with_a_task(speaker: Speaker) -> None:
    task = await speaker.send()
    assert task["id"]
    assert state(task) == "SUBMITTED"


@must("3.1.1", "A message to a task that has ended is refused: UnsupportedOperation")
async def test_an_ended_task_takes_no_message(speaker: Speaker) -> None:
    for end in ENDS:
        task_id = await at(speaker, end)
        for wait in (True, False):
            error = await refused(speaker.send("more", taskId=task_id, wait=wait))
            assert error.name == "UNSUPPORTED_OPERATION"
        assert len((await speaker.get(task_id))["history"]) == 1


@must("3.1.1", "A part whose media type the agent does not take is refused: ContentTypeNotSupported")
@agent(default_input_modes=["text/plain"])
async def test_a_media_type_that_is_not_taken(speaker: Speaker) -> None:
    new = {"raw": "AAEC", "mediaType": "application/x-unknown"}
    old = {"kind": "file", "file": {"bytes": "AAEC", "mimeType": "application/x-unknown"}}
    error = await refused(speaker.send(parts=[old if speaker.old else new]))
    assert error.name == "CONTENT_TYPE_NOT_SUPPORTED"
    assert await speaker.front.stored() == 0


@should(
    "3.2.2",
    "A client that accepts nothing of what the agent gives: ContentTypeNotSupported, nothing is stored",
)
async def test_accepted_output_modes(speaker: Speaker) -> None:
    for modes, refuses in ((["image/png"], True), (["image/png", "text/plain"], False), (["text/*"], False)):
        params = speaker.sending()
        params["configuration"]["acceptedOutputModes"] = modes
        before = await speaker.front.stored()
        if refuses:
            assert (await refused(speaker.answer("send", params))).name == "CONTENT_TYPE_NOT_SUPPORTED"
            assert await speaker.front.stored() == before
        else:
            assert await speaker.answer("send", params)


@must("3.1.1", "An agent may answer with a message: it is the whole answer to whoever waited for it")
async def test_a_send_is_answered_with_a_message(speaker: Speaker) -> None:
    speaker.front.plays(replies)
    result = await speaker.answer("send", speaker.sending(wait=True))
    said = result if speaker.binding == OLD else result["message"]
    assert (role(said), texts([said])) == ("agent", ["hi"])
    assert "taskId" not in said
    assert said.get("kind") == ("message" if speaker.binding == OLD else None)


# ---------------------------------------------------------------------- 3.2.2


@must(
    "3.2.2", "A send that waits returns when the task has ended, with its final state and all its artifacts"
)
async def test_a_send_waits_for_the_end(speaker: Speaker) -> None:
    for end in [TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED]:
        sending = asyncio.create_task(speaker.send(wait=True))
        turn = await speaker.front.takes_next()
        assert not sending.done()
        await speaker.front.ends(turn, **{**answer("done"), "state": end})
        task = await sending
        assert state(task) == end.name
        assert texts(task["artifacts"]) == ["done"]


@must("3.2.2", "A send that waits returns when the task needs its caller: input or authentication")
async def test_a_send_waits_for_an_interruption(speaker: Speaker) -> None:
    for interruption in INTERRUPTIONS:
        sending = asyncio.create_task(speaker.send(wait=True))
        turn = await speaker.front.takes_next()
        await speaker.front.ends(turn, **{**question("who?"), "state": interruption})
        task = await sending
        assert state(task) == interruption.name
        assert texts([task["status"]["message"]]) == ["who?"]


@must("3.2.2", "To wait is the default", RPC, REST, OLD)  # 0.3's proto cannot tell left out from false
async def test_to_wait_is_the_default(echoing: Speaker) -> None:
    params = {"message": echoing.message("hi")}
    for asked in (params, {**params, "configuration": {}}):
        result = await echoing.answer("send", asked)
        assert state(result.get("task", result)) == "COMPLETED"


@must("3.2.2", "A send that does not wait returns as soon as the task is made, whatever it does then")
async def test_a_send_that_does_not_wait(speaker: Speaker) -> None:
    task = await speaker.send(wait=False)
    assert state(task) == "SUBMITTED"
    await speaker.front.ends(await speaker.front.takes(), **answer("later"))
    assert state(await speaker.get(task["id"])) == "COMPLETED"


@must("3.2.2", "The waiting of one client changes nothing about the push notifications that it asked for")
async def test_a_push_notification_config_comes_with_a_message(speaker: Speaker) -> None:
    speaker.front.plays(echo)
    for wait in (False, True):
        task = await speaker.send(wait=wait, callback={"url": "https://hook.test"})
        (config,) = await speaker.configs(task["id"])
        assert config["url"] == "https://hook.test"


# ---------------------------------------------------------------------- 3.2.4


async def talked(speaker: Speaker) -> str:
    """The id of a task whose history is five messages."""
    speaker.front.plays(echo)
    task_id: str = (await speaker.send("one?", wait=True))["id"]
    await speaker.send("two?", taskId=task_id, wait=True)
    await speaker.send("three", taskId=task_id, wait=True)
    return task_id


@should("3.2.4", "historyLength 0 gives no history: the member is left out")
async def test_no_history(echoing: Speaker) -> None:
    task = await echoing.send("so?", wait=True, history=0)
    assert "history" not in task
    assert "history" not in await echoing.send("still?", taskId=task["id"], history=0)
    assert "history" not in await echoing.get(task["id"], historyLength=0)


@must("3.2.4", "historyLength n gives the last n messages at most")
async def test_the_last_messages(speaker: Speaker) -> None:
    task_id = await talked(speaker)
    everything = (await speaker.get(task_id))["history"]
    for length in (1, 2, len(everything), 100):
        assert (await speaker.get(task_id, historyLength=length))["history"] == everything[-length:]


@must("3.2.4", "historyLength means the same for a task that a send returns")
async def test_the_last_messages_of_a_send(echoing: Speaker) -> None:
    task = await echoing.send("one?", wait=True)
    again = await echoing.send("two?", wait=True, taskId=task["id"], history=1)
    everything = (await echoing.get(task["id"]))["history"]
    assert len(everything) > 1
    assert again["history"] == everything[-1:]


@must("3.2.4", "A negative historyLength is refused")
async def test_a_negative_length(speaker: Speaker) -> None:
    task_id = (await speaker.send())["id"]
    asked = [speaker.send(history=-1), speaker.get(task_id, historyLength=-1)]
    if not speaker.old:
        asked.append(speaker.tasks(historyLength=-1))
    for each in asked:
        assert (await refused(each)).name == "INVALID_PARAMS"
    assert await speaker.front.stored() == 1


@should("3.2.4", "The history is in the order in which the messages were said, as they were said")
async def test_the_order_of_the_history(speaker: Speaker) -> None:
    task = await speaker.get(await talked(speaker))
    said = [(role(each), texts([each])[0]) for each in task["history"]]
    assert said == [
        ("user", "one?"),
        ("agent", "why one?"),
        ("user", "two?"),
        ("agent", "why two?"),
        ("user", "three"),
    ]


# ---------------------------------------------------------------------- 3.2.5, 3.2.6


@must("3.2.5", "Metadata keeps any JSON value: of the request as the task's, of the message as the message's")
async def test_metadata(speaker: Speaker) -> None:
    metadata = {"https://ext.test/x": {"a": [1, 2.5, None, True, "é"]}, "b": {}}
    sent = await speaker.send(metadata=metadata)
    task = await speaker.get(sent["id"])
    assert task["metadata"] == metadata


@must("3.2.6", "The names of service parameters are the same in upper and lower case")
async def test_service_parameters_have_no_case(speaker: Speaker) -> None:
    for name in ["a2a-version", "A2A-VERSION", "A2A-Version"]:
        error = await refused(speaker.answer("get", {"id": "x"}, **{name: "99.0"}))
        assert error.name == "VERSION_NOT_SUPPORTED"


# ---------------------------------------------------------------------- 3.4.1


@must("3.4.1", "A message without a contextId gets one, and the answer shows it")
async def test_a_context_id_is_made(speaker: Speaker) -> None:
    first, second = await speaker.send(), await speaker.send()
    assert first["contextId"]
    assert first["contextId"] != second["contextId"]
    assert (await speaker.get(first["id"]))["contextId"] == first["contextId"]


@must("3.4.1", "A contextId of the client's own is kept, in the answer and afterwards")
async def test_a_context_id_is_kept(speaker: Speaker) -> None:
    for context_id in ["mine", "ctx/1 ü:#?%", "0198f7a5-7d3c-7000-8000-000000000000"]:
        task = await speaker.send(contextId=context_id)
        assert task["contextId"] == context_id
        assert (await speaker.get(task["id"]))["contextId"] == context_id


@must("3.4.1", "A contextId that cannot be taken is refused; no other is put in its place")
async def test_a_context_id_that_is_too_long(speaker: Speaker) -> None:
    error = await refused(speaker.send(contextId="x" * 10_000))
    assert (error.name, error.fields) == ("INVALID_PARAMS", ["message.contextId"])
    assert await speaker.front.stored() == 0


@should("3.4.1", "Tasks with one contextId are one conversation: the agent sees what was said before")
async def test_tasks_of_a_context_are_one_conversation(speaker: Speaker) -> None:
    heard: list[list[str]] = []

    def play(turn: ClaimedTurn) -> End:
        heard.append([said.text for said in turn.conversation])
        return answer("yes")

    speaker.front.plays(play)
    first = await speaker.send("one", contextId="talk", wait=True)
    second = await speaker.send("two", contextId="talk", wait=True)
    assert first["id"] != second["id"]
    assert heard == [["one"], ["one", "yes", "two"]]


# ---------------------------------------------------------------------- 3.4.2


@must("3.4.2", "The server makes the id of each new task, and the task shows it")
async def test_task_ids_are_the_servers(speaker: Speaker) -> None:
    ids = {(await speaker.send(contextId="talk"))["id"] for _ in range(3)}
    assert len(ids) == 3
    assert all(UUID(task_id) for task_id in ids)


@must(
    "3.4.2",
    "A message to a task that does not exist is refused: TaskNotFound; a client cannot name a new task",
)
async def test_a_client_cannot_name_a_task(speaker: Speaker) -> None:
    for task_id in ["mine", "0198f7a5-7d3c-7000-8000-000000000000"]:
        for wait in (True, False):
            assert (await refused(speaker.send(taskId=task_id, wait=wait))).name == "TASK_NOT_FOUND"
        assert await speaker.front.stored() == 0


# ---------------------------------------------------------------------- 3.4.3


@must("3.4.3", "With a taskId alone the contextId is that of the task")
async def test_the_context_follows_from_the_task(speaker: Speaker) -> None:
    task = await speaker.send(contextId="talk")
    assert (await speaker.send("more", taskId=task["id"]))["contextId"] == "talk"
    assert (await speaker.get(task["id"]))["history"][-1].get("contextId") == "talk"


@must("3.4.3", "A taskId with the contextId of another conversation is refused")
async def test_a_context_that_does_not_match(speaker: Speaker) -> None:
    task = await speaker.send(contextId="talk")
    error = await refused(speaker.send("more", taskId=task["id"], contextId="other"))
    assert error.name == "INVALID_PARAMS"
    assert len((await speaker.get(task["id"]))["history"]) == 1


@must("3.4.3", "A task that asked for input goes on with the next message that names it")
async def test_a_question_and_its_answer(echoing: Speaker) -> None:
    asked = await echoing.send("so?", wait=True)
    assert state(asked) == "INPUT_REQUIRED"
    done = await echoing.send("because", taskId=asked["id"], contextId=asked["contextId"], wait=True)
    assert (done["id"], state(done)) == (asked["id"], "COMPLETED")


@must("3.4.3", "A message to a task that waits or works is taken, and its agent hears it")
async def test_a_message_to_a_working_task(speaker: Speaker) -> None:
    task = await speaker.send("one")
    turn = await speaker.front.takes()
    more = await speaker.send("two", taskId=task["id"])
    assert (more["id"], state(more)) == (task["id"], "WORKING")
    await speaker.front.ends(turn, **answer("first"))
    again = await speaker.front.takes()
    assert "two" in [said.text for said in again.conversation]


# ---------------------------------------------------------------------- 3.7


@should("3.7", "Results are artifacts of the task and no messages")
async def test_results_are_artifacts(echoing: Speaker) -> None:
    task = await echoing.send("hi", wait=True)
    assert texts(task["artifacts"]) == ["hi"]
    assert [role(said) for said in task["history"]] == ["user"]
    assert "message" not in task["status"]


@must("4.1.4", "Only a client speaks as the user, and a client only so: role", *NEW)
async def test_a_client_is_the_user(speaker: Speaker) -> None:
    assert (await refused(speaker.send(role="ROLE_AGENT"))).name == "INVALID_PARAMS"
    assert await speaker.front.stored() == 0
