"""`perdure send` against real front doors, over a network that breaks, at a terminal that a person types at."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.processes import PERDURE, ROOT, Server, finished, serving, surroundings
from tests.support.proxy import proxied

from .conftest import AGENTS, Stack

EXAMPLES = ROOT / "examples"


@contextmanager
def front_door(agent: Path, folder: Path) -> Iterator[Server]:
    env = surroundings(LOG__FORMAT="json", PYTHONPATH=str(ROOT))
    with serving([PERDURE, "serve", str(agent), "--port", "0"], cwd=folder, env=env) as server:
        yield server


def send(
    folder: Path, server: Server, *arguments: str, command: str = "send"
) -> subprocess.CompletedProcess[str]:
    words = command.split()
    return finished([PERDURE, *words, *arguments, "--to", server.url], cwd=folder, env=surroundings())


def test_the_answer_is_on_stdout_and_nothing_else(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "streaming.py", tmp_path) as server:
        result = send(tmp_path, server, "one two three")
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "one two three", "")


def test_json_is_a_line_for_each_update(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "echo.py", tmp_path) as server:
        result = send(tmp_path, server, "hello", "--json")
        updates = [json.loads(line) for line in result.stdout.splitlines()]
        task_id = updates[0]["task"]["id"]
        assert updates[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
        again = send(tmp_path, server, task_id, command="tasks tail")
    assert (again.returncode, again.stdout.strip()) == (0, "hello")


def test_a_failed_task_is_told_and_exits_with_1(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "slow.py", tmp_path) as server:
        result = send(tmp_path, server, "quickly")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.strip() == (
        "perdure: the task failed: Tell me for how many seconds to work, such as 20."
    )


def test_a_refusal_is_told_in_words_without_the_data_for_programs(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "skills.py", tmp_path) as server:
        result = send(tmp_path, server, "{}", "--skill", "compare")
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "perdure: the task was rejected: compare cannot do it: cities: is required\n"


def test_a_task_that_is_not_there_does_not_go_on(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "echo.py", tmp_path) as server:
        result = send(tmp_path, server, "nosuch", command="tasks tail")
    assert (result.returncode, result.stderr) == (1, "perdure: there is no task nosuch\n")


def test_a_question_without_a_terminal_exits_with_3_and_is_answered_with_the_task(tmp_path: Path) -> None:
    with front_door(EXAMPLES / "ask.py", tmp_path) as server:
        asked = send(tmp_path, server, "What is the weather?")
        assert (asked.returncode, asked.stdout) == (3, "Which city?\n")
        task_id = asked.stderr.split("--task ")[1].split()[0]
        answered = send(tmp_path, server, "Lisbon", "--task", task_id)
    assert answered.returncode == 0
    assert json.loads(answered.stdout) == {"city": "Lisbon", "weather": "sunny", "celsius": 21}


def test_nobody_answers(tmp_path: Path, unused_tcp_port: int) -> None:
    command = [
        PERDURE,
        "tasks",
        "tail",
        "x",
        "--to",
        f"http://127.0.0.1:{unused_tcp_port}",
        "--patience",
        "0",
    ]
    result = finished(command, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith(f"perdure: nobody answers at http://127.0.0.1:{unused_tcp_port}")


def test_a_stream_that_is_cut_goes_on_by_itself(tmp_path: Path) -> None:
    gate, remarks = tmp_path / "gate", tmp_path / "remarks"
    with (
        front_door(AGENTS / "words.py", tmp_path) as server,
        proxied(server.url) as proxy,
        remarks.open("w") as stderr,
        subprocess.Popen(
            [PERDURE, "send", f"400 {gate}", "--to", proxy.url(server.url)],
            cwd=tmp_path,
            env=surroundings(),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        said = process.stdout.read(len(numbers(100)))
        proxy.cut()
        gate.touch()
        said += process.stdout.read()
        assert process.wait(timeout=30) == 0
    assert said == numbers(400) + "\n"
    assert "trying again" in remarks.read_text()


def numbers(count: int) -> str:
    return "".join(f"{number} " for number in range(count))


# ---------------------------------------------------------------------- at a terminal


class Terminal:
    """A pseudo-terminal with `perdure` in it."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._mine, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [PERDURE, *arguments],
            cwd=folder,
            env=surroundings(TERM="xterm", NO_COLOR="1"),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)
        self.shown = ""

    def until(self, text: str) -> None:
        """Read until the text is on the screen."""
        while text not in self.shown:
            self._read()

    def _read(self) -> None:
        if not (data := os.read(self._mine, 4096)):
            raise EOFError(self.shown)
        self.shown += data.decode(errors="replace")

    def type(self, text: str) -> None:
        os.write(self._mine, text.encode())

    def ended(self) -> int:
        with suppress(OSError, EOFError):  # the end of a pseudo-terminal is an error
            while True:
                self._read()
        return self.process.wait(timeout=30)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._mine)


