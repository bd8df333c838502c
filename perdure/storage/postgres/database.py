"""Connections to Postgres, and patience with it.

The pool is asyncpg's own. A connection that died in it is noticed when it is next used, and the work is passed to another one, as
it is when a connection dies in mid-work: nothing is asked of a connection before it is used.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import asyncpg
import structlog

from perdure import metrics
from perdure.errors import StorageUnavailable
from perdure.settings import StorageSettings
from perdure.storage.dsn import normalised, redacted
from perdure.storage.postgres.wall import NOBODY, walled

log = structlog.get_logger(__name__)

T = TypeVar("T")
Connection = asyncpg.Connection  # its rows are asyncpg.Record
Work = Callable[[Any, bool], Awaitable[T]]
"""What runs on a connection; the flag says that it ran before and nobody knows how that ended."""

_TRANSIENT = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.PostgresConnectionError,
    asyncpg.CannotConnectNowError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InsufficientResourcesError,  # too many connections, a full disk, no memory
    asyncpg.PostgresSystemError,  # an I/O error
    asyncpg.ReadOnlySQLTransactionError,  # a primary that has become a standby
    asyncpg.InvalidCachedStatementError,  # a migration changed a table beneath a prepared statement
    asyncpg.InterfaceError,
    # The server has said goodbye and not hung up yet: asyncpg then cannot send anything, and calls that an error of its own.
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
_STATEMENTS = 200
"""Prepared statements that a connection remembers."""
PLANS = {
    # What runs here reads a few rows by an index. A plan that was made while a table was small, or knows nothing of its size yet,
    # must not read the whole of it later; and compiling a plan takes longer than running it.
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_bitmapscan": "off",
    "jit": "off",
    # Making a plan takes longer too, and none of them gets better by knowing the values: a statement whose conditions may be left
    # out is a text for each set of conditions.
    "plan_cache_mode": "force_generic_plan",
}
_HOPELESS = (
    asyncpg.QueryCanceledError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


_IDLE_SECONDS = 60.0
"""After so long without use a connection is closed; the next use makes a new one."""
_LONGEST_PAUSE = 0.5
_GOODBYE_SECONDS = 0.5


class Database:
    """A pool of connections to one database; `run` is the way in."""

    def __init__(self, url: str, settings: StorageSettings, *, row_security: bool = False) -> None:
        self._dsn = normalised(url)
        self._settings = settings
        self.row_security = row_security
        """Whether statements are grouped by owner: an owner's see no rows but the owner's, all others see nobody's."""
        self._pool: Any = None
        self.where = redacted(self._dsn)
        """`host:port/name`, for messages."""

    def open(self) -> None:
        """Make the pool; connections come with the first use."""
        metrics.POOL_SIZE.set(self._settings.pool_size + self._settings.max_overflow)
        self._pool = asyncpg.create_pool(
            connect=lambda *_, **__: self.connect(),
            min_size=0,
            max_size=self._settings.pool_size + self._settings.max_overflow,
            max_queries=2**31,
            max_inactive_connection_lifetime=_IDLE_SECONDS,
            reset=_leave_it,
        )

    async def close(self) -> None:
        """Close every connection. What runs on one is given a moment."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(_GOODBYE_SECONDS):
                await pool  # one that was never used is not complete
                await pool.close()

    async def connect(self) -> Any:
        """A connection of its own, outside the pool: for the keeper, which must not wait for anybody."""
        settings = self._settings
        return await asyncpg.connect(
            self._dsn,
            timeout=settings.connect_timeout,
            command_timeout=settings.statement_timeout + 5,  # a server that does not answer at all
            statement_cache_size=_STATEMENTS if settings.prepared_statements else 0,
            server_settings={
                "application_name": "perdure",
                **(self._session if settings.prepared_statements else {}),
            },
        )

    @property
    def _session(self) -> dict[str, str]:
        settings = self._settings
        return {
            "statement_timeout": f"{settings.statement_timeout * 1000:.0f}",
            "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
            "idle_in_transaction_session_timeout": f"{settings.statement_timeout * 2000:.0f}",
            **PLANS,
        }

    async def run(self, work: Work[T], *, owner: str = NOBODY) -> T:
        """Run `work` on a connection, again while the trouble is passing (serialization, deadlock, lost connection).

        `work` is written so that running it again after an unknown end has the effect of running it once. `owner` is whom the
        rows belong to: with row security on, `work` is one transaction that sees no others.
        `StorageUnavailable` when patience is over. What Postgres does not take for its value is a `ValueError`.
        """
        again, tries = False, 0
        until = time.monotonic() + self._settings.retry_timeout
        while True:
            try:
                async with self._connection() as connection:
                    mine, again = again, True
                    if not self.row_security:
                        return await work(connection, mine)
                    begun = not self._settings.prepared_statements
                    async with walled(connection, owner, begun=begun) as narrowed:
                        return await work(narrowed, mine)
            except (*_TRANSIENT, *_HOPELESS) as error:
                if isinstance(error, ValueError):
                    raise
                if not passing(error) or time.monotonic() > until:
                    said = f"the database at {self.where} does not answer: {_brief(error)}"
                    raise StorageUnavailable(said) from error
                tries += 1
                said = log.warning if tries == 1 else log.debug  # an outage would fill the log
                said("storage.retry", attempt=tries, error=_brief(error))
            await asyncio.sleep(random.uniform(0, min(0.01 * 2 ** min(tries, 10), _LONGEST_PAUSE)))  # noqa: S311

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        pool = self._pool
        if pool is None:
            raise StorageUnavailable("the storage is not open")
        connection = await self._acquired(pool)
        try:
            with metrics.POOL_USED.track_inprogress():
                if self._settings.prepared_statements:
                    yield connection
                else:
                    async with self._together(connection):
                        yield connection
        except (asyncpg.ReadOnlySQLTransactionError, asyncpg.InternalClientError):
            connection.terminate()  # the new primary is another server, behind the same name
            raise
        finally:
            await pool.release(connection)

    async def _acquired(self, pool: Any) -> Any:
        try:
            async with asyncio.timeout(self._settings.pool_timeout) as waiting:
                await pool  # makes it complete, once
                return await pool.acquire()
        except TimeoutError:
            if not waiting.expired():
                raise
            raise StorageUnavailable(
                f"no connection to the database at {self.where} was free in time"
            ) from None

    @asynccontextmanager
    async def _together(self, connection: Any) -> AsyncIterator[None]:
        """One transaction, all of whose statements meet the same server: behind a PgBouncer that knows no prepared statements, a
        statement and its parameters would else go to different ones. What a session is told elsewhere is told here."""
        async with connection.transaction():
            await connection.execute(
                "".join(f"SET LOCAL {name} = '{value}';" for name, value in self._session.items())
            )
            yield


async def _leave_it(connection: Any) -> None:
    """Nothing is left behind on a connection that a reset would undo."""


def passing(error: BaseException) -> bool:
    """Whether it is the kind of trouble that passes: a lost connection, a server that restarts, a deadlock."""
    # asyncpg's DataError (a value that does not fit) is an InterfaceError as well: trying again cannot help.
    return isinstance(error, _TRANSIENT) and not isinstance(error, asyncpg.DataError | ValueError)


def _brief(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]
