"""How many tasks wait or have not ended in memory, up to a cap."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from perdure.storage import IdempotencyKey, TaskCounts
from perdure.storage.memory.base import Locked
from perdure.storage.memory.rows import TaskRow
from perdure.tasks import TaskState


class Counts(Locked):
    """See `Storage`."""

    async def count_tasks(self, owner: str, *, up_to: int) -> TaskCounts:
        with self._lock:
            rows = [
                row for row in self._ledger.tasks.values() if row.owner == owner and not row.state.terminal
            ]
            waiting = _capped((row for row in rows if row.state is TaskState.SUBMITTED), up_to)
            return TaskCounts(open=min(len(rows), up_to), waiting=waiting)

    async def count_waiting(self, *, up_to: int) -> int:
        with self._lock:
            return min(self._ledger.waiting.number, up_to)

    async def knows_key(self, owner: str, key: IdempotencyKey) -> bool:
        with self._lock:
            return (owner, key.key) in self._ledger.keys


def _capped(rows: Iterable[TaskRow], up_to: int) -> int:
    return sum(1 for _ in islice(rows, up_to))
