"""A deploy, half-way: the schema is this version's, and front doors and workers of an older version still run on it."""

from __future__ import annotations

import io
import re
import signal
import subprocess
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory

from perdure.storage import migrate
from perdure.storage.stepping import oldest_code
from tests.support.processes import ROOT, text_of

from .conftest import Process, Stack, at, until

SCRIPTS = ScriptDirectory.from_config(migrate.configuration())
OLDEST = oldest_code(SCRIPTS, migrate.head())


def git(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)


def last_release() -> str | None:
    """The newest tag of a version before this commit."""
    found = git("describe", "--tags", "--match", "v[0-9]*", "--abbrev=0", "HEAD^")
    return found.stdout.decode().strip() if found.returncode == 0 else None


def last_commit_at(revision: str) -> str | None:
    """The last commit whose newest migration was `revision`: the one before that which brought the next. Looked for by the names
    of the files, which stay when history is written anew."""
    [following] = SCRIPTS.get_revision(revision).nextrev
    path = f"alembic/versions/*_{following}_*.py"
    found = git(
        "log", "--first-parent", "-m", "--diff-filter=A", "--format=%H", "-1", "HEAD", "--", path
    ).stdout.split()
    return f"{found[0].decode()}^" if found else None


@pytest.fixture(params=["release", OLDEST])
def older(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The older version's code. By `git archive`: a worktree would leave its mark on the repository when a test is killed."""
    if (
        git("rev-parse", "--git-dir").returncode
        or b"true" in git("rev-parse", "--is-shallow-repository").stdout
    ):
        pytest.skip("there is no history here to take older code from")
    commit = last_release() if request.param == "release" else last_commit_at(request.param)
    if commit is None and request.param == "release":
        pytest.skip("nothing has been released yet")
    assert commit, f"no commit brought what follows on {request.param}"
    archive = git("archive", commit, "api", "worker", "perdure", "alembic")
    assert archive.returncode == 0, archive.stderr
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(tmp_path / "older", filter="data")
    return tmp_path / "older"


def complaints(process: Process) -> list[str]:
    """What it logged as an error, and every traceback."""
    return [line for line in process.log if re.search(r'"level": ?"(error|critical)"|Traceback', line)]


def running(older: Path) -> dict[str, str]:
    """The settings of a process of the older version. What is older than the first release cannot start on a schema that it does
    not know, unless it is told to leave it alone."""
    return {"PYTHONPATH": str(older), "STORAGE__RUN_MIGRATIONS_ON_STARTUP": "false"}


def test_older_code_works_on_the_newest_schema(stack: Stack, older: Path) -> None:
    migrate.upgrade(stack.services.database_url)
    stack.settings["WORKER__LEASE"] = "15"  # nobody dies here, however slow the machine is
    old = running(older)
    old_door, _ = stack.front_door(**old)
    new_door, _ = stack.front_door()
    workers = [stack.worker(**old), stack.worker()]

    def send(number: int) -> dict[str, Any]:
        door = (old_door, new_door)[number % 2]
        return door.send(f"message {number}", contextId=f"conversation-{number % 10}")

    with ThreadPoolExecutor(8) as clients:
        tasks = list(clients.map(send, range(60)))
    until(lambda: all(at(new_door, task["id"], "completed") for task in tasks))
    for number, task in enumerate(tasks):
        for door in (old_door, new_door):
            assert text_of(door.call("tasks/get", {"id": task["id"]})) == f"MESSAGE {number}"
    gate = stack.gate("gate")
    held = old_door.send(str(gate.path), blocking=False)
    gate.begun()
    assert old_door.call("tasks/cancel", {"id": held["id"]})["status"]["state"] == "canceled"
    [counted] = stack.rows(
        "SELECT count(*), max(attempt) AS attempts, sum(crashes + failures) AS lost FROM tasks"
    )
    assert tuple(counted) == (61, 1, 0)
    for worker in workers:
        assert worker.said("turn.settled") > 0
    for process in stack.processes:
        assert complaints(process) == []


def test_an_older_worker_takes_over_what_a_newer_one_had(stack: Stack, older: Path) -> None:
    migrate.upgrade(stack.services.database_url)
    door, _ = stack.front_door()
    newer, gate = stack.worker(), stack.gate("gate")
    task_id = door.send(str(gate.path), blocking=False)["id"]
    assert gate.begun() == newer.popen.pid
    taking_over = stack.worker(**running(older))
    newer.signal(signal.SIGKILL)
    assert gate.begun(2) == taking_over.popen.pid
    gate.open()
    until(lambda: at(door, task_id, "completed"))
    assert stack.task(task_id)["crashes"] == 1
    stack.log_is_whole(task_id)


def test_code_that_is_too_old_says_so(stack: Stack) -> None:
    migrate.upgrade(stack.services.database_url)
    stack.run(
        "UPDATE perdure_alembic_version SET version_num = '9999'; "
        "COMMENT ON TABLE perdure_alembic_version IS 'oldest code: 9999'"
    )
    with pytest.raises(AssertionError, match=r"needs a version of Perdure that knows 9999"):
        stack.front_door(STORAGE__RUN_MIGRATIONS_ON_STARTUP="false")
