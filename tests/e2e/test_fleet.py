"""The whole thing: a front door, workers, Postgres and Redis as real processes, and what may happen to them."""

from __future__ import annotations

import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.support.processes import PERDURE, heard, sending, started, surroundings, text_of

from .conftest import AGENTS, Stack, at, status_of, until


def test_two_hundred_messages_complete_once(stack: Stack) -> None:
    stack.settings["WORKER__LEASE"] = "15"  # nobody dies here, however slow the machine is
    server, _ = stack.front_door()
    workers = [stack.worker(), stack.arq_worker()]

    def send(number: int) -> dict[str, Any]:
        return server.send(f"message {number}", blocking=number % 2 == 0)

    with ThreadPoolExecutor(12) as clients:
        tasks = list(clients.map(send, range(200)))
    until(lambda: not stack.rows("SELECT FROM tasks WHERE state <> 'completed'"))
    for number, task in enumerate(tasks):
        assert text_of(server.call("tasks/get", {"id": task["id"]})) == f"MESSAGE {number}"
    [counted] = stack.rows(
        "SELECT count(*), max(attempt) AS attempts, sum(crashes + failures) AS lost FROM tasks"
    )
    assert tuple(counted) == (200, 1, 0)
    assert all(worker.said("turn.settled") > 0 for worker in workers)


def test_a_killed_workers_task_completes_elsewhere(stack: Stack) -> None:
    """What it had streamed is in the log and nowhere else."""
    stack.settings["AGENT"] = str(AGENTS / "gated_stream.py")
    server, _ = stack.front_door()
    workers = {worker.popen.pid: worker for worker in (stack.worker(), stack.arq_worker())}
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    victim = gate.begun()
    until(lambda: bool(stack.artifact_events(task_id)))
    workers[victim].signal(signal.SIGKILL)
    second = gate.begun(2)
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    said = text_of(server.call("tasks/get", {"id": task_id}))
    assert said == f"begun by {second}, done by {second}"
    row = stack.task(task_id)
    assert (row["attempt"], row["crashes"], row["failures"], row["lost_attempts"]) == (2, 1, 0, [1])
    assert {event["attempt"] for event in stack.artifact_events(task_id)} == {1, 2}
    stack.log_is_whole(task_id)


def test_redis_is_emptied_with_tasks_waiting(stack: Stack) -> None:
    server, _ = stack.front_door()
    tasks = [server.send(f"message {number}", blocking=False) for number in range(30)]
    stack.empty_redis()
    stack.worker()
    until(lambda: all(at(server, task["id"], "completed") for task in tasks))
    assert stack.rows("SELECT max(attempt) FROM tasks")[0][0] == 1


def test_redis_is_emptied_while_every_slot_is_busy(stack: Stack) -> None:
    """Also arq's own marks are gone, of the turn that runs as of those that wait."""
    server, _ = stack.front_door()
    stack.arq_worker(WORKER__SLOTS="1")
    gate = stack.gate("gate")
    tasks = [server.send(str(gate.path), blocking=False)]
    gate.begun()
    tasks += [server.send(f"message {number}", blocking=False) for number in range(10)]
    stack.empty_redis()
    gate.open()
    until(lambda: all(at(server, task["id"], "completed") for task in tasks))
    assert stack.rows("SELECT max(attempt) FROM tasks")[0][0] == 1


def test_a_turn_that_ends_within_the_grace_ends_where_it_began(stack: Stack) -> None:
    server, _ = stack.front_door()
    worker, gate = stack.worker(), stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    worker.signal(signal.SIGTERM)
    until(lambda: worker.said("worker.draining") == 1)
    gate.open()
    assert worker.ended() == 0
    assert at(server, task_id, "completed")
    assert stack.task(task_id)["attempt"] == 1


def test_a_deploy_costs_no_retry(stack: Stack) -> None:
    server, _ = stack.front_door()
    first = stack.worker(WORKER__GRACE="0")
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    second = stack.worker()
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    assert gate.begun(2) == second.popen.pid
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    row = stack.task(task_id)
    assert (row["attempt"], row["crashes"], row["failures"]) == (2, 0, 0)
    stack.log_is_whole(task_id)


@pytest.mark.parametrize("agent", ["gated.py", "gated_stream.py"])
def test_cancel_reaches_a_handler_in_another_process(stack: Stack, agent: str) -> None:
    """A function sees it when it looks, a coroutine gets CancelledError."""
    stack.settings["AGENT"] = str(AGENTS / agent)
    server, _ = stack.front_door()
    worker, gate = stack.worker(), stack.gate("gate")
    task = server.send(str(gate.path), blocking=False)
    gate.begun()
    behind = server.send("next", blocking=False, contextId=task["contextId"])
    assert at(server, behind["id"], "submitted")
    assert server.call("tasks/cancel", {"id": task["id"]})["status"]["state"] == "canceled"
    until(lambda: at(server, behind["id"], "completed"))
    assert gate.lines == [f"{worker.popen.pid} 1", "canceled"]
    assert text_of(server.call("tasks/get", {"id": behind["id"]})) == "NEXT"
    assert at(server, task["id"], "canceled")
    stack.log_is_whole(task["id"])


def test_a_zombie_cannot_write(stack: Stack) -> None:
    """A worker that is frozen for longer than its lease wakes up, ends its turn and finds that somebody else is at work."""
    server, _ = stack.front_door()
    workers = {worker.popen.pid: worker for worker in (stack.worker(), stack.worker())}
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    zombie = workers[gate.begun()]
    until(lambda: len(stack.artifact_events(task_id)) == 1)  # it said that it has begun
    zombie.signal(signal.SIGSTOP)
    second = gate.begun(2)
    until(lambda: len(stack.artifact_events(task_id)) == 2)  # and the second one too
    written = stack.events(task_id)
    gate.open(zombie.popen.pid)
    zombie.signal(signal.SIGCONT)
    until(lambda: zombie.said("turn.lost") == 1)
    assert stack.events(task_id) == written
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    assert text_of(server.call("tasks/get", {"id": task_id})) == f"done by {second}"
    assert stack.task(task_id)["attempt"] == 2
    stack.log_is_whole(task_id)


