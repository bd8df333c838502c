"""Row security in real processes: front doors and workers with roles of their own, made by the commands in docs/security.md."""

from __future__ import annotations

import asyncio
import re
import subprocess
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from perdure.tasks import ANONYMOUS
from tests.support.processes import PERDURE, ROOT, finished, surroundings

from .conftest import AGENTS, Stack

OWNER, FRONT, WORKERS = "perdure_owner:one", "perdure_front:two", "perdure_workers:three"


@pytest.fixture
def walled(stack: Stack) -> Stack:
    """A stack whose database has row security, set up as the page says; its settings are those of all processes."""
    page = (ROOT / "docs" / "security.md").read_text()
    [statements] = re.findall(r"^```sql\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    stack.run(statements)
    commands = re.findall(r"^perdure (migrate (?:upgrade|row-security).*)$", page, re.MULTILINE)
    assert len(commands) == 2
    for command in commands:
        end = command_of(stack, *command.split())
        assert end.returncode == 0, end.stderr
    stack.settings |= {
        "AGENT": str(AGENTS / "talking.py"),
        "DATABASE_URL": as_role(stack, FRONT),
        "WORKER_DATABASE_URL": as_role(stack, WORKERS),
        "STORAGE__ROW_SECURITY": "true",
    }
    return stack


def as_role(stack: Stack, role: str) -> str:
    """The database as somebody else."""
    parts = urlsplit(stack.services.database_url)
    return parts._replace(netloc=f"{role}@{parts.netloc.rpartition('@')[2]}").geturl()


def command_of(stack: Stack, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command as the role that owns the tables."""
    env = surroundings(DATABASE_URL=as_role(stack, OWNER))
    return finished([PERDURE, *arguments], cwd=stack.folder, env=env)


def seen(stack: Stack, role: str, owner: str) -> list[str]:
    """The tasks that a statement without a WHERE gets, in a transaction of `owner`."""

    async def ask() -> list[Any]:
        connection = await asyncpg.connect(as_role(stack, role))
        try:
            async with connection.transaction():
                await connection.execute("SELECT set_config('perdure.owner', $1, true)", owner)
                return list(await connection.fetch("SELECT task_id FROM tasks"))
        finally:
            await connection.close()

    return [str(row["task_id"]) for row in asyncio.run(ask())]


def test_a_fleet_with_two_roles(walled: Stack) -> None:
    server, _ = walled.front_door()
    walled.worker()
    task = server.send("hello")
    assert task["status"]["state"] == "completed"
    assert server.call("tasks/get", {"id": task["id"]})["id"] == task["id"]
    assert seen(walled, FRONT, ANONYMOUS) == [task["id"]]
    assert seen(walled, FRONT, "somebody else") == [], "a front door that forgot the owner would see this"
    assert seen(walled, WORKERS, "") == [task["id"]]


def test_turns_in_the_front_door_run_as_the_workers_role(walled: Stack) -> None:
    server, _ = walled.front_door(QUEUE_TYPE="inline")
    task = server.send("hello")
    assert task["status"]["state"] == "completed"
    assert seen(walled, FRONT, "somebody else") == []


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"DATABASE_URL": ""}, "bypasses it"),
        ({"STORAGE__ROW_SECURITY": "false"}, "would see no task: set STORAGE__ROW_SECURITY=true"),
        ({"QUEUE_TYPE": "inline", "WORKER_DATABASE_URL": ""}, "needs WORKER_DATABASE_URL"),
    ],
)
def test_a_front_door_that_would_have_no_wall_does_not_start(
    walled: Stack, changed: dict[str, str], why: str
) -> None:
    if changed.get("DATABASE_URL") == "":
        changed = {"DATABASE_URL": walled.services.database_url}  # the superuser's
    env = surroundings(**{**walled.settings, **changed})
    end = finished([PERDURE, "serve", "--port", "0"], cwd=walled.folder, env=env)
    assert end.returncode == 2
    assert why in end.stderr
    assert "Traceback" not in end.stderr


def test_off_again(walled: Stack) -> None:
    assert command_of(walled, "migrate", "row-security", "off").returncode == 0
    server, _ = walled.front_door(STORAGE__ROW_SECURITY="false", QUEUE_TYPE="inline")
    assert server.send("hello")["status"]["state"] == "completed"