@contextmanager
def terminal(folder: Path, *arguments: str) -> Iterator[Terminal]:
    found = Terminal(folder, *arguments)
    try:
        yield found
    finally:
        found.close()


def test_the_agents_question_is_asked_at_the_terminal(tmp_path: Path) -> None:
    with (
        front_door(EXAMPLES / "ask.py", tmp_path) as server,
        terminal(tmp_path, "send", "weather?", "--to", server.url) as screen,
    ):
        screen.until("your answer: ")
        screen.type("Lisbon\n")
        screen.until('"city": "Lisbon"')
        assert screen.ended() == 0


@pytest.mark.parametrize(("answer", "code", "state"), [("d\n", 130, "working"), ("c\n", 1, "canceled")])
def test_ctrl_c_asks_whether_to_leave_or_to_cancel(
    tmp_path: Path, answer: str, code: int, state: str
) -> None:
    with (
        front_door(EXAMPLES / "slow.py", tmp_path) as server,
        terminal(tmp_path, "send", "30", "--to", server.url) as screen,
    ):
        screen.until("step 1 of 30")
        screen.process.send_signal(signal.SIGINT)
        screen.until("[d]etach, [c]ancel or go on: ")
        screen.type(answer)
        assert screen.ended() == code
        [task] = server.call("tasks/list", {})["tasks"]
        assert task["status"]["state"] == state


def test_the_answer_waits_while_a_question_stands_which_falls_when_the_task_has_ended(tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    with (
        front_door(AGENTS / "words.py", tmp_path) as server,
        terminal(tmp_path, "send", f"200 {gate}", "--to", server.url) as screen,
    ):
        screen.until(numbers(100))
        screen.process.send_signal(signal.SIGINT)
        screen.until("[d]etach, [c]ancel or go on: \x1b[0m")
        asked = len(screen.shown)
        gate.touch()
        assert screen.ended() == 0
    rest = "".join(f"{number} " for number in range(100, 200))
    assert screen.shown[asked:] == f"\r\n{rest}\r\n"


# ---------------------------------------------------------------------- what it waits for


def test_a_task_tells_that_no_worker_is_alive_and_then_its_answer(stack: Stack, tmp_path: Path) -> None:
    server, _ = stack.front_door()
    with terminal(tmp_path, "send", "hello", "--to", server.url) as screen:
        screen.until("waits: no worker is alive")
        stack.worker()
        screen.until("HELLO")
        assert screen.ended() == 0


def test_a_task_tells_which_attempt_comes_when(stack: Stack, tmp_path: Path) -> None:
    server, _ = stack.front_door(AGENT=str(AGENTS / "closed.py"))
    stack.worker(AGENT=str(AGENTS / "closed.py"))
    with terminal(tmp_path, "send", "hello", "--to", server.url) as screen:
        screen.until("attempt 2 of 4 in ")
        screen.until(" s (The bank is closed.)")
        [task] = server.call("tasks/list", {})["tasks"]
    with terminal(tmp_path, "tasks", "tail", task["id"], "--to", server.url) as screen:
        screen.until("attempt 2 of 4 in ")


def test_a_task_tells_how_many_of_its_conversation_come_first(stack: Stack, tmp_path: Path) -> None:
    server, _ = stack.front_door()
    stack.worker()
    gate = stack.gate("first")
    server.send(str(gate.path), blocking=False, contextId="talk")
    server.send("second", blocking=False, contextId="talk")
    gate.begun()
    with terminal(tmp_path, "send", "third", "--context", "talk", "--to", server.url) as screen:
        screen.until("waits: 2 tasks of this conversation before it")
        gate.open()
        screen.until("THIRD")
        assert screen.ended() == 0


def test_programs_are_not_told_what_a_task_waits_for(stack: Stack, tmp_path: Path) -> None:
    """The task waits for longer than people wait to be told."""
    server, _ = stack.front_door(AGENT=str(AGENTS / "closed.py"))
    stack.worker(AGENT=str(AGENTS / "closed.py"))
    result = send(tmp_path, server, "for 3 s")
    assert (result.returncode, result.stdout, result.stderr) == (0, "open\n", "")
    with terminal(tmp_path, "send", "for 3 s", "--json", "--to", server.url) as screen:
        assert screen.ended() == 0
    lines = [json.loads(line) for line in screen.shown.splitlines()]
    assert lines[-1]["statusUpdate"]["status"]["state"] == "TASK_STATE_COMPLETED"
