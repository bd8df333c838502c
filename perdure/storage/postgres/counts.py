"""How many tasks wait or have not ended, up to a cap: read from the indexes alone, which hold no more than what is counted."""

from __future__ import annotations

from perdure.storage import IdempotencyKey, TaskCounts
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.caller_statements import TAKEN_KEY
from perdure.storage.postgres.statements import all_of
from perdure.storage.postgres.wall import NOBODY, across
from perdure.tasks import TaskState

_OPEN = ", ".join(f"'{state}'" for state in TaskState if not state.terminal)

# $1 owner, $2 cap
COUNT_OWN = f"""
SELECT (SELECT count(*) FROM (SELECT FROM tasks WHERE {all_of("$1")} AND state IN ({_OPEN}) LIMIT $2) t) AS open,
       (SELECT count(*) FROM (SELECT FROM tasks WHERE {all_of("$1")} AND state = 'submitted' LIMIT $2) t) AS waiting
"""
# $1 cap. The condition is that of ix_tasks_due.
COUNT_WAITING = across(
    """
SELECT count(*) AS waiting
  FROM (SELECT FROM tasks WHERE state = 'submitted' AND lease_token IS NULL LIMIT $1) t
""",
    "SELECT perdure_count_waiting($1) AS waiting",
)


class Counts(Statements):
    """See `Storage`."""

    async def count_tasks(self, owner: str, *, up_to: int) -> TaskCounts:
        row = await self._row(COUNT_OWN, owner, up_to, owner=owner)
        return TaskCounts(open=row["open"], waiting=row["waiting"]) if row else TaskCounts()

    async def count_waiting(self, *, up_to: int) -> int:
        row = await self._row(COUNT_WAITING, up_to, owner=NOBODY)
        return row["waiting"] if row else 0

    async def knows_key(self, owner: str, key: IdempotencyKey) -> bool:
        return await self._row(TAKEN_KEY, owner, key.key, owner=owner) is not None
