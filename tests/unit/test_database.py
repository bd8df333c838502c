"""What a database that takes no new connection becomes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from perdure.errors import StorageUnavailable
from perdure.settings import StorageSettings
from perdure.storage.database import Database


async def one(connection: asyncpg.Connection, again: bool) -> Any:
    return await connection.fetchval("SELECT 1")


@pytest.mark.parametrize(
    ("change", "refusal"),
    [
        ({"path": "/there_is_none"}, asyncpg.InvalidCatalogNameError),
        ({"netloc": "nobody:guessed@{at}"}, asyncpg.InvalidAuthorizationSpecificationError),
    ],
)
async def test_a_refused_connection_is_an_unavailable_storage(
    empty_database_url: str, change: dict[str, str], refusal: type[Exception]
) -> None:
    """Whatever SQLAlchemy makes of it: a caller is told to come back, not that we are broken."""
    url = urlsplit(empty_database_url)
    changed = {name: value.format(at=url.netloc.rpartition("@")[2]) for name, value in change.items()}
    database = Database(url._replace(**changed).geturl(), StorageSettings())
    database.open()
    try:
        with pytest.raises(StorageUnavailable) as raised:
            await database.run(one)
        assert isinstance(raised.value.__cause__, refusal)
    finally:
        await database.close()


async def write(connection: asyncpg.Connection, again: bool) -> Any:
    return await connection.execute("CREATE TABLE IF NOT EXISTS written ()")


async def test_a_server_with_no_connection_left_is_unavailable_until_there_is_one(
    empty_database_url: str,
) -> None:
    await _as_admin(empty_database_url, "CREATE ROLE crowded LOGIN PASSWORD 'secret' CONNECTION LIMIT 1")
    try:
        url = urlsplit(empty_database_url)
        crowded = url._replace(netloc=f"crowded:secret@{url.netloc.rpartition('@')[2]}").geturl()
        taken = await asyncpg.connect(crowded)
        async with opened(crowded) as database:
            with pytest.raises(StorageUnavailable) as raised:
                await database.run(one)
            assert isinstance(raised.value.__cause__, asyncpg.TooManyConnectionsError)
            await taken.close()
            assert await database.run(one) == 1
    finally:
        await _as_admin(empty_database_url, "DROP ROLE crowded")


async def test_a_primary_that_became_a_standby_is_left_for_the_new_one(empty_database_url: str) -> None:
    """A standing connection to it would never take a write again."""
    name = urlsplit(empty_database_url).path.strip("/")
    async with opened(empty_database_url) as database:
        await database.run(write)
        before = await database.run(whose)
        await _as_admin(empty_database_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
        await _as_admin(empty_database_url, TERMINATE_OTHERS)
        with pytest.raises(StorageUnavailable) as raised:
            await database.run(write)
        assert isinstance(raised.value.__cause__, asyncpg.ReadOnlySQLTransactionError)
        standby = await database.run(whose)
        await _as_admin(
            empty_database_url, f'ALTER DATABASE "{name}" SET default_transaction_read_only = off'
        )
        await database.run(write)  # a new connection, though the old one still stood
        assert len({before, standby, await database.run(whose)}) == 3


TERMINATE_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


async def whose(connection: asyncpg.Connection, again: bool) -> Any:
    return await connection.fetchval("SELECT pg_backend_pid()")


async def _as_admin(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("SET default_transaction_read_only = off")
        await connection.execute(statement)
    finally:
        await connection.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    database = Database(url, StorageSettings(pool_size=1, retry_timeout=0.3))
    database.open()
    try:
        yield database
    finally:
        await database.close()


class Starting(Database):
    """Of a server that takes no connection yet: the first two are refused."""

    refused = 0

    async def connect(self) -> Any:
        if self.refused < 2:
            self.refused += 1
            raise asyncpg.CannotConnectNowError("the database system is starting up")
        return await super().connect()


async def test_a_server_that_starts_up_is_waited_for(empty_database_url: str) -> None:
    database = Starting(empty_database_url, StorageSettings())
    database.open()
    try:
        assert await database.run(one) == 1
        assert database.refused == 2
    finally:
        await database.close()
