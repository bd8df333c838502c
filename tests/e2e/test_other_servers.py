"""The front door under a server that somebody else started."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import httpx

from tests.support.processes import ROOT, sending, started, surroundings

APP = """
import asyncio
from perdure import Agent
from perdure.launch import asgi
from perdure.settings import Settings

async def handler(messages):
    yield "one"
    await asyncio.Event().wait()

app = asgi(Agent.of({"name": "waits"}, handler), Settings(turns={"patience": 0.5}, worker={"grace": 0.5}))
"""


def test_a_stop_ends_open_streams_in_order(tmp_path: Path) -> None:
    """uvicorn alone would wait for them for ever."""
    (tmp_path / "app.py").write_text(APP)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app:app", "--port", str(port)]
    with started(command, cwd=tmp_path, env=surroundings(PYTHONPATH=str(ROOT))) as process:
        assert process.stdout is not None
        while "running on" not in (line := process.stdout.readline()):
            assert line, "it ended"
        request = {"jsonrpc": "2.0", "id": 1, "method": "message/stream", "params": sending("hello")}
        with httpx.stream("POST", f"http://127.0.0.1:{port}/", json=request, timeout=20) as answer:
            lines = answer.iter_lines()
            while "artifact" not in next(lines):
                pass
            process.terminate()
            assert not any("error" in line for line in lines)  # and the body has its end: else httpx raises
        process.communicate(timeout=20)
