"""`perdure keys`, against a real database."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from perdure.cli import app
from perdure.reference import describe
from perdure.security.keys import parse
from perdure.settings import Settings


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Any) -> None:
    for row in describe(Settings()):
        monkeypatch.delenv(row.name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)


def ran(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["keys", *arguments])


def told(*arguments: str) -> Any:
    """What a command tells programs."""
    result = ran(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_a_key_from_its_making_to_its_end() -> None:
    made = ran("create", "--owner", "ada", "--scopes", "read", "--name", "her laptop", "--expires", "90d")
    assert made.exit_code == 0, made.output
    text = made.stdout.strip()
    parts = parse(text)
    assert parts is not None, "stdout is the key alone"
    assert "ada (read)" in made.stderr
    [key] = told("list")
    assert key["id"] == parts[0]
    assert (key["owner"], key["scopes"], key["name"], key["state"]) == (
        "ada",
        ["read"],
        "her laptop",
        "active",
    )
    assert key["expiresAt"] > key["createdAt"]
    assert (key["lastUsedAt"], key["revokedAt"], key["overlapUntil"]) == (None, None, None)
    rotated = told("rotate", parts[0], "--overlap", "12h")
    assert rotated["key"] != text
    assert rotated["overlapUntil"] > rotated["createdAt"]
    assert told("revoke", parts[0])["state"] == "revoked"
    table = ran("list").stdout.splitlines()
    assert table[0].split() == ["KEY", "OWNER", "SCOPES", "STATE", "EXPIRES", "LAST", "USED", "NAME"]
    assert table[1].split()[:4] == [parts[0], "ada", "read", "revoked"]
    assert parts[1] not in str(told("list")) + ran("list").stdout


async def test_the_secret_is_not_in_the_database(database_url: str) -> None:
    made = await asyncio.to_thread(told, "create", "--owner", "ada")
    assert made["scopes"] == ["read", "write"]
    parts = parse(made["key"])
    assert parts is not None
    connection = await asyncpg.connect(database_url)
    try:
        [row] = map(dict, await connection.fetch("SELECT * FROM api_keys"))
    finally:
        await connection.close()
    assert row["owner"] == "ada"
    for form in (parts[1].encode(), bytes.fromhex(parts[1])):
        assert not any(form in bytes(value) for value in row.values() if isinstance(value, bytes))
    assert parts[1] not in str(row)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["create", "--owner", "ada", "--scopes", "own"], 2, "'own' is no scope"),
        (["create", "--owner", "ada", "--scopes", ""], 2, "at least one scope"),
        (["create", "--owner", " "], 2, "needs an owner"),
        (["create", "--owner", "ada", "--expires", "soon"], 2, "'soon' is no duration"),
        (["create"], 2, "--owner"),
        (["rotate", "nobody"], 1, "there is no active key nobody"),
        (["revoke", "nobody"], 1, "there is no key nobody"),
    ],
)
def test_what_cannot_be_done_is_one_line(arguments: list[str], code: int, says: str) -> None:
    result = ran(*arguments)
    assert result.exit_code == code, result.output
    assert says in " ".join(result.stderr.replace("│", " ").split())
    assert "Traceback" not in result.output


def test_without_a_database_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL")
    result = ran("list")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "needs DATABASE_URL" in result.stderr
