"""Streams of real processes: what a client reads is exactly what the handler said, whoever dies or stops in between."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from copy import deepcopy

import httpx
import pytest

from tests.support.processes import text_of
from tests.support.streams import BINDINGS, Listener, words

from .conftest import AGENTS, Stack, at, until

NUMBER = 400


def talking(stack: Stack) -> None:
    stack.settings["AGENT"] = str(AGENTS / "words.py")


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_stream_survives_its_front_door_and_its_worker(stack: Stack, binding: str) -> None:
    """Both are killed in mid-answer; the client ends with exactly the text that the handler produced."""
    talking(stack)
    (server, door), (other, _) = stack.front_door(), stack.front_door()
    workers = {worker.popen.pid: worker for worker in (stack.worker(), stack.worker())}
    gate, client = stack.gate("gate"), Listener(binding)
    with client.sends(server, f"{NUMBER} {gate.path}") as texts:
        assert next(text for text in texts if text.endswith(f" {NUMBER // 2 - 1} "))
        workers[gate.begun()].signal(signal.SIGKILL)
        door.signal(signal.SIGKILL)
        with pytest.raises(httpx.TransportError):
            list(texts)
    assert client.text == words(NUMBER // 2)
    before = deepcopy(client)
    gate.open()
    with client.resumes(other) as texts:
        list(texts)
    assert (client.text, client.state) == (words(NUMBER), "completed")
    numbers = [number for number, _ in client.frames]
    assert numbers == sorted(set(numbers))
    resumed = [client.read(result) for number, result in client.frames if number > int(before.place)]
    first = next(thing for kind, thing in resumed if kind == "artifact-update")
    assert not first.get("append")  # the rerun replaces what the lost turn had said

    again = before  # the task has ended, and its log is still there
    with again.resumes(other) as texts:
        list(texts)
    assert again.frames == client.frames
    stack.log_is_whole(client.task_id)


@pytest.mark.parametrize("binding", BINDINGS)
def test_a_stream_is_resumed_where_the_log_was_folded(stack: Stack, binding: str) -> None:
    """Wherever a client stopped, it ends with exactly the text that the handler produced."""
    talking(stack)
    stack.settings["WORKER__FOLD_AFTER"] = "0"
    (server, _), (other, _) = stack.front_door(), stack.front_door()
    stack.worker()
    client, earlier = Listener(binding), []
    with client.sends(server, str(NUMBER)) as texts:
        for _ in texts:
            earlier.append(deepcopy(client))
    assert len(earlier) > 8
    until(lambda: len(stack.artifact_events(client.task_id)) == 1)
    for before in earlier:
        with before.resumes(other) as texts:
            list(texts)
        assert (before.text, before.state) == (words(NUMBER), "completed")
    task = server.call("tasks/get", {"id": client.task_id})
    assert text_of(task) == words(NUMBER)


def test_streams_of_every_binding_say_the_same(stack: Stack) -> None:
    """Over real connections, which updates are written to directly."""
    talking(stack)
    server, _ = stack.front_door()
    stack.worker()
    gate, sender = stack.gate("gate"), Listener()
    with ExitStack() as streams:
        own = streams.enter_context(sender.sends(server, f"{NUMBER} {gate.path}"))
        next(own)
        followers = [Listener(binding) for binding in BINDINGS]
        for follower in followers:
            follower.task_id, follower.frames = sender.task_id, [(0, {})]
        texts = [streams.enter_context(follower.resumes(server)) for follower in followers]
        gate.begun()
        gate.open()
        for text in [own, *texts]:
            list(text)
    for follower in followers:
        assert (follower.text, follower.state) == (words(NUMBER), "completed")
        assert [number for number, _ in follower.frames[1:]] == [number for number, _ in sender.frames[1:]]
    assert followers[0].frames[1:] == sender.frames[1:]


def test_a_front_door_that_stops_ends_its_streams_in_order(stack: Stack) -> None:
    """With the last chunk of the body: no client takes it for a broken connection. It goes on at another front door."""
    talking(stack)
    (server, door), (other, _) = stack.front_door(SERVER__STOP_TIMEOUT="0.5"), stack.front_door()
    stack.worker()
    gate, client = stack.gate("gate"), Listener()
    with client.sends(server, f"{NUMBER} {gate.path}") as texts:
        gate.begun()
        door.signal(signal.SIGTERM)
        list(texts)
    assert door.ended() == 0
    assert not any("Traceback" in line or "without completing" in line for line in door.log)
    assert client.state == "working"
    gate.open()
    with client.resumes(other) as texts:
        list(texts)
    assert (client.text, client.state) == (words(NUMBER), "completed")


def test_chunks_are_coalesced_and_none_is_lost(stack: Stack) -> None:
    """The first one comes at once; after it at most about 20 writes a second, however fast the handler is."""
    talking(stack)
    server, _ = stack.front_door()
    stack.worker()
    client = Listener()
    with client.sends(server, "2000") as texts:
        list(texts)
    assert client.text == words(2000)
    chunks = stack.artifact_events(client.task_id)
    took = (chunks[-1]["created_at"] - chunks[0]["created_at"]).total_seconds()
    assert (
        2 < len(chunks) <= 20 * took + 3
    )  # the first one, what was left at the end, and the one at the edge
    assert chunks[0]["payload"]["artifact"]["parts"] == [{"text": "0 "}]
    assert [chunk["payload"].get("lastChunk", False) for chunk in chunks] == [False] * (len(chunks) - 1) + [
        True
    ]


def test_a_client_that_leaves_does_not_touch_its_task(stack: Stack) -> None:
    talking(stack)
    server, _ = stack.front_door()
    stack.worker()
    gate, client = stack.gate("gate"), Listener()
    with client.sends(server, f"{NUMBER} {gate.path}") as texts:
        gate.begun()
        next(texts)
    gate.open()
    until(lambda: at(server, client.task_id, "completed"))
    assert text_of(server.call("tasks/get", {"id": client.task_id})) == words(NUMBER)
    assert stack.task(client.task_id)["attempt"] == 1
