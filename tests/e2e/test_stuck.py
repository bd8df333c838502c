"""Handlers that cannot be ended, in real processes: their tasks run elsewhere, and the processes end and are started again."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.support.processes import text_of

from .conftest import AGENTS, Process, Stack, at, until

QUICK = {"TURNS__TIMEOUT": "0.5", "TURNS__PATIENCE": "0.3", "WORKER__LEASE": "1.5"}


@pytest.fixture
def stubborn(stack: Stack) -> Stack:
    """A stack whose handlers do not end when they are told to."""
    stack.settings |= {"AGENT": str(AGENTS / "stubborn.py"), **QUICK}
    return stack


def worker_of(stack: Stack, kind: str, **settings: str) -> Process:
    return stack.worker(**settings) if kind == "perdure" else stack.arq_worker(**settings)


@pytest.mark.parametrize(("kind", "how"), [("perdure", "swallow"), ("arq", "swallow"), ("arq", "sleep")])
def test_a_worker_with_too_many_stuck_handlers_ends_and_its_tasks_run_elsewhere(
    stubborn: Stack, kind: str, how: str
) -> None:
    server, _ = stubborn.front_door()
    worker = worker_of(stubborn, kind, WORKER__MAX_STUCK="2", WORKER__SLOTS="1", WORKER__GRACE="5")
    gates = [stubborn.gate(f"gate{number}") for number in range(2)]
    tasks = [server.send(f"{how} {gate.path}", blocking=False)["id"] for gate in gates]
    assert worker.ended() == 1  # the second one got the slot of the first
    assert worker.said("turn.stuck") == 2
    assert worker.said("worker.too_many_stuck") == 1
    assert any(f"in {how}" in line for line in worker.log if '"turn.stuck"' in line)
    assert worker.said("worker.stopped") == 1  # in good order
    again = stubborn.worker()
    until(lambda: all(at(server, task_id, "completed") for task_id in tasks))
    for task_id in tasks:
        said = text_of(server.call("tasks/get", {"id": task_id}))
        assert said == f"done by {again.popen.pid}"
        row = stubborn.task(task_id)
        assert (row["attempt"], row["crashes"], row["failures"]) == (2, 1, 0)
        stubborn.log_is_whole(task_id)


def test_a_plain_function_in_a_c_call_is_rescued(stubborn: Stack) -> None:
    """By the very worker that has it: its process is healthy, and stops at once when it is asked to."""
    stubborn.settings["AGENT"] = str(AGENTS / "stubborn_function.py")
    server, _ = stubborn.front_door()
    worker, gate = stubborn.worker(WORKER__SLOTS="1"), stubborn.gate("gate")
    task_id = server.send(f"sleep {gate.path}", blocking=False)["id"]
    until(lambda: worker.said("turn.stuck") == 1)
    assert any("time.sleep(600)" in line for line in worker.log if '"turn.stuck"' in line)
    assert server.send("next")["status"]["state"] == "completed"  # there is a slot
    until(lambda: at(server, task_id, "completed"))
    assert stubborn.task(task_id)["crashes"] == 1
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0


@pytest.mark.parametrize("kind", ["perdure", "arq"])
def test_a_worker_that_has_a_stuck_handler_stops_when_asked_to(stubborn: Stack, kind: str) -> None:
    """A coroutine that swallows CancelledError would keep the closing event loop waiting for ever."""
    server, _ = stubborn.front_door()
    worker, gate = worker_of(stubborn, kind, WORKER__GRACE="1"), stubborn.gate("gate")
    server.send(f"swallow {gate.path}", blocking=False)
    until(lambda: worker.said("turn.stuck") == 1)
    worker.signal(signal.SIGTERM)
    assert worker.ended() == 0
    assert worker.said("worker.stopped") == 1


@pytest.mark.parametrize("kind", ["perdure", "arq"])
def test_a_worker_whose_loop_is_hung_beyond_the_limit_ends_by_itself(stubborn: Stack, kind: str) -> None:
    server, _ = stubborn.front_door()
    worker, gate = worker_of(stubborn, kind, TURNS__PATIENCE="1.5"), stubborn.gate("gate")
    other = stubborn.worker()
    task_id = server.send(f"block {gate.path}", blocking=False)["id"]
    first = gate.begun()
    blocked, living = (worker, other) if first == worker.popen.pid else (other, worker)
    assert blocked.ended() == 1
    assert blocked.said("loop.hung") == 1
    assert any("stubborn.py" in line and "in block" in line for line in blocked.log)  # the stacks
    until(lambda: at(server, task_id, "completed"))
    assert text_of(server.call("tasks/get", {"id": task_id})) == f"done by {living.popen.pid}"
    row = stubborn.task(task_id)
    assert (row["attempt"], row["crashes"]) == (2, 1)
    stubborn.log_is_whole(task_id)


def test_a_blocked_loop_is_named_with_its_task(stubborn: Stack) -> None:
    server, _ = stubborn.front_door()
    worker, gate = stubborn.worker(TURNS__TIMEOUT="60"), stubborn.gate("gate")
    task_id = server.send(f"block {gate.path}", blocking=False)["id"]
    until(lambda: worker.said("loop.blocked") == 1)
    assert any(task_id in line and "in block" in line for line in worker.log if '"loop.blocked"' in line)
    gate.open()
    until(lambda: worker.said("loop.unblocked") == 1)
    until(lambda: at(server, task_id, "completed"))
    assert stubborn.task(task_id)["attempt"] == 1
    assert worker.said("loop.blocked") == 1


def test_one_process_for_all_ends_and_is_started_again(stubborn: Stack) -> None:
    """The front door with the turns inside it."""
    stubborn.settings |= {"QUEUE_TYPE": "inline", "WORKER__MAX_STUCK": "1", "WORKER__GRACE": "1"}
    server, process = stubborn.front_door()
    gate = stubborn.gate("gate")
    task_id = server.send(f"swallow {gate.path}", blocking=False)["id"]
    assert process.ended() == 1
    again, second = stubborn.front_door()
    until(lambda: at(again, task_id, "completed"))
    assert text_of(again.call("tasks/get", {"id": task_id})) == f"done by {second.popen.pid}"


def test_a_step_is_not_paid_for_twice(stack: Stack) -> None:
    """Its worker is killed right after it."""
    stack.settings["AGENT"] = str(AGENTS / "paying.py")
    server, _ = stack.front_door()
    first, gate = stack.worker(), stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    assert gate.begun() == first.popen.pid
    second = stack.worker()
    first.signal(signal.SIGKILL)
    assert gate.begun(2) == second.popen.pid
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    assert Path(f"{gate.path}.calls").read_text().split() == ["search", "buy"]
    said = text_of(server.call("tasks/get", {"id": task_id}))
    assert said == f"search by {first.popen.pid}, buy by {second.popen.pid}"
    assert stack.task(task_id)["crashes"] == 1
    assert not stack.rows("SELECT FROM task_steps WHERE turn > 1")
