"""An operator at the shell finds out why a task does not go on, and helps; with Redis down as well."""

from __future__ import annotations

import json
import signal
import subprocess

import httpx

from tests.support.processes import PERDURE, ROOT, finished, surroundings

from .conftest import AGENTS, Stack, at, until


def perdure(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    return finished([PERDURE, *arguments], cwd=stack.folder, env=surroundings(**stack.settings))


def said(stack: Stack, *arguments: str) -> str:
    result = perdure(stack, *arguments)
    assert result.returncode == 0, result.stderr
    return result.stdout


def told(stack: Stack, *arguments: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in said(stack, *arguments, "--json").splitlines()]


def test_a_task_that_hangs_is_found_and_canceled_with_redis_down(stack: Stack) -> None:
    server, _ = stack.front_door()
    stack.worker()
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    stack.services.redis.kill()

    [line] = told(stack, "tasks", "list", "--state", "working")
    assert line["taskId"] == task_id
    [worker] = json.loads(said(stack, "workers", "list", "--json"))
    assert (worker["running"], worker["tasks"]) == (1, [task_id])
    assert worker["workerId"] == line["holder"]
    shown = said(stack, "tasks", "show", task_id)
    assert str(line["holder"]) in shown
    assert "running" in shown

    assert said(stack, "tasks", "cancel", task_id) == f"{task_id}: canceled\n"
    until(lambda: "canceled" in gate.lines)
    until(lambda: at(server, task_id, "canceled"))
    again = perdure(stack, "tasks", "cancel", task_id)
    assert (again.returncode, again.stdout) == (1, "")
    assert "canceled already" in again.stderr


def test_a_worker_whose_event_loop_is_held_is_no_dead_one(stack: Stack) -> None:
    stack.settings |= {"AGENT": str(AGENTS / "blocking.py"), "WORKER__BEAT_INTERVAL": "0.2"}
    server, _ = stack.front_door()
    worker = stack.worker()
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()

    def told_by_the_front_door(path: str, words: str) -> bool:
        return words in httpx.get(f"{server.url}{path}").text

    until(lambda: told_by_the_front_door("/metrics", "\nperdure_blocked_workers 1.0\n"))
    until(lambda: told_by_the_front_door("/ops", "1 worker is blocked"))
    assert told_by_the_front_door(f"/ops/tasks/{task_id}", "has given no sign of life")
    worker.signal(signal.SIGKILL)
    until(lambda: told_by_the_front_door("/metrics", "\nperdure_blocked_workers 0.0\n"))
    assert not told_by_the_front_door("/ops", "is blocked")


def test_a_failure_is_understood_and_tried_again(stack: Stack) -> None:
    stack.settings["AGENT"] = str(AGENTS / "breaking.py")
    server, _ = stack.front_door()
    stack.worker()
    task_id = server.send("break")["id"]

    [line] = told(stack, "tasks", "list", "--error", "no route")
    assert (line["taskId"], line["state"]) == (task_id, "failed")
    shown = said(stack, "tasks", "show", task_id)
    assert "ValueError: no route to 7" in shown
    assert "no route" not in json.dumps(server.call("tasks/get", {"id": task_id}))

    new = said(stack, "tasks", "retry", task_id, "--say", "go on").split()[-1]
    until(lambda: at(server, new, "completed"))
    task = server.call("tasks/get", {"id": new})
    assert task["metadata"]["retryOf"] == task_id
    [counted] = told(stack, "tasks", "retry", "--all", "--state", "failed", "--yes")
    assert counted == {"done": 1, "skipped": 0, "more": False}

    exported = said(stack, "tasks", "export", "--state", "completed").splitlines()
    assert [json.loads(each)["id"] for each in exported] == [new]
    [context] = json.loads(said(stack, "contexts", "list", "--json"))
    assert said(stack, "contexts", "show", context["owner"], context["contextId"]).count("\n") == 4


def test_a_worker_is_drained_and_takes_turns_again(stack: Stack) -> None:
    stack.settings["AGENT"] = str(ROOT / "examples" / "echo.py")
    server, _ = stack.front_door()
    worker = stack.worker()
    [known] = json.loads(said(stack, "workers", "list", "--json"))
    assert "asked" in said(stack, "workers", "drain", known["workerId"])
    until(lambda: json.loads(said(stack, "workers", "list", "--json"))[0]["draining"])
    until(lambda: worker.said("worker.drained_by_operator") > 0)
    assert "resumed" in said(stack, "workers", "resume", known["workerId"])
    assert server.send("hello")["status"]["state"] == "completed"
    missing = perdure(stack, "workers", "drain", "nobody")
    assert (missing.returncode, missing.stdout) == (1, "nobody: no such worker\n")


def test_what_cannot_be_is_one_line(stack: Stack) -> None:
    stack.front_door()
    unknown = perdure(stack, "tasks", "show", "00000000-0000-0000-0000-000000000000")
    assert (unknown.returncode, len(unknown.stderr.splitlines())) == (1, 1)
    wrong = perdure(stack, "tasks", "list", "--state", "sleeping")
    assert wrong.returncode == 2
    assert "submitted" in wrong.stderr
    nothing = perdure(stack, "tasks", "cancel")
    assert nothing.returncode == 2
    nowhere = finished([PERDURE, "tasks", "list"], cwd=stack.folder, env=surroundings())
    assert nowhere.returncode == 2
    assert "DATABASE_URL" in nowhere.stderr
