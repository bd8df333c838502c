"""The examples run, offline, behind real front doors; and an executor of the SDK survives its worker."""

from __future__ import annotations

import signal
from pathlib import Path

from perdure.local import LocalServices
from tests.e2e.conftest import AGENTS, Stack, at, stack, until
from tests.support.processes import PERDURE, ROOT, serving, surroundings, text_of

__all__ = ["stack"]


def test_an_executor_of_the_sdk(tmp_path: Path) -> None:
    command = [PERDURE, "serve", str(ROOT / "examples" / "with_a2a_sdk.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        assert text_of(server.send("one two")) == "one two "


def test_an_agent_of_pydantic_ai(tmp_path: Path) -> None:
    command = [PERDURE, "serve", str(ROOT / "examples" / "with_pydantic_ai.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        task = server.send("the weather?")
    assert "sunny in" in text_of(task)
    assert task["metadata"]["usage"]["tool_calls"] == 1


def test_a_graph_of_langgraph(tmp_path: Path) -> None:
    command = [PERDURE, "serve", str(ROOT / "examples" / "with_langgraph.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        asked = server.send("the weather?")
        assert asked["status"]["state"] == "input-required"
        answered = server.send("Lisbon", taskId=asked["id"])
    assert text_of(answered) == "It is sunny in Lisbon."


def test_an_executor_of_the_sdk_survives_its_worker(stack: Stack, private_services: LocalServices) -> None:
    """What its own server cannot do: killed in mid-task, it completes elsewhere, with its answer once."""
    stack.settings["AGENT"] = str(AGENTS / "sdk_executor.py")
    server, _ = stack.front_door()
    workers = {worker.popen.pid: worker for worker in (stack.worker(), stack.worker())}
    gate = stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    workers[gate.begun()].signal(signal.SIGKILL)
    gate.begun(times=2)
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    assert text_of(server.call("tasks/get", {"id": task_id})) == "before after"
