"""What a database that takes no new connection becomes."""

from __future__ import annotations

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
