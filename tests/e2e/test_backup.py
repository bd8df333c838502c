"""A drill: what was backed up while the servers ran is there again, by the programs of the wheel and the command line."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from perdure.errors import ConfigError
from perdure.storage import backup
from tests.conftest import DatabaseServer
from tests.support.processes import PERDURE, finished, surroundings, text_of

from .conftest import Stack


def perdure(folder: Path, *arguments: str, database: str) -> tuple[int, str, str]:
    env = surroundings(DATABASE_URL=database)
    result = finished([PERDURE, *arguments], cwd=folder, env=env)
    return result.returncode, result.stdout, result.stderr


def test_what_was_backed_up_is_there_again(stack: Stack, empty_database_url: str, tmp_path: Path) -> None:
    server, _ = stack.front_door(AGENT=str(Path(__file__).parents[2] / "examples" / "echo.py"))
    stack.worker(AGENT=str(Path(__file__).parents[2] / "examples" / "echo.py"))
    task = server.send("kept")
    source = stack.settings["DATABASE_URL"]
    assert perdure(tmp_path, "backup", "all.sql.gz", database=source)[0] == 0
    after = server.send("after the backup")
    assert gzip.decompress((tmp_path / "all.sql.gz").read_bytes()).startswith(b"--\n")

    assert perdure(tmp_path, "restore", "all.sql.gz", database=empty_database_url)[0] == 0
    restored, _ = stack.front_door(DATABASE_URL=empty_database_url, QUEUE_TYPE="inline")
    assert text_of(restored.call("tasks/get", {"id": task["id"]})) == "kept"
    missing = restored.post("tasks/get", {"id": after["id"]}).json()
    assert missing["error"]["code"] == -32001


def test_a_restore_needs_an_empty_database_and_says_so(database_url: str, tmp_path: Path) -> None:
    assert perdure(tmp_path, "backup", "all.sql", database=database_url)[0] == 0
    code, _, said = perdure(tmp_path, "restore", "all.sql", database=database_url)
    assert code == 1
    assert said.startswith("perdure: the database at ")
    assert "is not empty" in said
    assert len(said.splitlines()) == 1


def test_a_backup_that_is_broken_restores_nothing(
    database_url: str, empty_database_url: str, tmp_path: Path
) -> None:
    assert perdure(tmp_path, "backup", "all.sql", database=database_url)[0] == 0
    whole = (tmp_path / "all.sql").read_text()
    (tmp_path / "broken.sql").write_text(whole + "\nINSERT INTO nowhere VALUES (1);\n")
    code, _, said = perdure(tmp_path, "restore", "broken.sql", database=empty_database_url)
    assert code == 1
    assert 'relation "nowhere" does not exist' in said
    assert perdure(tmp_path, "restore", "all.sql", database=empty_database_url)[0] == 0


def test_a_client_that_is_too_old_is_one_line(
    database_server: DatabaseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 9.6.24'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}/usr/bin{os.pathsep}/bin")

    def none_there() -> Path:
        raise ConfigError("not installed")

    monkeypatch.setattr(backup, "postgres_programs", none_there)
    with pytest.raises(ConfigError, match=r"the newest pg_dump here is 9, which is too old for it"):
        backup.backup(database_server.url, tmp_path / "all.sql")


def test_nobody_answers_at_the_address(tmp_path: Path, unused_tcp_port: int) -> None:
    url = f"postgresql://nobody:secret@127.0.0.1:{unused_tcp_port}/x"
    code, _, said = perdure(tmp_path, "backup", "all.sql", database=url)
    assert code == 1
    assert "does not answer" in said
    assert "secret" not in said
    assert not list(tmp_path.iterdir())
