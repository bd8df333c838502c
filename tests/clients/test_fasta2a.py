"""The newest client of fasta2a, in an environment of its own.

It calls the methods of 0.3 and, without saying so, expects the answers of 1.0: `{"task": ...}` where 0.3 has the task itself. So
it sees nothing of what a send is answered, from any server of 0.3. What it sends is done all the same, and `get_task` works.
"""

from __future__ import annotations

import json
import sys
import venv
from pathlib import Path

import pytest

from tests.e2e.conftest import AGENTS
from tests.support.processes import PERDURE, ROOT, finished, serving, surroundings

VERSION = "2.1.1"
BUILD = ROOT / "build" / "clients" / f"fasta2a-{VERSION}"
DRIVE = """
import asyncio, json, sys
from fasta2a.client import A2AClient

async def main(url, context_id, task_id):
    client = A2AClient(url)
    message = {"role": "user", "message_id": "m", "context_id": context_id, "parts": [{"text": "hello"}]}
    sent = await client.send_message(message)
    heard = [event async for event in client.stream_message({**message, "message_id": "n"})]
    found = await client.get_task(task_id)
    print(json.dumps([sent, len(heard), found]))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def python() -> Path:
    """That of the environment, which is made once."""
    program = BUILD / "bin" / "python"
    if not (BUILD / "installed").exists():
        venv.create(BUILD, with_pip=False, symlinks=True, clear=True)
        pip = [sys.executable, "-m", "pip", "--python", str(program), "install", "--quiet"]
        installed = finished([*pip, f"fasta2a=={VERSION}", "httpx"], cwd=ROOT)
        assert installed.returncode == 0, installed.stderr
        (BUILD / "installed").touch()
    return program


def test_what_it_sends_is_done_and_it_gets_tasks(python: Path, tmp_path: Path) -> None:
    command = [PERDURE, "serve", str(AGENTS / "talking.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        first = server.send("before", contextId="talk")
        ran = finished([str(python), "-c", DRIVE, server.url, "talk", first["id"]], cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        sent, heard, found = json.loads(ran.stdout)
        assert found["result"]["artifacts"][0]["parts"][0]["text"] == "BEFORE"
        said = [task["history"][0]["parts"][0]["text"] for task in server.call("tasks/list", {})["tasks"]]
        assert sorted(said) == ["before", "hello", "hello"]
        assert heard > 2
    assert sent["result"] == {}, "it reads the answers of 0.3 by now: say so in docs/conformance.md"
