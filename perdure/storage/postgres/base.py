"""What every part of `PostgresStorage` does: one statement, with the patience of `Database`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from perdure.errors import TaskNotFound
from perdure.storage.postgres.database import Database
from perdure.storage.postgres.records import Row

OWNS = "SELECT FROM tasks WHERE task_id = $1 AND owner = $2"


class Statements:
    """Single statements on the database."""

    _database: Database

    async def _row(self, statement: str, *arguments: Any) -> Row | None:
        async def fetch(connection: Any, again: bool) -> Row | None:
            row: Row | None = await connection.fetchrow(statement, *arguments)
            return row

        return await self._database.run(fetch)

    async def _rows(self, statement: str, *arguments: Any) -> Sequence[Row]:
        async def fetch(connection: Any, again: bool) -> Sequence[Row]:
            rows: Sequence[Row] = await connection.fetch(statement, *arguments)
            return rows

        return await self._database.run(fetch)

    async def _own(self, owner: str, task_id: UUID) -> None:
        """`TaskNotFound` unless the task is the owner's."""
        if await self._row(OWNS, task_id, owner) is None:
            raise TaskNotFound(task_id)
