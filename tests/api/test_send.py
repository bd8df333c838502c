"""Sending: waiting and not waiting, follow-ups, conversations, disconnects, outages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from perdure.errors import QueueUnavailable, StorageUnavailable
from perdure.tasks import Message, Ring, StatusChange, TaskState
from tests.api.front import (
    Front,
    Json,
    Live,
    answer,
    at_once,
    message,
    message03,
    opened_front,
    question,
    text,
    texts,
)


async def test_a_send_waits_until_the_task_is_done_and_returns_its_artifacts(echoing: Front) -> None:
    task = (await echoing.call("SendMessage", {"message": message("hi")}))["task"]
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"
    assert texts(task["artifacts"]) == ["hi"]
    assert texts(task["history"]) == ["hi"]
    assert await echoing.call("GetTask", {"id": task["id"]}) == task


async def test_a_send_of_version_0_3_waits_as_well_and_returns_the_bare_task(echoing: Front) -> None:
    task = await echoing.call("message/send", {"message": message03("hi")})
    assert (task["kind"], task["status"]["state"]) == ("task", "completed")
    assert task["artifacts"] == [{"artifactId": "answer", "parts": [{"kind": "text", "text": "hi"}]}]
    assert await echoing.call("tasks/get", {"id": task["id"]}) == task


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("SendMessage", {"message": message(), "configuration": {"returnImmediately": True}}),
        ("SendMessage", {"message": message(), "configuration": {"return_immediately": True}}),
        ("message/send", {"message": message03(), "configuration": {"blocking": False}}),
    ],
)
async def test_a_send_that_is_not_to_wait_returns_the_new_task(
    front: Front, method: str, params: Json
) -> None:
    result = await front.call(method, params)
    task = result.get("task", result)
    assert task["status"]["state"] in ("TASK_STATE_SUBMITTED", "submitted")
    assert len(task["history"]) == 1
    assert "artifacts" not in task


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.REJECTED, TaskState.AUTH_REQUIRED])
async def test_a_send_returns_at_every_state_in_which_nothing_more_happens(
    front: Front, state: TaskState
) -> None:
    front.plays(lambda turn: {"state": state, "status_message": question("so")["status_message"]})
    task = (await front.call("SendMessage", {"message": message()}))["task"]
    assert task["status"]["state"] == f"TASK_STATE_{state.name}"
    assert task["status"]["message"]["parts"] == [{"text": "so"}]
    assert task["status"]["message"]["role"] == "ROLE_AGENT"


async def test_a_send_does_not_return_while_the_task_only_changes(front: Front) -> None:
    sending = asyncio.create_task(front.call("SendMessage", {"message": message()}))
    turn = await front.takes_next()
    await front.writes(turn, 1, metadata={"half": True}, status_metadata={"progress": 0.5})
    assert not sending.done()
    await front.ends(turn, number=2, **answer("done"))
    assert texts((await sending)["task"]["artifacts"]) == ["done"]


async def test_a_send_that_waited_too_long_returns_the_task_as_it_stands() -> None:
    async with opened_front(wait_timeout=0.01) as front:
        task = (await front.call("SendMessage", {"message": message()}))["task"]
        assert task["status"]["state"] == "TASK_STATE_SUBMITTED"


async def test_a_change_whose_notice_was_lost_is_found_by_the_refresh(front: Front) -> None:
    sending = asyncio.create_task(front.call("SendMessage", {"message": message()}))
    turn = await front.takes_next()
    await front.storage.update_task(turn.claim, 1, **answer("silent"))  # nobody is told
    assert not sending.done()
    await front.watch.refresh()
    assert texts((await sending)["task"]["artifacts"]) == ["silent"]


async def test_a_client_that_leaves_does_not_touch_the_task(front: Front) -> None:
    async with front.live("SendMessage", {"message": message("go on")}) as client:
        turn = await front.takes_next()
        await front.ends(turn, **answer("done"))
        await client.leave()
    task = await front.call("GetTask", {"id": str(turn.claim.task_id)})
    assert task["status"]["state"] == "TASK_STATE_COMPLETED"


async def test_a_client_that_leaves_a_stream_does_not_touch_the_task(front: Front) -> None:
    client = front.live("SendStreamingMessage", {"message": message("go on")}, A2A_Version="1.0")
    async with client:
        await client.result()
        turn = await front.takes()
    await front.ends(turn, **answer("done"))
    task = await front.call("GetTask", {"id": str(turn.claim.task_id)})
    assert texts(task["artifacts"]) == ["done"]


async def test_many_waiting_sends_are_all_answered(echoing: Front) -> None:
    words = [f"message {number}" for number in range(300)]
    tasks = await asyncio.gather(*(echoing.call("SendMessage", {"message": message(word)}) for word in words))
    assert [texts(sent["task"]["artifacts"]) for sent in tasks] == [[word] for word in words]


# ---------------------------------------------------------------------- follow-ups and conversations


async def test_a_question_is_answered_by_a_message_with_the_task_id_alone(echoing: Front) -> None:
    asked = (await echoing.call("SendMessage", {"message": message("really?")}))["task"]
    assert asked["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
    assert asked["status"]["message"]["parts"] == [{"text": "why really?"}]
    done = (await echoing.call("SendMessage", {"message": message("because", taskId=asked["id"])}))["task"]
    assert done["id"] == asked["id"]
    assert done["contextId"] == asked["contextId"]
    assert done["status"]["state"] == "TASK_STATE_COMPLETED"
    assert texts(done["history"]) == ["really?", "why really?", "because"]
    assert await echoing.stored() == 1


async def test_a_follow_up_may_name_task_and_context_in_either_version(echoing: Front) -> None:
    asked = await echoing.call("message/send", {"message": message03("really?")})
    ids = {"taskId": asked["id"], "contextId": asked["contextId"]}
    done = await echoing.call("message/send", {"message": message03("because", **ids)})
    assert (done["id"], done["status"]["state"]) == (asked["id"], "completed")


async def test_a_follow_up_in_the_wrong_context_is_refused_and_not_stored(echoing: Front) -> None:
    asked = (await echoing.call("SendMessage", {"message": message("really?")}))["task"]
    before = await echoing.log(asked["id"])
    ids = {"taskId": asked["id"], "contextId": "another"}
    error = await echoing.error("SendMessage", {"message": message("because", **ids)})
    assert error["code"] == -32602
    assert error["data"][1]["fieldViolations"][0]["field"] == "message.contextId"
    assert await echoing.log(asked["id"]) == before


@pytest.mark.parametrize("method", ["SendMessage", "message/send"])
async def test_a_message_to_a_finished_task_is_refused_and_not_stored(echoing: Front, method: str) -> None:
    done = (await echoing.call("SendMessage", {"message": message("hi")}))["task"]
    before = await echoing.log(done["id"])
    said = (message if method == "SendMessage" else message03)("more", taskId=done["id"])
    assert (await echoing.error(method, {"message": said}))["code"] == -32004
    assert await echoing.log(done["id"]) == before


async def test_a_context_that_the_client_named_is_kept_as_it_is(echoing: Front) -> None:
    for name in ("my talk", "ü / ? #", "x" * 256):
        task = (await echoing.call("SendMessage", {"message": message("hi", contextId=name)}))["task"]
        assert task["contextId"] == name
    assert await echoing.stored() == 3


async def test_a_second_task_in_a_context_is_given_the_conversation(front: Front) -> None:
    heard: list[Sequence[str]] = []

    def listens(turn: Any) -> Any:
        heard.append([said.text for said in turn.conversation])
        return answer(f"answer {len(heard)}")

    front.plays(listens)
    for words in ("one", "two"):
        await front.call("SendMessage", {"message": message(words, contextId="talk")})
    assert heard == [["one"], ["one", "answer 1", "two"]]


async def test_empty_ids_are_as_good_as_none(echoing: Front) -> None:
    task = (await echoing.call("SendMessage", {"message": message("hi", taskId="", contextId="")}))["task"]
    assert str(UUID(task["id"])) == task["id"]
    assert str(UUID(task["contextId"])) == task["contextId"]


async def test_a_message_to_a_working_task_is_seen_by_its_next_turn(front: Front) -> None:
    first = await front.call("SendMessage", at_once("one"))
    turn = await front.takes()
    with front.watch.waiter(turn.claim.task_id) as waiter:
        sending = asyncio.create_task(
            front.call("SendMessage", {"message": message("two", taskId=first["task"]["id"])})
        )
        await waiter.beyond(turn.task.last_seq)
    await front.ends(turn, **answer("one answered"))
    assert not sending.done()
    await front.ends(await front.takes(), state=TaskState.COMPLETED, new_artifacts=[text("both", "second")])
    assert texts((await sending)["task"]["artifacts"]) == ["one answered", "both"]


async def test_the_metadata_of_a_request_is_that_of_its_new_task(front: Front) -> None:
    params = at_once("hi", metadata={"of": "message"}) | {"metadata": {"of": "request"}}
    task = (await front.call("SendMessage", params))["task"]
    assert task["metadata"] == {"of": "request"}
    assert task["history"][0]["metadata"] == {"of": "message"}


async def test_the_metadata_of_a_follow_ups_request_is_kept_with_its_message(front: Front) -> None:
    asked = (await front.call("SendMessage", at_once("really?")))["task"]
    await front.ends(await front.takes(), **question("why?"))
    params = at_once("because", taskId=asked["id"], metadata={"of": "message", "a": 1})
    await front.call("SendMessage", params | {"metadata": {"of": "request", "b": 2}})
    turn = await front.takes()
    assert turn.conversation[-1].metadata == {"of": "message", "a": 1, "b": 2}
    assert turn.task.metadata == {}


# ---------------------------------------------------------------------- outages


async def test_without_its_queue_the_front_door_still_takes_messages(front: Front, monkeypatch: Any) -> None:
    async def away(rings: Sequence[Ring]) -> None:
        raise QueueUnavailable("redis is away")

    monkeypatch.setattr(front.queue, "ring", away)
    task = (await front.call("SendMessage", at_once()))["task"]
    assert (await front.takes()).task.task_id == UUID(task["id"])


async def test_without_its_storage_the_front_door_says_when_to_try_again(
    front: Front, monkeypatch: Any
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise StorageUnavailable("connection to 10.0.0.1:5432 refused")

    monkeypatch.setattr(front.storage, "submit_task", away)
    response = await front.post("SendMessage", {"message": message()})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["id"] == 7
    assert response.json()["error"]["code"] == -32603
    assert "10.0.0.1" not in response.text
    response = await front.http.post("/message:send", json={"message": message()})
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert response.json()["error"]["status"] == "UNAVAILABLE"


async def test_a_defect_is_told_without_its_text(front: Front, monkeypatch: Any) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret is 42")

    monkeypatch.setattr(front.storage, "load_task", broken)
    task_id = "0198f7a5-7d3c-7000-8000-000000000000"
    response = await front.post("GetTask", {"id": task_id})
    assert response.status_code == 200
    assert response.json()["error"]["code"] == -32603
    assert "42" not in response.text
    response = await front.http.get(f"/tasks/{task_id}")
    assert response.status_code == 500
    assert "42" not in response.text


async def test_a_send_that_was_accepted_outlives_an_outage_of_the_database(
    front: Front, monkeypatch: Any
) -> None:
    monkeypatch.setattr("api.task_manager.OUTAGE_PAUSE", 0.001)
    load, failures = front.storage.load_task, iter(range(3))

    async def flaky(*arguments: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise StorageUnavailable("away")
        return await load(*arguments, **options)

    monkeypatch.setattr(front.storage, "load_task", flaky)
    front.plays(lambda turn: answer("there"))
    task = (await front.call("SendMessage", {"message": message()}))["task"]
    assert texts(task["artifacts"]) == ["there"]
    assert next(failures, None) is None


# ---------------------------------------------------------------------- how much history


@pytest.mark.parametrize(
    ("length", "expected"), [(None, ["a?", "why a?", "b"]), (0, None), (2, ["why a?", "b"]), (9, 3)]
)
async def test_history_length_applies_to_every_operation(
    echoing: Front, length: int | None, expected: Any
) -> None:
    asked = (await echoing.call("SendMessage", {"message": message("a?")}))["task"]
    limit = {} if length is None else {"historyLength": length}
    sent = await echoing.call(
        "SendMessage", {"message": message("b", taskId=asked["id"]), "configuration": limit}
    )
    found = [
        sent["task"],
        await echoing.call("GetTask", {"id": asked["id"], **limit}),
        (await echoing.call("ListTasks", limit))["tasks"][0],
        (await echoing.http.get(f"/tasks/{asked['id']}", params=limit)).json(),
        (await echoing.http.get("/tasks", params=limit)).json()["tasks"][0],
        await echoing.call("tasks/get", {"id": asked["id"], **limit}),
    ]
    for task in found:
        history = texts(task["history"]) if "history" in task else None
        assert history == expected or len(history or ()) == expected


@pytest.mark.parametrize("blocking", [True, False])
async def test_a_new_task_is_returned_without_history_if_none_is_wanted(
    echoing: Front, blocking: bool
) -> None:
    configuration = {"historyLength": 0, "returnImmediately": not blocking}
    sent = await echoing.call("SendMessage", {"message": message("a"), "configuration": configuration})
    assert "history" not in sent["task"]


async def test_the_log_of_a_task_tells_its_story(echoing: Front) -> None:
    task = (await echoing.call("SendMessage", {"message": message("hi")}))["task"]
    kinds = [type(event.body) for event in await echoing.log(task["id"])]
    assert kinds[0] is Message
    assert kinds[-1] is StatusChange


async def test_a_live_request_is_plain_http_too(echoing: Front) -> None:
    async with Live(echoing.app, "GET", "/healthz") as client:
        assert (await client.starts()).status == 200
