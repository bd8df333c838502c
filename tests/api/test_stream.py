"""Streams: the snapshot first, then every update, numbered, resumable; over JSON-RPC in both versions and over REST."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.errors import StorageUnavailable
from perdure.tasks import TaskState
from tests.api.front import (
    Frame,
    Front,
    Json,
    Live,
    answer,
    at_once,
    chunk,
    echo,
    message,
    message03,
    opened_front,
    question,
    says,
)


def told(frames: list[Frame]) -> list[str]:
    """A 1.0 stream in short."""
    return [_told(frame.data.get("result", frame.data)) for frame in frames]


def _told(result: Json) -> str:
    ((kind, said),) = result.items()
    if kind == "task":
        return f"task {said['status']['state']}"
    if kind == "artifactUpdate":
        return "".join(part["text"] for part in said["artifact"]["parts"])
    assert kind == "statusUpdate"
    return str(said["status"]["state"].removeprefix("TASK_STATE_"))


NEW = {"A2A_Version": "1.0"}


async def test_a_stream_is_the_task_then_its_updates_as_they_happen(front: Front) -> None:
    async with front.live("SendStreamingMessage", {"message": message("hi")}, **NEW) as client:
        number, first = await client.result()
        assert client.headers["content-type"].startswith("text/event-stream")
        assert client.headers["x-accel-buffering"] == "no"
        assert number == 1
        assert first["task"]["status"]["state"] == "TASK_STATE_SUBMITTED"
        ids = {"taskId": first["task"]["id"], "contextId": first["task"]["contextId"]}

        turn = await front.takes()
        number, working = await client.result()
        assert number == 2
        assert working["statusUpdate"].items() >= ids.items()
        assert working["statusUpdate"]["status"]["state"] == "TASK_STATE_WORKING"
        assert working["statusUpdate"]["status"]["timestamp"].endswith("Z")
        assert "final" not in working["statusUpdate"]

        await front.writes(turn, 1, chunk("one ", append=False))
        assert (await client.result())[1] == {
            "artifactUpdate": {**ids, "artifact": {"artifactId": "answer", "parts": [{"text": "one "}]}}
        }
        await front.writes(turn, 2, chunk("two", last=True))
        assert (await client.result())[1] == {
            "artifactUpdate": {
                **ids,
                "artifact": {"artifactId": "answer", "parts": [{"text": "two"}]},
                "append": True,
                "lastChunk": True,
            }
        }
        await front.ends(turn, number=3, state=TaskState.COMPLETED)
        number, last = await client.result()
        assert number == 5
        assert last["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        assert await client.frame() is None


async def test_a_stream_of_version_0_3_is_bare_objects_with_final(front: Front) -> None:
    async with front.live("message/stream", {"message": message03("hi")}) as client:
        task = (await client.result())[1]
        assert (task["kind"], task["status"]["state"]) == ("task", "submitted")
        turn = await front.takes()
        working = (await client.result())[1]
        assert (working["kind"], working["status"]["state"], working["final"]) == (
            "status-update",
            "working",
            False,
        )
        await front.writes(turn, 1, chunk("one", append=False))
        piece = (await client.result())[1]
        assert piece["kind"] == "artifact-update"
        assert (piece["append"], piece["lastChunk"]) == (False, False)
        assert piece["artifact"]["parts"] == [{"kind": "text", "text": "one"}]
        await front.ends(turn, number=2, **question("go on?"))
        asked = (await client.result())[1]
        assert (asked["status"]["state"], asked["final"]) == ("input-required", True)
        assert asked["status"]["message"]["parts"] == [{"kind": "text", "text": "go on?"}]
        assert await client.frame() is None


async def test_rest_streams_without_an_envelope(front: Front) -> None:
    front.plays(echo)
    body = {"message": message("hi")}
    async with Live(front.app, "POST", "/message:stream", body) as client:
        frames = await client.rest()
    assert told(frames) == ["task TASK_STATE_SUBMITTED", "WORKING", "hi", "COMPLETED"]
    assert [frame.id for frame in frames] == [1, 2, 3, 4]


async def test_what_the_agent_says_in_mid_turn_comes_with_a_status(front: Front) -> None:
    async with front.live("SendStreamingMessage", {"message": message("hi")}, **NEW) as client:
        turn = await front.takes_next()
        await front.writes(turn, 1, new_messages=[says("looking it up")])
        await front.ends(turn, number=2, **answer("done"))
        frames = await client.rest()
    assert told(frames)[-4:] == ["WORKING", "WORKING", "done", "COMPLETED"]
    said = frames[-3].data["result"]["statusUpdate"]["status"]["message"]
    assert said["parts"] == [{"text": "looking it up"}]


async def test_a_send_stream_closes_at_a_question_and_a_subscription_does_not(front: Front) -> None:
    front.plays(echo)
    async with front.live("SendStreamingMessage", {"message": message("so?")}, **NEW) as client:
        frames = await client.rest()
    assert told(frames)[-1] == "INPUT_REQUIRED"
    task_id = frames[0].data["result"]["task"]["id"]
    async with front.live("SubscribeToTask", {"id": task_id}, **NEW) as subscriber:
        snapshot = (await subscriber.result())[1]["task"]
        assert snapshot["status"]["state"] == "TASK_STATE_INPUT_REQUIRED"
        assert len(snapshot["history"]) == 1
        follow_up = {"message": message("because", taskId=task_id)}
        async with front.live("SendStreamingMessage", follow_up, **NEW) as client:
            sent = await client.rest()
        assert told(await subscriber.rest()) == ["SUBMITTED", "WORKING", "because", "COMPLETED"]
    assert told(sent)[-3:] == ["WORKING", "because", "COMPLETED"]


async def test_every_stream_of_a_task_says_the_same_in_the_same_order(front: Front) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    clients = [front.live("SubscribeToTask", {"id": task_id}, **NEW) for _ in range(5)]
    for client in clients:
        await client.__aenter__()
        await client.result()
    await clients[0].leave()  # closing one touches nothing else
    turn = await front.takes()
    for number in range(1, 20):
        await front.writes(turn, number, chunk(f"{number} "))
    await front.ends(turn, number=20, state=TaskState.COMPLETED)
    heard = [await client.rest() for client in clients[1:]]
    assert all(frames == heard[0] for frames in heard)
    assert [frame.id for frame in heard[0]] == list(range(2, 23))
    for client in clients[1:]:
        await client.leave()


async def test_a_stream_is_resumed_from_any_of_its_events(front: Front) -> None:
    front.plays(
        lambda turn: {"state": TaskState.COMPLETED, "new_artifacts": [chunk(str(n)) for n in range(5)]}
    )
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        everything = await client.rest()
    task_id = everything[0].data["result"]["task"]["id"]
    for place, last in enumerate(everything):
        async with front.live(
            "SubscribeToTask", {"id": task_id}, Last_Event_ID=str(last.id), **NEW
        ) as client:
            assert await client.rest() == everything[place + 1 :]
        headers = {"Last-Event-ID": str(last.id)}
        async with Live(front.app, "GET", f"/tasks/{task_id}:subscribe", headers=headers) as client:
            assert told(await client.rest()) == told(everything[place + 1 :])


@pytest.mark.parametrize("handed_out", [2, 4])
async def test_a_stream_that_is_open_goes_on_over_what_is_folded(front: Front, handed_out: int) -> None:
    """A reader that is so slow that the log is folded under it gets the whole artifact, and its text is right."""
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        task_id = (await client.result())[1]["task"]["id"]
        turn = await front.takes()
        for number in range(1, 6):
            await front.writes(turn, number, chunk(f"{number} ", append=number > 1))
        last = [(await client.result())[0] for _ in range(handed_out)][-1]
    await front.ends(turn, number=6, state=TaskState.COMPLETED)
    assert await front.storage.fold_tasks(ended_for=0) == 1
    async with front.live("SubscribeToTask", {"id": task_id}, Last_Event_ID=str(last), **NEW) as again:
        frames = await again.rest()
    assert [frame.id for frame in frames] == [7, 8]
    first = frames[0].data["result"]["artifactUpdate"]
    assert "append" not in first
    assert told(frames) == ["1 2 3 4 5 ", "COMPLETED"]


async def test_a_stream_is_resumed_in_the_middle_of_the_work(front: Front) -> None:
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        task_id = (await client.result())[1]["task"]["id"]
        turn = await front.takes()
        await front.writes(turn, 1, chunk("a"), chunk("b"))
        await client.result()
        number, _ = await client.result()
    await front.writes(turn, 2, chunk("c"))
    async with front.live("SubscribeToTask", {"id": task_id}, Last_Event_ID=str(number), **NEW) as client:
        assert told([Frame(1, "", (await client.frame() or Frame(0, "", {})).data)]) == ["b"]
        await front.ends(turn, number=3, state=TaskState.COMPLETED)
        assert told(await client.rest()) == ["c", "COMPLETED"]


async def test_a_callers_message_is_no_update_but_keeps_its_number(front: Front) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    turn = await front.takes()
    await front.call("SendMessage", at_once("more", taskId=task_id))
    await front.ends(turn, **answer("one"))
    await front.ends(await front.takes(), **answer("two"))
    async with front.live("SubscribeToTask", {"id": task_id}, Last_Event_ID="0", **NEW) as client:
        frames = await client.rest()
    assert told(frames) == ["WORKING", "one", "SUBMITTED", "WORKING", "two", "COMPLETED"]
    assert [frame.id for frame in frames] == [2, 4, 5, 6, 7, 8]


async def test_a_place_beyond_the_log_is_its_end(front: Front) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    async with front.live("SubscribeToTask", {"id": task_id}, Last_Event_ID="999", **NEW) as client:
        assert (await client.starts()).status == 200  # though there is nothing to say yet
        await front.ends(await front.takes(), **answer("x"))
        assert told(await client.rest()) == ["WORKING", "x", "COMPLETED"]


@pytest.mark.parametrize("place", ["x", "-1", "1.5", "9" * 30])
async def test_a_place_that_is_no_number_is_refused(front: Front, place: str) -> None:
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    error = await front.error("SubscribeToTask", {"id": task_id}, Last_Event_ID=place, **NEW)
    assert error["code"] == -32602


async def test_long_logs_are_read_in_pages(front: Front, monkeypatch: Any) -> None:
    monkeypatch.setattr("api.feeds.EVENTS_PER_READ", 3)
    chunks = [chunk(str(number)) for number in range(10)]
    front.plays(lambda turn: {"state": TaskState.COMPLETED, "new_artifacts": chunks})
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        assert told(await client.rest())[2:] == [*map(str, range(10)), "COMPLETED"]


async def test_a_stream_ends_when_its_conversation_is_cleared(front: Front) -> None:
    params = {"message": message(contextId="talk")}
    async with front.live("SendStreamingMessage", params, **NEW) as client:
        await client.result()
        await front.call("contexts/clear", {"contextId": "talk"})
        assert await client.frame() is None


async def test_an_open_stream_outlives_an_outage_of_the_database(front: Front, monkeypatch: Any) -> None:
    monkeypatch.setattr("api.feeds.OUTAGE_PAUSE", 0.001)
    read, failures = front.storage.events_since, iter(range(3))

    async def flaky(*arguments: Any, **options: Any) -> Any:
        if next(failures, None) is not None:
            raise StorageUnavailable("away")
        return await read(*arguments, **options)

    monkeypatch.setattr(front.storage, "events_since", flaky)
    front.plays(echo)
    async with front.live("SendStreamingMessage", {"message": message("hi")}, **NEW) as client:
        assert told(await client.rest())[-2:] == ["hi", "COMPLETED"]


async def test_a_defect_in_mid_stream_ends_it_with_an_error_frame(front: Front, monkeypatch: Any) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("the secret is 42")

    async with front.live("SendStreamingMessage", {"message": message("hi")}, **NEW) as client:
        await client.result()
        monkeypatch.setattr(front.storage, "events_since", broken)
        await front.takes()
        (last,) = await client.rest()
    assert (last.name, last.data["id"]) == ("message", 7)
    assert last.data["error"]["code"] == -32603
    assert "42" not in str(last.data)


async def test_line_separators_in_texts_do_not_break_lines(front: Front) -> None:
    words = "a\u2028b\u2029c\u0085d\ne"
    front.plays(lambda turn: answer(words))
    body = {"jsonrpc": "2.0", "id": 7, "method": "SendStreamingMessage", "params": {"message": message()}}
    async with front.http.stream("POST", "/", json=body, headers={"A2A-Version": "1.0"}) as response:
        lines = [line async for line in response.aiter_lines() if line]
    assert all(line.startswith(("id: ", "data: ")) for line in lines)
    assert any("a\\u2028b\\u2029c\\u0085d\\ne" in line for line in lines)


async def test_an_idle_stream_is_kept_alive_by_comments() -> None:
    async with (
        opened_front(keep_alive=0.01) as front,
        front.live("SendStreamingMessage", {"message": message()}, **NEW) as client,
    ):
        await client.result()
        assert await client.block() == ": keep-alive"
        assert await client.block() == ": keep-alive"


# ---------------------------------------------------------------------- errors come first


async def ended(front: Front) -> str:
    task = (await front.call("SendMessage", at_once()))["task"]
    await front.call("CancelTask", {"id": task["id"]})
    task_id: str = task["id"]
    return task_id


async def test_subscribing_to_an_ended_task_is_refused(front: Front) -> None:
    task_id = await ended(front)
    response = await front.post("SubscribeToTask", {"id": task_id}, **NEW)
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["code"] == -32004
    for method in ("GET", "POST"):
        response = await front.http.request(method, f"/tasks/{task_id}:subscribe")
        assert response.status_code == 400
        assert response.json()["error"]["details"][0]["reason"] == "UNSUPPORTED_OPERATION"


async def test_a_client_that_does_not_name_its_version_gets_the_error_as_a_frame(front: Front) -> None:
    task_id = await ended(front)
    for method in ("tasks/resubscribe", "SubscribeToTask"):
        async with front.live(method, {"id": task_id}) as client:
            (frame,) = await client.rest()
            assert client.headers["content-type"].startswith("text/event-stream")
        assert frame.data["id"] == 7
        assert frame.data["error"]["code"] == -32004


async def test_a_bad_message_or_task_is_an_error_and_no_stream(front: Front) -> None:
    for params, code in (({"message": {}}, -32602), ({"message": message(taskId="x")}, -32001)):
        assert (await front.error("SendStreamingMessage", params, **NEW))["code"] == code
    assert (await front.error("SubscribeToTask", {"id": "x"}, **NEW))["code"] == -32001
    response = await front.http.post("/message:stream", json={"message": {}})
    assert response.status_code == 400
    assert await front.stored() == 0


async def test_an_agent_without_streaming_refuses_to_stream() -> None:
    async with opened_front({"capabilities": {"streaming": False}}) as front:
        for method, params in (
            ("SendStreamingMessage", {"message": message()}),
            ("SubscribeToTask", {"id": "0198f7a5-7d3c-7000-8000-000000000000"}),
        ):
            assert (await front.error(method, params, **NEW))["code"] == -32004
        assert (await front.http.post("/message:stream", json={"message": message()})).status_code == 400
        assert await front.stored() == 0


async def test_leaving_lets_go_of_the_task(front: Front) -> None:
    async with front.live("SendStreamingMessage", {"message": message()}, **NEW) as client:
        await client.result()
        assert front.watch._followers
    await asyncio.sleep(0)
    assert not front.watch._followers
