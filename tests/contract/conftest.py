"""The contract runs over both storages: a test takes `storage`, and `clock` to force the time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.storage import Storage
from tests.support.storages import Clock, Opened, opened_memory, opened_postgres


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """A database's URL, None for memory."""
    # Asked for here and not in the signature, so that the tests of the memory start no server. One database a module, emptied
    # for each test: a fresh one each would double the time of the suite.
    url: str | None = request.getfixturevalue("module_database_url") if request.param == "postgres" else None
    return url


@pytest.fixture
async def opened(database: str | None) -> AsyncIterator[Opened]:
    """A storage with its clock."""
    async with opened_postgres(database) if database else opened_memory() as opened:
        yield opened


@pytest.fixture
def storage(opened: Opened) -> Storage:
    """An empty storage."""
    return opened.storage


@pytest.fixture
def clock(opened: Opened) -> Clock:
    """The hands on its clock."""
    return opened.clock
