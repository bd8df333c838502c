"""The second wall: with row security on, the statements of a caller run in a transaction that sees this owner's rows alone.

The first wall is the owner in every WHERE. This one holds where that was forgotten: Postgres itself shows the front door's role
no rows but those of the owner in `perdure.owner`, which is set for one transaction. The policies stand in
`perdure.storage.schema`; `perdure.storage.row_security` puts them into force.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

import asyncpg

# In one message, and in hex: a simple query takes no parameters.
_SET = "SELECT set_config('perdure.owner', convert_from(decode('{}', 'hex'), 'UTF8'), true)"

NOBODY = ""
"""In the place of an owner: the statement is about no owner's rows."""

_ACROSS: dict[str, str] = {}


def across(plain: str, narrow: str) -> str:
    """A part of a statement that looks at the rows of all owners. With row security on it is replaced by a call to a function
    that tells no more than is needed; without, it is as it stands."""
    _ACROSS[plain] = narrow
    return plain


@cache
def _narrowed(statement: str) -> str:
    for plain, narrow in _ACROSS.items():
        statement = statement.replace(plain, narrow)
    return statement


class Walled:
    """A connection of a front door, for what is about nobody's rows: it sees those of no owner."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    async def fetch(self, statement: str, *arguments: Any) -> Any:
        """All rows."""
        return await self._connection.fetch(_narrowed(statement), *arguments)

    async def fetchrow(self, statement: str, *arguments: Any) -> Any:
        """The first row or None."""
        return await self._connection.fetchrow(_narrowed(statement), *arguments)

    async def fetchval(self, statement: str, *arguments: Any) -> Any:
        """The first value or None."""
        return await self._connection.fetchval(_narrowed(statement), *arguments)

    async def execute(self, statement: str, *arguments: Any) -> Any:
        """What it did."""
        return await self._connection.execute(_narrowed(statement), *arguments)

    def transaction(self) -> Any:
        """As asyncpg's own."""
        return self._connection.transaction()


class _Owned(Walled):
    """A connection within an owner's transaction."""

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """A part of the transaction that can be undone alone."""
        await self._connection.execute("SAVEPOINT part")
        done = False
        try:
            yield
            done = True
        finally:
            await self._connection.execute(f"{'RELEASE' if done else 'ROLLBACK TO'} SAVEPOINT part")


@asynccontextmanager
async def walled(connection: Any, owner: str, *, begun: bool = False) -> AsyncIterator[Walled]:
    """The connection as a front door may use it: in a transaction of its own that sees the rows of `owner` alone, or in the one
    that has `begun`."""
    setting = _SET.format(owner.encode().hex())
    if owner == NOBODY or begun:
        if begun:
            await connection.execute(setting)
        yield Walled(connection)
        return
    try:
        await connection.execute(f"BEGIN; {setting}")
        yield _Owned(connection)
        await connection.execute("COMMIT")
    except BaseException:
        await _roll_back(connection)
        raise


async def _roll_back(connection: Any) -> None:
    done = False
    try:
        await connection.execute("ROLLBACK")
        done = True
    except (
        asyncpg.PostgresError,
        asyncpg.InterfaceError,
        asyncpg.InternalClientError,
        OSError,
        TimeoutError,
    ):
        pass  # why it came to this is raised by who calls
    finally:
        if not done:
            connection.terminate()  # nobody else gets a connection with this transaction in it
