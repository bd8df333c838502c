"""Folding what was streamed, in memory."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice

from perdure.storage.memory.base import Locked


class Folding(Locked):
    """See `Storage`."""

    async def fold_tasks(self, *, ended_for: float, limit: int = 20) -> int:
        with self._lock:
            before = self._ledger.now() - timedelta(seconds=ended_for)
            due = (
                row
                for row in self._ledger.tasks.values()
                if row.streamed and row.state.terminal and not row.held and row.status_timestamp <= before
            )
            rows = list(islice(due, limit))
            for row in rows:
                row.fold()
            return len(rows)
