"""Repeated sends across processes that die: the caller who got no answer asks again, at whoever is there."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from tests.support.processes import Server, sending, text_of

from .conftest import Stack, until

KEY = {"Idempotency-Key": '"8e03978e-40d5-43dd-bc93-6894a57f9324"'}


def send(server: Server, params: dict[str, Any], method: str = "message/send") -> httpx.Response:
    """A send with a key."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    return httpx.post(server.url, json=request, headers=KEY, timeout=50)


@contextmanager
def locked(url: str, statement: str) -> Iterator[Callable[[], None]]:
    """What the statement locks is locked until the end, or until what is given is called."""
    with asyncio.Runner() as runner:
        connection = runner.run(asyncpg.connect(url))

        def unlock() -> None:
            runner.run(connection.execute("ROLLBACK"))

        try:
            runner.run(connection.execute("BEGIN"))
            runner.run(connection.execute(statement))
            yield unlock
        finally:
            runner.run(connection.close())


def test_a_front_door_is_killed_between_its_commit_and_its_answer(stack: Stack) -> None:
    """Killed while the caller waits: the task runs on, and the same send at another front door waits for its end."""
    first, door = stack.front_door()
    second, _ = stack.front_door()
    stack.worker()
    gate = stack.gate("gate")
    params = sending(str(gate.path))
    with ThreadPoolExecutor(2) as clients:
        unanswered: Future[httpx.Response] = clients.submit(send, first, params)
        gate.begun()
        door.signal(signal.SIGKILL)
        assert door.ended() == -signal.SIGKILL
        with pytest.raises(httpx.TransportError):
            unanswered.result(timeout=30)
        repeated = clients.submit(send, second, params)
        at_once = send(second, {**params, "configuration": {"blocking": False}})
        assert at_once.json()["result"]["status"]["state"] == "working"
        gate.open()
        answer = repeated.result(timeout=30)
    assert answer.headers["Idempotency-Replayed"] == "true"
    task = answer.json()["result"]
    assert task["status"]["state"] == "completed"
    assert "done by" in text_of(task)
    assert len(gate.lines) == 1
    assert [str(row["task_id"]) for row in stack.rows("SELECT task_id FROM tasks")] == [task["id"]]


def test_a_send_that_comes_while_the_first_is_being_stored_waits_for_it(stack: Stack) -> None:
    """Its task is held back before the commit by a lock on its conversation's row: whoever repeats it finds nothing yet."""
    servers = [stack.front_door()[0] for _ in range(2)]
    stack.worker()
    context = servers[0].send("hello", contextId="talk")["contextId"]
    params = sending("there", contextId=context)
    lock = locked(stack.services.database_url, "SELECT FROM contexts FOR UPDATE")
    with ThreadPoolExecutor(2) as clients, lock as unlock:
        sends = [clients.submit(send, server, params) for server in servers]
        until(lambda: stack.rows("SELECT count(*) FROM pg_locks WHERE NOT granted")[0][0] == 2)
        assert not any(sent.done() for sent in sends)
        unlock()
        answers = [sent.result(timeout=30) for sent in sends]
    tasks = [answer.json()["result"] for answer in answers]
    assert [text_of(task) for task in tasks] == ["THERE"] * 2
    assert tasks[0]["id"] == tasks[1]["id"]
    assert sorted(answer.headers.get("Idempotency-Replayed", "") for answer in answers) == ["", "true"]
    assert stack.rows("SELECT count(*) FROM tasks")[0][0] == 2


def test_a_keyed_follow_up_outlives_its_front_door(stack: Stack) -> None:
    first, door = stack.front_door()
    second, _ = stack.front_door()
    stack.worker()
    asked = first.send("weather")
    params = sending("Oslo", taskId=asked["id"])
    assert send(first, params).json()["result"]["status"]["state"] == "completed"
    door.signal(signal.SIGKILL)
    door.ended()
    again = send(second, params)
    assert again.headers["Idempotency-Replayed"] == "true"
    assert again.json()["result"]["status"]["state"] == "completed"
    said = [event for event in stack.events(asked["id"]) if event["kind"] == "message"]
    assert [event["payload"]["parts"][0]["text"] for event in said].count("Oslo") == 1
    other = send(second, sending("Bergen", taskId=asked["id"])).json()
    assert other["error"]["code"] == -32602


def test_an_interrupt_reaches_a_handler_in_another_process(stack: Stack) -> None:
    """At once, by the notice: its renewal would come much later."""
    stack.settings |= {"WORKER__LEASE": "600", "AGENT": str(stack.folder / "agent.py")}
    (stack.folder / "agent.py").write_text(
        "import asyncio\n"
        "from pathlib import Path\n"
        "from perdure import bindufy\n"
        "async def handler(messages, turn):\n"
        "    said = turn.message.text\n"
        "    if said.startswith('/'):\n"
        "        Path(said).touch()\n"
        "        try:\n"
        "            await asyncio.Event().wait()\n"
        "        except asyncio.CancelledError:\n"
        "            Path(said + '.canceled').touch()\n"
        "            raise\n"
        "    return said.upper()\n"
        "agent = bindufy({'name': 'e2e', 'conversation_policy': 'interrupt'}, handler)\n"
    )
    server, _ = stack.front_door()
    worker = stack.worker()
    begun = stack.folder / "begun"
    old = server.send(str(begun), blocking=False, contextId="talk")
    until(begun.exists)
    new = server.send("short", contextId="talk")
    assert text_of(new) == "SHORT"
    assert (stack.folder / "begun.canceled").exists()
    assert server.call("tasks/get", {"id": old["id"]})["status"]["state"] == "canceled"
    assert worker.said("turn.released") == 1
    stack.log_is_whole(old["id"])