def test_a_question_and_its_answer(stack: Stack) -> None:
    server, _ = stack.front_door()
    stack.worker()
    asked = server.send("weather")
    assert asked["status"]["state"] == "input-required"
    assert asked["status"]["message"]["parts"][0]["text"] == "Which city?"
    answered = server.send("Lisbon", taskId=asked["id"])
    assert answered["status"]["state"] == "completed"
    assert text_of(answered) == "weather / Which city? / Lisbon"


def test_life_without_redis(stack: Stack) -> None:
    server, _ = stack.front_door()
    first = stack.worker()
    until(lambda: status_of(server) == "ready")
    stack.services.redis.stop()
    assert server.send("blocking")["status"]["state"] == "completed"
    immediate = server.send("immediate", blocking=False)["id"]
    until(lambda: at(server, immediate, "completed"))
    assert status_of(server) == "degraded"

    second = stack.worker()  # starts all the same
    first.signal(signal.SIGTERM)
    assert first.ended() == 0
    assert server.send("for the second")["status"]["state"] == "completed"
    assert second.said("turn.settled") == 1

    stack.services.redis.start()
    until(lambda: status_of(server) == "ready")
    assert server.send("with redis")["status"]["state"] == "completed"
    assert stack.rows("SELECT max(attempt) FROM tasks")[0][0] == 1


def test_life_without_postgres(stack: Stack) -> None:
    server, _ = stack.front_door()
    worker, gate = stack.worker(), stack.gate("gate")
    under_way = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    stack.services.postgres.stop()

    answer = server.post("message/send", sending("refused"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 503
    assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
    gate.open()
    until(lambda: worker.said("turn.write_waits") == 1)

    stack.services.postgres.start()
    until(lambda: status_of(server) == "ready")
    assert server.send("after")["status"]["state"] == "completed"
    until(lambda: at(server, under_way, "completed"))
    assert stack.task(under_way)["attempt"] == 1
    assert stack.rows("SELECT count(*) FROM tasks")[0][0] == 2  # nothing is left of what was refused


def test_another_front_door_knows_every_task(stack: Stack) -> None:
    """One is killed while a client waits for a task and another task waits for its turn."""
    server, process = stack.front_door()
    gate = stack.gate("gate")
    stack.worker(WORKER__SLOTS="1")
    with ThreadPoolExecutor(1) as client:
        call = client.submit(server.send, str(gate.path), contextId="mine")
        gate.begun()
        immediate = server.send("immediate", blocking=False)["id"]
        process.signal(signal.SIGKILL)
        assert isinstance(call.exception(), httpx.RemoteProtocolError | httpx.ReadError)
    process.ended()
    other, _ = stack.front_door()
    assert at(other, immediate, "submitted")
    [waited_for] = other.call("tasks/list", {"contextId": "mine"})["tasks"]
    assert waited_for["status"]["state"] == "working"
    gate.open()
    until(lambda: at(other, waited_for["id"], "completed"))
    until(lambda: at(other, immediate, "completed"))


def test_a_front_door_that_stops_answers_first(stack: Stack) -> None:
    """Who waits gets the task as it stands and not an error, which would make him send the message again."""
    server, process = stack.front_door(SERVER__STOP_TIMEOUT="0.5")
    gate = stack.gate("gate")
    stack.worker()
    with ThreadPoolExecutor(1) as client:
        call = client.submit(server.send, str(gate.path))
        gate.begun()
        process.signal(signal.SIGTERM)
        task = call.result()
    assert task["status"]["state"] == "working"
    assert process.ended() == 0
    assert not any("Traceback" in line for line in process.log)
    other, _ = stack.front_door()
    gate.open()
    until(lambda: at(other, task["id"], "completed"))


def test_one_durable_process_is_killed_and_started_again(stack: Stack) -> None:
    server, process = stack.front_door(QUEUE_TYPE="inline")
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    process.signal(signal.SIGKILL)
    process.ended()
    again, second = stack.front_door(QUEUE_TYPE="inline")
    gate.begun(2)
    gate.open()
    until(lambda: at(again, task_id, "completed"))
    assert text_of(again.call("tasks/get", {"id": task_id})) == f"done by {second.popen.pid}"
    assert stack.task(task_id)["crashes"] == 1
    stack.log_is_whole(task_id)


def test_a_handler_that_blocks_the_event_loop_keeps_its_task(stack: Stack) -> None:
    """For more than three leases, with another worker waiting to take it over."""
    agent = str(AGENTS / "blocking.py")
    server, _ = stack.front_door()
    first, gate = stack.worker(AGENT=agent), stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    assert gate.begun() == first.popen.pid
    other = stack.worker(AGENT=agent)
    until(lambda: stack.held_for(task_id) > 3 * 1.5 + 1.5)
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    row = stack.task(task_id)
    assert (row["attempt"], row["crashes"]) == (1, 0)
    assert other.said("turn.started") == 0


def test_a_start_waits_for_the_database(stack: Stack) -> None:
    stack.services.postgres.stop()
    command, env = [PERDURE, "serve", "--port", "0"], surroundings(**stack.settings)
    with started(command, cwd=stack.folder, env=env) as process:
        heard(process, "storage.waiting")
        stack.services.postgres.start()
        heard(process, "serving")
