"""Real servers for the tests: those of TEST_DATABASE_URL and TEST_REDIS_URL where given, else private ones from the wheels.

A missing server is a failure, never a skip. A fresh migrated database is a copy of one that was migrated once (40 ms, not 400).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, TypeVar
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import pytest
import redis
import structlog
from tenacity import retry, retry_if_exception_type, stop_after_delay, wait_fixed

from perdure.local import LocalServices, local_services
from tests.support import walls

T = TypeVar("T")

_configure = structlog.configure


def _configure_uncached(**settings: Any) -> None:
    _configure(**{**settings, "cache_logger_on_first_use": False})


# A logger that is kept from its first use on is one that `capture_logs` does not reach: a test that sets the logs up would take
# those of its modules away from all that come after it.
structlog.configure = _configure_uncached  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def logs_as_they_were() -> Iterator[None]:
    """A command that runs in this process sets them up, and may leave them silent."""
    yield
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def database_server() -> Iterator[DatabaseServer]:
    """The PostgreSQL server of this session; it must let us create databases."""
    given = os.environ.get("TEST_DATABASE_URL")
    if given:
        with DatabaseServer(given).ready() as server:
            yield server
    else:
        with (
            local_services(None, redis=False, fsync=False) as services,
            DatabaseServer(services.database_url).ready() as server,
        ):
            yield server


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of this session's Redis server. Other data may be in it: use `redis_url`."""
    given = os.environ.get("TEST_REDIS_URL")
    if given:
        _ping(given)
        yield given
    else:
        with local_services(None, postgres=False, fsync=False) as services:
            yield services.redis_url


@pytest.fixture
def private_services() -> Iterator[LocalServices]:
    """A PostgreSQL and a Redis for this test alone, to be stopped, killed and started again (a second to make)."""
    with local_services(None, fsync=False) as services:
        yield services


@pytest.fixture
def empty_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A new database without a schema."""
    yield from database_server.lend()


@pytest.fixture
def database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A new database with the newest schema, for one test."""
    yield from database_server.lend(template=database_server.migrated)


@pytest.fixture(scope="module")
def module_database_url(database_server: DatabaseServer) -> Iterator[str]:
    """A new database with the newest schema, shared by the tests of a module."""
    yield from database_server.lend(template=database_server.migrated)


@pytest.fixture
def walled_database(database_server: DatabaseServer) -> Iterator[walls.Walled]:
    """A new database with the newest schema and row security in force, for one test."""
    yield from database_server.lend_walled()


@pytest.fixture(scope="module")
def module_walled_database(database_server: DatabaseServer) -> Iterator[walls.Walled]:
    """As `walled_database`, shared by the tests of a module."""
    yield from database_server.lend_walled()


@pytest.fixture
def redis_url(redis_server: str, redis_numbers: Iterator[int]) -> Iterator[str]:
    """An empty Redis database, emptied again afterwards. Channels are common to all databases of a server."""
    for _, number in zip(range(15), redis_numbers, strict=False):
        url = urlsplit(redis_server)._replace(path=f"/{number}").geturl()
        with redis.Redis.from_url(url) as client:
            if client.dbsize() == 0:
                yield url
                client.flushdb()
                return
    pytest.fail(f"none of the databases 1 to 15 of {urlsplit(redis_server).hostname} is empty")


@pytest.fixture(scope="session")
def redis_numbers() -> Iterator[int]:
    """In turn, so that a process that outlives its test for a moment does not meet the next one's keys. Test processes that share
    a server have numbers of their own."""
    worker, workers = (
        os.environ.get("PYTEST_XDIST_WORKER", "gw0"),
        os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"),
    )
    return cycle(range(1 + int(worker.removeprefix("gw")), 16, int(workers)))


@dataclass
class DatabaseServer:
    """Makes databases. `url` is that of an existing database of a user who may."""

    url: str
    _migrated: str | None = field(default=None, init=False)
    _walled: str | None = field(default=None, init=False)

    @contextmanager
    def ready(self) -> Iterator[DatabaseServer]:
        """Wait until it answers; what it made for the session is dropped at the end."""
        _answers(self.url)
        yield self
        for template in (self._migrated, self._walled):
            if template is not None:
                self.drop(template)

    def lend(self, *, template: Callable[[], str] | None = None) -> Iterator[str]:
        """A new database's URL; the database is dropped afterwards, whoever is still connected."""
        name = self.create(template() if template else "template0")
        try:
            yield self.url_of(name)
        finally:
            self.drop(name)

    def lend_walled(self) -> Iterator[walls.Walled]:
        """As `lend`, with row security in force."""
        for url in self.lend(template=self.walled):
            self.execute(
                f'ALTER DATABASE "{urlsplit(url).path[1:]}" OWNER TO {walls.OWNER}'
            )  # a copy is its maker's
            yield walls.Walled(url)

    def migrated(self) -> str:
        """The name of a database that `perdure.storage.migrate` has upgraded, made at the first call."""
        from perdure.storage.migrate import upgrade

        if self._migrated is None:
            name = self.create("template0")
            _in_thread(lambda: upgrade(self.url_of(name)))
            self._migrated = name
        return self._migrated

    def walled(self) -> str:
        """The name of a database with row security in force, made at the first call."""
        if self._walled is None:
            name = self.create("template0")
            _in_thread(lambda: walls.build(self.url_of(name)))
            self._walled = name
        return self._walled

    def create(self, template: str) -> str:
        """Create a database as a copy and give its name."""
        name = f"perdure_test_{uuid4().hex[:12]}"
        self.execute(f'CREATE DATABASE "{name}" TEMPLATE "{template}"')
        return name

    def drop(self, name: str) -> None:
        """Drop a database."""
        self.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')

    def url_of(self, name: str) -> str:
        """The URL of another database of this server."""
        return urlsplit(self.url)._replace(path=f"/{name}").geturl()

    def execute(self, statement: str) -> None:
        """Run one statement outside of a transaction."""
        _in_thread(lambda: asyncio.run(_execute(self.url, statement)))


async def _execute(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg:", "postgresql:"), timeout=10)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


# A server beside a CI job may still be starting.
@retry(
    retry=retry_if_exception_type((OSError, asyncpg.CannotConnectNowError)),
    stop=stop_after_delay(30),
    wait=wait_fixed(0.1),
    reraise=True,
)
def _answers(url: str) -> None:
    _in_thread(lambda: asyncio.run(_execute(url, "SELECT 1")))


@retry(
    retry=retry_if_exception_type(redis.ConnectionError),
    stop=stop_after_delay(30),
    wait=wait_fixed(0.1),
    reraise=True,
)
def _ping(url: str) -> None:
    with redis.Redis.from_url(url) as client:
        client.ping()


def _in_thread(work: Callable[[], T]) -> T:
    """Run something that has an event loop of its own, wherever pytest's loops stand."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(work).result()
