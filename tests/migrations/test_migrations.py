"""Migrations: up and down, by many at once, from anywhere, and to exactly the schema that the code has."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import asyncpg
import pytest

from perdure.errors import ConfigError, SchemaOutdated, StorageUnavailable
from perdure.local.postgres import postgres_programs
from perdure.settings import StorageSettings
from perdure.storage import migrate
from perdure.storage.postgres import PostgresStorage
from perdure.storage.schema import VERSION_TABLE, metadata

CHECKOUT = Path(__file__).parents[2]


def run(*command: str, cwd: Path = CHECKOUT, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "STORAGE"))
    }
    return subprocess.run(
        command, cwd=cwd, env={**kept, **environment}, capture_output=True, text=True, timeout=50, check=False
    )


def alembic(*arguments: str, url: str, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    return run(
        sys.executable, "-m", "alembic", *arguments, cwd=cwd, STORAGE_TYPE="postgres", DATABASE_URL=url
    )


def catalog(url: str) -> str:
    """The schema as pg_dump writes it: CHECKs, predicates, defaults and views included."""
    dump = subprocess.run(
        [postgres_programs() / "pg_dump", "-s", "--no-owner", "--no-privileges", "-T", VERSION_TABLE, url],
        capture_output=True,
        text=True,
        check=True,
    )
    # pg_dump 18 writes a random key of its own around the dump.
    return "\n".join(line for line in dump.stdout.splitlines() if "restrict" not in line)


def create_from_metadata(url: str) -> None:
    migrate.on_connection(url, lambda config: metadata.create_all(config.attributes["connection"]))


def test_up_and_down(empty_database_url: str) -> None:
    blank = catalog(empty_database_url)
    migrate.upgrade(empty_database_url)
    assert migrate.current(empty_database_url) == migrate.head()
    full = catalog(empty_database_url)
    migrate.downgrade(empty_database_url, "base")
    assert catalog(empty_database_url) == blank
    migrate.upgrade(empty_database_url, revision="+1")
    assert migrate.current(empty_database_url) == "0001"
    migrate.upgrade(empty_database_url)
    assert catalog(empty_database_url) == full


def test_nothing_differs_from_the_tables_in_the_code(empty_database_url: str, database_url: str) -> None:
    migrate.check(database_url)
    create_from_metadata(empty_database_url)
    assert catalog(database_url) == catalog(empty_database_url)


def test_tables_of_others_are_left_alone(database_url: str) -> None:
    asyncio.run(execute(database_url, "CREATE TABLE somebody_elses (id int)"))
    migrate.check(database_url)


async def execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    await connection.execute(statement)
    await connection.close()


def test_many_at_once_on_an_empty_database(empty_database_url: str) -> None:
    """Without the lock three of four processes die of a table that is there already."""
    code = f"from perdure.storage.migrate import upgrade; upgrade({empty_database_url!r})"
    with ThreadPoolExecutor(4) as starts:
        ends = list(starts.map(lambda _: run(sys.executable, "-c", code), range(4)))
    assert [end.returncode for end in ends] == [0] * 4, [end.stderr for end in ends]
    assert migrate.current(empty_database_url) == migrate.head()


def test_alembics_own_command(empty_database_url: str) -> None:
    for arguments in (["upgrade", "head"], ["check"], ["downgrade", "-1"], ["upgrade", "head"]):
        end = alembic(*arguments, url=empty_database_url)
        assert end.returncode == 0, end.stderr
    assert "0001 -> 0002" in alembic("history", url=empty_database_url).stdout


def test_alembic_from_any_directory(empty_database_url: str, tmp_path: Path) -> None:
    end = alembic(
        "-c", str(CHECKOUT / "alembic.ini"), "upgrade", "head", url=empty_database_url, cwd=tmp_path
    )
    assert end.returncode == 0, end.stderr
    assert migrate.current(empty_database_url) == migrate.head()


def test_autogenerate_writes_a_numbered_file(database_url: str, tmp_path: Path) -> None:
    """In a copy, so that nothing is left in the checkout."""
    copy = tmp_path / "alembic"
    subprocess.run(["cp", "-r", CHECKOUT / "alembic", CHECKOUT / "alembic.ini", tmp_path], check=True)
    end = alembic(
        "-c", str(tmp_path / "alembic.ini"), "revision", "--autogenerate", "-m", "nothing new",
        url=database_url, cwd=tmp_path,
    )  # fmt: skip
    assert end.returncode == 0, end.stderr
    written = [path.name for path in (copy / "versions").glob("*nothing_new.py")]
    assert len(written) == 1
    assert written[0].endswith(f"_{int(migrate.head()) + 1:04d}_nothing_new.py")


def test_sql_for_those_who_run_it_themselves() -> None:
    end = alembic("upgrade", "head", "--sql", url="postgresql://nobody@localhost/none")
    assert end.returncode == 0, end.stderr
    assert "CREATE TABLE tasks" in end.stdout


def test_alembic_without_a_database_says_what_to_set() -> None:
    end = run(sys.executable, "-m", "alembic", "upgrade", "head")
    assert end.returncode == 2
    assert "DATABASE_URL" in end.stderr
    assert "Traceback" not in end.stderr


async def test_older_schema_refuses_to_start(empty_database_url: str) -> None:
    await asyncio.to_thread(migrate.upgrade, empty_database_url, revision="0001")
    storage = PostgresStorage(empty_database_url, StorageSettings(run_migrations_on_startup=False))
    with pytest.raises(SchemaOutdated, match="perdure migrate upgrade"):
        await storage.open()
    await storage.close()


async def test_empty_database_refuses_to_start(empty_database_url: str) -> None:
    storage = PostgresStorage(empty_database_url, StorageSettings(run_migrations_on_startup=False))
    with pytest.raises(SchemaOutdated, match="empty"):
        await storage.open()
    await storage.close()


async def test_newer_schema_is_no_reason_to_stop(database_url: str) -> None:
    """While a deploy goes on, old processes run on the new schema, and one that starts anew leaves it as it is."""
    await execute(database_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    for migrating in (False, True):
        storage = PostgresStorage(database_url, StorageSettings(run_migrations_on_startup=migrating))
        await storage.open()
        await storage.close()
    assert migrate.current(database_url) == "9999"


async def test_older_code_does_not_bring_a_newer_schema_down(database_url: str) -> None:
    await execute(database_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(ConfigError, match="newer than this version"):
        migrate.downgrade(database_url, "-1")


def test_a_connection_lost_in_mid_migration_is_an_outage(empty_database_url: str) -> None:
    """A start waits it out."""
    dismiss_us = "SELECT pg_terminate_backend(pg_backend_pid())"
    with pytest.raises(StorageUnavailable):
        migrate.on_connection(
            empty_database_url, lambda config: config.attributes["connection"].exec_driver_sql(dismiss_us)
        )


def test_a_role_that_may_not_create_tables_is_told_what_to_do(empty_database_url: str) -> None:
    asyncio.run(execute(empty_database_url, "DROP ROLE IF EXISTS perdure_weak"))
    asyncio.run(execute(empty_database_url, "CREATE ROLE perdure_weak LOGIN PASSWORD 'weak'"))
    asyncio.run(execute(empty_database_url, "REVOKE CREATE ON SCHEMA public FROM PUBLIC"))
    scheme, _, rest = empty_database_url.partition("://")
    weak = f"{scheme}://perdure_weak:weak@{rest.rpartition('@')[2]}"
    try:
        with pytest.raises(ConfigError, match="OWNER TO"):
            migrate.upgrade(weak)
    finally:
        asyncio.run(execute(empty_database_url, "DROP ROLE perdure_weak"))
