"""What every part of `PostgresStorage` does: one statement, with the patience of `Database`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from perdure.errors import TaskNotFound
from perdure.storage.postgres.database import Database, T, Work
from perdure.storage.postgres.records import Row

OWNS = "SELECT FROM tasks WHERE task_id = $1 AND owner = $2"


class Statements:
    """Single statements: those of callers with their owner, those of workers without."""

    _database: Database
    _of_workers: Database | None
    """The same database as a role that sees the rows of all owners, where it takes another."""

    @property
    def _workers_database(self) -> Database:
        return self._of_workers or self._database

    async def _row(self, statement: str, *arguments: Any, owner: str | None = None) -> Row | None:
        """One of an owner (`NOBODY`: of a front door, about nobody's rows), or of the workers (None)."""

        async def fetch(connection: Any, again: bool) -> Row | None:
            row: Row | None = await connection.fetchrow(statement, *arguments)
            return row

        return await self._run(fetch, owner)

    async def _rows(self, statement: str, *arguments: Any, owner: str | None = None) -> Sequence[Row]:
        """As `_row`."""

        async def fetch(connection: Any, again: bool) -> Sequence[Row]:
            rows: Sequence[Row] = await connection.fetch(statement, *arguments)
            return rows

        return await self._run(fetch, owner)

    async def _run(self, work: Work[T], owner: str | None) -> T:
        if owner is None:
            return await self._workers_database.run(work)
        return await self._database.run(work, owner=owner)

    async def _own(self, owner: str, task_id: UUID) -> None:
        """`TaskNotFound` unless the task is the owner's."""
        if await self._row(OWNS, task_id, owner, owner=owner) is None:
            raise TaskNotFound(task_id)
