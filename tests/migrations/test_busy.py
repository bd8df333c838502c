"""A migration while the tables are in use: it gives up soon, lets the others through, and says who was in the way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from perdure.errors import CodeOutdated
from perdure.settings import StorageSettings
from perdure.storage import migrate
from perdure.storage.postgres import PostgresStorage
from perdure.storage.schema import VERSION_TABLE
from tests.support.processes import PERDURE, finished, surroundings

pytestmark = pytest.mark.usefixtures("before_folding")
WAITING = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'tasks'::regclass"
COLUMNS = (
    "SELECT count(*) FROM information_schema.columns WHERE table_name = 'tasks' AND column_name = 'streamed'"
)


@pytest.fixture
async def before_folding(empty_database_url: str) -> None:
    """A schema whose next step but one, 0006, needs the table of tasks for itself."""
    await asyncio.to_thread(migrate.upgrade, empty_database_url, revision="0004")


@asynccontextmanager
async def connected(url: str, **settings: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(url, server_settings=settings)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def reading_tasks(url: str) -> AsyncIterator[int]:
    """Somebody who has read the table and does not end his transaction: his process's id."""
    async with connected(url, application_name="a report") as connection, connection.transaction():
        await connection.fetch("SELECT FROM tasks LIMIT 1")
        yield await connection.fetchval("SELECT pg_backend_pid()")


async def until_it_waits(connection: Any) -> None:
    tries = AsyncRetrying(
        retry=retry_if_result(lambda n: not n), wait=wait_fixed(0.005), stop=stop_after_delay(40)
    )
    await tries(connection.fetchval, WAITING)


async def test_it_gives_up_says_who_is_in_the_way_and_has_changed_nothing(
    empty_database_url: str, tmp_path: Path
) -> None:
    env = surroundings(DATABASE_URL=empty_database_url, STORAGE__MIGRATION_LOCK_TIMEOUT="0.1")
    async with reading_tasks(empty_database_url) as process, connected(empty_database_url) as other:
        command = [PERDURE, "migrate", "upgrade"]
        end = await asyncio.to_thread(finished, command, cwd=tmp_path, env=env)
        assert end.returncode == 1
        said = end.stderr.splitlines()[-1]
        assert f"the table tasks is busy: process {process} (a report, idle in transaction for" in said
        assert "Waited 5 times 0.1 s" in said
        assert "nothing was changed, the schema is at revision 0005" in said  # 0005 had been done before
        assert "Traceback" not in end.stderr
        assert await other.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") == "0005"
        assert await other.fetchval(COLUMNS) == 0
    end = await asyncio.to_thread(finished, command, cwd=tmp_path, env=env)
    assert end.stdout == f"the schema is at revision {migrate.head()}\n"


async def test_whoever_comes_after_it_is_let_through(empty_database_url: str) -> None:
    """A reader who is not in anybody's way but the migration's, and does not wait for ever himself."""
    async with (
        reading_tasks(empty_database_url),
        connected(empty_database_url, lock_timeout="20s") as reader,
        connected(empty_database_url) as looking,
    ):
        going_on = asyncio.create_task(
            asyncio.to_thread(migrate.upgrade, empty_database_url, lock_timeout=0.3)
        )
        await until_it_waits(looking)
        await reader.fetch("SELECT FROM tasks LIMIT 1")
        with pytest.raises(Exception, match="tasks is busy"):
            await going_on


async def test_it_goes_on_when_the_table_is_free_again(empty_database_url: str) -> None:
    async with connected(empty_database_url) as looking:
        async with reading_tasks(empty_database_url):
            going_on = asyncio.create_task(
                asyncio.to_thread(migrate.upgrade, empty_database_url, revision="+2", lock_timeout=0.5)
            )
            await until_it_waits(looking)
        await going_on
        # Two steps from where it began, although the second of them was tried twice.
        assert await looking.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") == "0006"


async def test_the_schema_says_which_code_works_on_it(database_url: str) -> None:
    storage = PostgresStorage(database_url, StorageSettings(run_migrations_on_startup=False))
    async with connected(database_url) as connection:
        await connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
        await connection.execute(f"COMMENT ON TABLE {VERSION_TABLE} IS 'oldest code: {migrate.head()}'")
        await storage.open()
        await connection.execute(f"COMMENT ON TABLE {VERSION_TABLE} IS 'oldest code: 9998'")
        with pytest.raises(
            CodeOutdated, match=f"needs a version of Perdure that knows 9998; this one knows {migrate.head()}"
        ):
            await storage.check()
    await storage.close()
