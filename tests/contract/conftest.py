"""The contract runs over both storages: a test takes `storage`, and `clock` to force the time."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from perdure.storage import Storage
from tests.support.storages import Clock, Opened, opened_memory, opened_postgres
from tests.support.walls import Walled


@pytest.fixture(params=["memory", "postgres", "walled"])
def database(request: pytest.FixtureRequest) -> str | Walled | None:
    """A database's URL, or a database with row security in force; None for memory."""
    # Asked for here and not in the signature, so that the tests of the memory start no server. One database a module, emptied
    # for each test: a fresh one each would double the time of the suite.
    fixtures = {"postgres": "module_database_url", "walled": "module_walled_database"}
    found: str | Walled | None = (
        request.getfixturevalue(fixtures[request.param]) if request.param in fixtures else None
    )
    return found


@pytest.fixture
async def opened(database: str | Walled | None) -> AsyncIterator[Opened]:
    """A storage with its clock. With row security: what callers ask for runs as a front door's role, which neither owns the
    tables nor is a superuser, and what workers do as theirs."""
    if database is None:
        opening = opened_memory()
    elif isinstance(database, Walled):
        opening = opened_postgres(database.url, front_url=database.front, workers_url=database.workers)
    else:
        opening = opened_postgres(database)
    async with opening as opened:
        yield opened


@pytest.fixture
def storage(opened: Opened) -> Storage:
    """An empty storage."""
    return opened.storage


@pytest.fixture
def clock(opened: Opened) -> Clock:
    """The hands on its clock."""
    return opened.clock
