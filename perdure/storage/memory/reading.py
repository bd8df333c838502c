"""What callers read, in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from datetime import datetime
from uuid import UUID

from perdure.storage import TOTAL_CAP, Cursor, TaskPage, TaskQuery
from perdure.storage.folding import is_inside, whole
from perdure.storage.memory.base import Locked
from perdure.storage.memory.rows import TaskRow
from perdure.tasks import Event, Notice, Task


class Reading(Locked):
    """See the port."""

    async def load_task(self, owner: str, task_id: UUID, *, history_length: int | None = None) -> Task:
        with self._lock:
            return self._ledger.row(owner, task_id).task(history_length)

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        with self._lock:
            found = [row for row in self._in_scope(query) if _matches(row, query)]
            found.sort(key=_task_cursor, reverse=True)
            rest = [row for row in found if query.after is None or _task_cursor(row) < _key(query.after)]
            page = rest[: query.page_size]
            return TaskPage(
                tasks=[row.task(query.history_length, artifacts=query.include_artifacts) for row in page],
                next=Cursor(*_task_cursor(page[-1])) if len(rest) > len(page) else None,
                total=min(len(found), TOTAL_CAP),
            )

    def _in_scope(self, query: TaskQuery) -> Iterable[TaskRow]:
        contexts = self._ledger.contexts.get(query.owner, {})
        if query.context_id is not None:
            contexts = {name: row for name, row in contexts.items() if name == query.context_id}
        return (row for context in contexts.values() for row in context.tasks())

    async def events_since(self, owner: str, task_id: UUID, after: int, limit: int = 1000) -> Sequence[Event]:
        with self._lock:
            row = self._ledger.tasks.get(task_id)
            if row is None or row.owner != owner:
                return []
            events = list(row.events(after, limit))
            if events and is_inside(events[0], after):
                events[0] = whole(events[0], row.events())
            return events

    async def notices(self, task_ids: Collection[UUID]) -> Sequence[Notice]:
        with self._lock:
            rows = ((task_id, self._ledger.tasks.get(task_id)) for task_id in task_ids)
            return [
                Notice(task_id, row.last_seq, row.state) if row else Notice(task_id, 0, None)
                for task_id, row in rows
            ]


def _matches(row: TaskRow, query: TaskQuery) -> bool:
    in_state = query.state is None or row.state is query.state
    return in_state and (query.since is None or row.status_timestamp >= query.since)


def _task_cursor(row: TaskRow) -> tuple[datetime, str]:
    return row.status_timestamp, str(row.task_id)


def _key(cursor: Cursor) -> tuple[datetime, str]:
    return cursor.time, cursor.key
