"""What sweeps do, in memory: rescue, expire, forget, ring again."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from perdure.owners import ONLY
from perdure.storage import Swept
from perdure.storage.memory.base import Locked
from perdure.storage.memory.drafts import draft
from perdure.storage.memory.rows import TaskRow
from perdure.storage.writes import complete, crashed
from perdure.tasks import Notice, Ring, TaskState


class Sweeps(Locked):
    """See the port."""

    async def rescue_tasks(
        self,
        *,
        grace: float,
        max_crashes: int,
        limit: int = 100,
        as_of: datetime | None = None,
        up_for: float = 0.0,
        agents: Collection[str] | None = None,
    ) -> Swept:
        with self._lock:
            now = as_of or self._ledger.now()
            leases = (
                (row.lease_until, row.task_id)
                for row in self._ledger.held.values()
                if row.lease_until
                and (agents is None or row.agent in agents or not _would_fail(row, max_crashes))
            )
            lapsed = sorted(entry for entry in leases if entry[0] + timedelta(seconds=grace) < now)
            rows = [self._ledger.tasks[task_id] for _, task_id in lapsed[:limit]]
            worked = [row for row in rows if row.state is TaskState.WORKING]
            rings = tuple(ring for row in rows for ring in self._rescue(row, max_crashes))
            return Swept(rings, tuple(Notice(row.task_id, row.last_seq, row.state) for row in worked))

    def _rescue(self, row: TaskRow, max_crashes: int) -> Sequence[Ring]:
        now = self._ledger.now()
        if row.state is TaskState.WORKING:
            row.crashes += 1
            row.lost_attempts.add(row.attempt)
            row.lost_worker(now)
            status = crashed(again=row.crashes < max_crashes)
            if status.message is not None:
                status = replace(status, message=complete(status.message, row.context_id, row.task_id))
            self._ledger.append(row, draft(status), 0, now)
        return self._ledger.let_go(row, now)

    async def expire_tasks(self, *, limit: int = 100) -> Sequence[Notice]:
        with self._lock:
            late = self._ledger.waiting.late(self._ledger.now())
            return [self._ledger.fail_late(row) for row in late[:limit]]

    async def forget_keys(self, *, older_than: float, limit: int = 1000) -> int:
        with self._lock:
            return self._ledger.forget_keys(self._ledger.now() - timedelta(seconds=older_than), limit)

    async def forget_limits(self, *, batch: int = 1000) -> int:
        with self._lock:
            return self._ledger.forget_limits()

    async def stranded(self, *, idle: float, limit: int = 100, agent: str = ONLY) -> Sequence[Ring]:
        with self._lock:
            now = self._ledger.now()
            rows = [row for row in self._ledger.claimable_rows(now, agent) if row.stranded(now, idle)]
            return [Ring(row.task_id, row.dispatch, agent) for row in rows[:limit]]

    async def redispatch(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        with self._lock:
            now = self._ledger.now()
            again = []
            for ring in rings:
                row = self._ledger.tasks.get(ring.task_id)
                if row and row.dispatch == ring.dispatch and self._ledger.claimable(row, now):
                    again.append(self._ledger.dispatched(row, now))
            return again

    async def drop_finished(self, keep: int) -> int:
        with self._lock:
            return self._ledger.drop_finished(keep)


def _would_fail(row: TaskRow, max_crashes: int) -> bool:
    """Whether one crash more is too many."""
    return row.state is TaskState.WORKING and row.crashes + 1 >= max_crashes
