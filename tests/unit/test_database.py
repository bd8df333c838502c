"""What a database that takes no new connection becomes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import asyncpg
import pytest

from perdure.errors import StorageUnavailable
from perdure.settings import StorageSettings
from perdure.storage.postgres.database import Database


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


class Relay:
    """The way to a server. While it is `late`, what the server says when it hangs up arrives, and that it hung up does not."""

    def __init__(self, port: int) -> None:
        self.late = False
        self.hung_up = asyncio.Event()
        self._port = port
        self._relayed: list[asyncio.Task[None]] = []
        self._server: asyncio.Server

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(
            lambda *both: self._relayed.append(asyncio.create_task(self._relay(*both))), "127.0.0.1", 0
        )
        return self

    async def __aexit__(self, *raised: object) -> None:
        self._server.close()
        await asyncio.gather(*self._relayed)

    @property
    def port(self) -> int:
        number: int = self._server.sockets[0].getsockname()[1]
        return number

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self._port)
        sending = asyncio.create_task(_poured(reader, back))
        receiving = asyncio.create_task(_poured(there, writer))
        await asyncio.wait((sending, receiving), return_when=asyncio.FIRST_COMPLETED)
        if receiving.done():
            self.hung_up.set()
            if self.late:
                await sending
        for task in (sending, receiving):
            task.cancel()
        for each in (writer, back):
            each.close()
            with suppress(ConnectionError):
                await each.wait_closed()


async def _poured(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await reader.read(1 << 16):
            writer.write(data)


@pytest.fixture
async def relayed(empty_database_url: str) -> AsyncIterator[tuple[Database, Relay]]:
    url = urlsplit(empty_database_url)
    async with Relay(url.port or 5432) as relay:
        at = f"{url.netloc.rpartition(':')[0]}:{relay.port}"
        database = Database(url._replace(netloc=at).geturl(), StorageSettings())
        database.open()
        yield database, relay
        await database.close()


async def dismissed(url: str, connection: Any, relay: Relay) -> None:
    """The server has ended the session, and the connection has read its last words."""
    relay.late = True
    by = await asyncpg.connect(url)
    await by.execute("SELECT pg_terminate_backend($1)", connection.get_server_pid())
    await by.close()
    await relay.hung_up.wait()
    relay.late = False
    _, writer = await asyncio.open_connection("127.0.0.1", relay.port)  # a round through the loop's selector
    writer.close()


async def test_a_server_that_says_goodbye_and_has_not_hung_up_yet(
    empty_database_url: str, relayed: tuple[Database, Relay]
) -> None:
    """asyncpg then calls it an error of its own; the statement is passed to another connection all the same."""
    database, relay = relayed
    before = []

    async def work(connection: Any, again: bool) -> Any:
        before.append(again)
        if not again:
            await dismissed(empty_database_url, connection, relay)
        return await connection.fetchval("SELECT 1")

    assert await database.run(work) == 1
    assert before == [False, True]


async def test_a_pooled_connection_that_the_server_said_goodbye_to(
    empty_database_url: str, relayed: tuple[Database, Relay]
) -> None:
    database, relay = relayed

    async def last(connection: Any, again: bool) -> Any:
        value = await one(connection, again)
        await dismissed(empty_database_url, connection, relay)
        return value

    assert await database.run(last) == 1
    assert await database.run(one) == 1
