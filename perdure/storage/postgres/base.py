"""What every part of `PostgresStorage` does: one statement, with the patience of `Database`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol, TypeVar
from uuid import UUID

from perdure.errors import TaskNotFound
from perdure.storage.postgres.database import Database, T, Work
from perdure.storage.postgres.records import Row
from perdure.storage.postgres.wall import NOBODY


class Owned(Protocol):
    """What is asked for by an owner."""

    @property
    def owner(self) -> str:
        """Whose it is."""


Item = TypeVar("Item", bound=Owned)
Answer = TypeVar("Answer")

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

    async def _by_owner(
        self, items: Sequence[Item], send: Callable[[Sequence[Item], str], Awaitable[Sequence[Answer]]]
    ) -> Sequence[Answer]:
        """The answers for what goes together (see `lanes`): one statement for all of it; with row security one for each owner,
        side by side."""
        if not self._database.row_security:
            return await send(items, NOBODY)
        places: dict[str, list[int]] = {}
        for place, item in enumerate(items):
            places.setdefault(item.owner, []).append(place)
        sent = (send([items[place] for place in own], owner) for owner, own in places.items())
        answers: dict[int, Answer] = {}
        for own, answered in zip(
            places.values(), await asyncio.gather(*sent, return_exceptions=True), strict=True
        ):
            if isinstance(answered, BaseException):
                raise answered
            answers.update(zip(own, answered, strict=True))
        return [answers[place] for place in range(len(items))]

    async def _own(self, owner: str, task_id: UUID) -> None:
        """`TaskNotFound` unless the task is the owner's."""
        if await self._row(OWNS, task_id, owner, owner=owner) is None:
            raise TaskNotFound(task_id)
