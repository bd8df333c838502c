"""Connections to Postgres, and patience with it.

SQLAlchemy keeps the pool (pre-ping: a connection that died in the pool is replaced before anybody uses it); statements go to
asyncpg's own connection beneath it, which costs a tenth of the CPU of building them anew for each call (bench/).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import asyncpg
import sqlalchemy as sa
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_delay,
    wait_random_exponential,
)

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
_HOPELESS = (
    asyncpg.QueryCanceledError,
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
)


class Database:
    """A pool of connections to one database; `run` is the way in."""

    def __init__(self, url: str, settings: StorageSettings, *, row_security: bool = False) -> None:
        self._dsn = normalised(url)
        self._settings = settings
        self.row_security = row_security
        """Whether statements are grouped by owner: an owner's see no rows but the owner's, all others see nobody's."""
        self._engine: AsyncEngine | None = None
        self.where = redacted(self._dsn)
        """`host:port/name`, for messages."""

    def open(self) -> None:
        """Make the pool; connections come with the first use."""
        metrics.POOL_SIZE.set(self._settings.pool_size + self._settings.max_overflow)
        self._engine = create_async_engine(
            "postgresql+asyncpg://",
            async_creator=self.connect,
            isolation_level="AUTOCOMMIT",  # one statement is one transaction; longer ones say so themselves
            pool_pre_ping=True,
            pool_reset_on_return=None,  # nothing is left behind that a reset would undo
            json_deserializer=_as_it_is,
            pool_size=self._settings.pool_size,
            max_overflow=self._settings.max_overflow,
            pool_timeout=self._settings.pool_timeout,
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._engine is not None:
            await self._engine.dispose()
            self._engine = None

    async def connect(self) -> Any:
        """A connection of its own, outside the pool: for the keeper, which must not wait for anybody."""
        settings = self._settings
        return await asyncpg.connect(
            self._dsn,
            timeout=settings.connect_timeout,
            command_timeout=settings.statement_timeout + 5,  # a server that does not answer at all
            server_settings={
                "application_name": "perdure",
                "statement_timeout": f"{settings.statement_timeout * 1000:.0f}",
                "lock_timeout": f"{settings.lock_timeout * 1000:.0f}",
                "idle_in_transaction_session_timeout": f"{settings.statement_timeout * 2000:.0f}",
            },
        )

    async def run(self, work: Work[T], *, owner: str = NOBODY) -> T:
        """Run `work` on a connection, again while the trouble is passing (serialization, deadlock, lost connection).

        `work` is written so that running it again after an unknown end has the effect of running it once. `owner` is whom the
        rows belong to: with row security on, `work` is one transaction that sees no others.
        `StorageUnavailable` when patience is over.
        """
        again = False
        try:
            async for attempt in self._patience():
                with attempt:
                    async with self._connection() as connection:
                        mine, again = again, True
                        if not self.row_security:
                            return await work(connection, mine)
                        async with walled(connection, owner) as narrowed:
                            return await work(narrowed, mine)
        except (*_TRANSIENT, *_HOPELESS, sa.exc.TimeoutError) as error:
            raise StorageUnavailable(
                f"the database at {self.where} does not answer: {_brief(error)}"
            ) from error
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _patience(self) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(passing),
            wait=wait_random_exponential(multiplier=0.02, max=0.5),
            stop=stop_after_delay(self._settings.retry_timeout),
            before_sleep=_tell,
            reraise=True,
        )

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        if self._engine is None:
            raise StorageUnavailable("the storage is not open")
        try:
            async with self._engine.connect() as pooled:
                raw = await pooled.get_raw_connection()
                connection: Any = raw.driver_connection
                try:
                    with metrics.POOL_USED.track_inprogress():
                        yield connection
                except asyncpg.ReadOnlySQLTransactionError:
                    await pooled.invalidate()  # the new primary is another server, behind the same name
                    raise
                except asyncpg.InternalClientError:
                    connection.terminate()
                    raise
                finally:
                    if connection.is_closed():
                        await pooled.invalidate()
        except sa.exc.DBAPIError as error:
            raise undressed(error) from error


def _as_it_is(text: str) -> str:
    """jsonb stays text: most of it is looked at by nobody here."""
    return text


def undressed(error: sa.exc.DBAPIError) -> BaseException:
    """What asyncpg raised. SQLAlchemy 2.1 dresses up what the server says to a new connection, as in `the database system is
    shutting down`; what is said to a standing one passes it by."""
    said = error.orig and error.orig.__cause__
    return said or error


def passing(error: BaseException) -> bool:
    """Whether it is the kind of trouble that passes: a lost connection, a server that restarts, a deadlock."""
    # asyncpg's DataError (a value that does not fit) is an InterfaceError as well: trying again cannot help.
    return isinstance(error, _TRANSIENT) and not isinstance(error, asyncpg.DataError | ValueError)


def _tell(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    said = log.warning if state.attempt_number == 1 else log.debug  # an outage would fill the log
    said("storage.retry", attempt=state.attempt_number, error=_brief(error))


def _brief(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}".split("\n")[0]
