"""`perdure serve --workers`: several processes on one port, watched over."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import httpx
import psutil  # type: ignore[import-untyped]
import pytest

from tests.support.processes import PERDURE, Server, finished, heard, serving, started, surroundings, text_of

ECHO = """
from perdure import bindufy
config = {"name": "echo", "deployment": {"url": "http://localhost:3773"}}
agent = bindufy(config, lambda messages: messages[-1]["content"])
"""
SERVE = [PERDURE, "serve", "agent.py", "--port", "0", "--workers", "2"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "agent.py").write_text(ECHO)
    return tmp_path


@pytest.fixture
def env(database_url: str) -> dict[str, str]:
    return surroundings(STORAGE_TYPE="postgres", DATABASE_URL=database_url, LOG__FORMAT="json")


def children(server: Server) -> list[psutil.Process]:
    found: list[psutil.Process] = psutil.Process(server.process.pid).children()
    return found


def answers(server: Server) -> bool:
    """Over a connection of its own: whoever is free takes it."""
    return httpx.get(f"{server.url}/readyz", timeout=30).status_code == 200


def test_one_port_is_served_by_all_of_them(folder: Path, env: dict[str, str]) -> None:
    with serving(SERVE, cwd=folder, env=env) as server:
        heard(server.process, "serving")  # the second one
        assert len(children(server)) == 2
        assert text_of(server.send("hello")) == "hello"
        for busy in children(server):  # while one stands still, the other one answers
            busy.suspend()
            try:
                assert answers(server)
            finally:
                busy.resume()
        assert server.stop() == 0


def test_one_that_dies_is_started_again(folder: Path, env: dict[str, str]) -> None:
    with serving(SERVE, cwd=folder, env=env) as server:
        heard(server.process, "serving")
        dead, other = children(server)
        dead.kill()
        assert heard(server.process, "process.died")["code"] == -signal.SIGKILL
        assert answers(server)
        heard(server.process, "serving")
        assert other in children(server)
        assert len(children(server)) == 2
        assert text_of(server.send("hello")) == "hello"
        assert server.stop() == 0


def test_all_drain_when_they_are_told_to_stop(folder: Path, env: dict[str, str]) -> None:
    with serving(SERVE, cwd=folder, env=env) as server:
        heard(server.process, "serving")
        both = children(server)
        assert server.stop(signal.SIGINT) == 130
        assert not any(child.is_running() for child in both)


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="Linux alone ends them with their parent")
def test_none_is_left_alone_when_their_parent_is_killed(folder: Path, env: dict[str, str]) -> None:
    with serving(SERVE, cwd=folder, env=env) as server:
        heard(server.process, "serving")
        both = children(server)
        server.process.kill()
        gone, alive = psutil.wait_procs(both, timeout=20)
        assert (len(gone), alive) == (2, [])


def test_memory_is_not_shared(folder: Path) -> None:
    ended = finished(SERVE, cwd=folder)
    assert ended.returncode == 2
    assert "STORAGE_TYPE=postgres" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


def test_an_agent_that_cannot_be_loaded_ends_all(folder: Path, env: dict[str, str]) -> None:
    (folder / "agent.py").write_text("raise RuntimeError('broken')")
    for port in (["--port", "0"], []):  # without one, the agent is asked for it
        with started([PERDURE, "serve", "agent.py", "--workers", "2", *port], cwd=folder, env=env) as process:
            said, _ = process.communicate(timeout=30)
        assert process.returncode == 2, said


def test_a_database_that_does_not_answer_ends_all(folder: Path, env: dict[str, str]) -> None:
    away = env | {
        "DATABASE_URL": "postgresql://nobody:x@127.0.0.1:9/none",
        "STORAGE__STARTUP_TIMEOUT": "0.5",
    }
    ended = finished(SERVE, cwd=folder, env=away)
    assert ended.returncode == 1, ended.stderr
