"""The official JavaScript SDK's client (npm: @a2a-js/sdk) against a front door: 1.0 and its 0.3 mode, JSON-RPC and HTTP+JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import AGENTS
from tests.support.processes import PERDURE, ROOT, Server, finished, serving, surroundings

HERE = Path(__file__).parent
BUILD = ROOT / "build" / "clients" / "javascript"


@pytest.fixture(scope="module")
def driver() -> Path:
    """The script, beside the packages that it imports, which npm puts there once."""
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("node and npm are not on this machine: apt-get install nodejs npm")
    BUILD.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "drive.mjs"):
        (BUILD / name).write_text((HERE / name).read_text())
    wanted = json.loads((HERE / "package.json").read_text())["dependencies"]["@a2a-js/sdk"]
    there = BUILD / "node_modules" / "@a2a-js" / "sdk" / "package.json"
    if not there.exists() or json.loads(there.read_text())["version"] != wanted:
        install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "--no-package-lock"]
        installed = finished(install, cwd=BUILD)
        assert installed.returncode == 0, installed.stdout + installed.stderr
    return BUILD / "drive.mjs"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    command = [PERDURE, "serve", str(AGENTS / "talking.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        yield server


@pytest.mark.parametrize("version", ["1.0", "0.3"])
@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
def test_all_that_the_client_can_do(
    driver: Path, server: Server, tmp_path: Path, binding: str, version: str
) -> None:
    command = ["node", str(driver), server.url, binding, version, str(tmp_path / "gate")]
    ran = finished(command, cwd=driver.parent)
    assert ran.returncode == 0, ran.stderr
    got: dict[str, Any] = json.loads(ran.stdout)
    assert got["card"] == ["talking", True]
    assert got["send"] == ["TASK_STATE_COMPLETED", "HELLO"]
    assert got["get"] == [True, "HELLO", 0]
    assert got["stream"][:2] == ["TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"]
    assert "".join(got["stream"][2:]) == "ONE TWO TASK_STATE_COMPLETED"
    assert got["question"] == ["TASK_STATE_INPUT_REQUIRED", "Which city?", True, "LISBON"]
    assert got.get("list") == ([3, True] if version == "1.0" else None)
    assert got["push"] == ["mine", "https://hook.test/***", 1, True]
    assert got["subscribe"][-1] == "TASK_STATE_CANCELED"
    # Over 0.3's HTTP+JSON the client gives what it was answered as it came.
    assert "TaskNotCancelable" in got["again"]
    assert "TaskNotFound" in got["unknown"]
