"""The front door in memory mode; `open_front` opens it over both storages."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial

import pytest

from tests.api.front import Front, echo, opened_front
from tests.support.storages import Clock, Opened, opened_memory, opened_postgres


@pytest.fixture
async def front() -> AsyncIterator[Front]:
    """A front door whose agent does nothing by itself: the test plays it."""
    async with opened_front() as front:
        yield front


@pytest.fixture
async def echoing(front: Front) -> Front:
    """A front door whose agent repeats what it hears, and asks back when it is asked."""
    front.plays(echo)
    return front


@pytest.fixture
async def pushing() -> AsyncIterator[Front]:
    """A front door with push notifications switched on."""
    async with opened_front({"capabilities": {"push_notifications": True}}) as front:
        yield front


# ---------------------------------------------------------------------- over both storages


@pytest.fixture(params=["memory", "postgres"])
def database(request: pytest.FixtureRequest) -> str | None:
    """A database's URL, None for memory."""
    url: str | None = request.getfixturevalue("module_database_url") if request.param == "postgres" else None
    return url


@pytest.fixture
async def opened(database: str | None) -> AsyncIterator[Opened]:
    """A storage with its clock."""
    async with opened_postgres(database) if database else opened_memory() as opened:
        yield opened


@pytest.fixture
def clock(opened: Opened) -> Clock:
    """The hands on the storage's clock."""
    return opened.clock


@pytest.fixture
def open_front(opened: Opened) -> Callable[..., AbstractAsyncContextManager[Front]]:
    """`opened_front` over this storage."""
    return partial(opened_front, storage=opened.storage)
