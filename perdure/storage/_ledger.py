"""The rows of `MemoryStorage`, found by id, and the rules that need more than one row: who may run when, and what an end frees.

Nothing here locks: `MemoryStorage` does, around each of its methods.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from uuid import UUID

from perdure.errors import ContextNotFound, TaskNotFound
from perdure.storage import NewTask
from perdure.storage._rows import ContextRow, TaskRow, draft, to_json
from perdure.storage.writes import complete
from perdure.tasks import Ring, TaskState


class Ledger:
    """Everything that is stored about contexts and tasks."""

    def __init__(self, finished_tasks: int) -> None:
        self.contexts: dict[str, dict[str, ContextRow]] = {}  # by owner, then by context id
        self.tasks: dict[UUID, TaskRow] = {}
        self.held: dict[UUID, TaskRow] = {}
        self.finished: OrderedDict[UUID, TaskRow] = OrderedDict()  # ended and let go, in the order of that
        # What may be claimed, longest due first. An entry is believed only after a look at its row: one that no longer holds
        # is dropped when it comes up, and `wake` makes a new one as soon as the task can be claimed again.
        self._ready: list[tuple[datetime, UUID]] = []
        self._finished_tasks = finished_tasks
        self._newest = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The storage's clock. No two readings are equal, so that whatever is sorted by time has one order."""
        self._newest = max(datetime.now(UTC), self._newest + timedelta(microseconds=1))
        return self._newest

    # ------------------------------------------------------------------ rows

    def row(self, owner: str, task_id: UUID) -> TaskRow:
        """`TaskNotFound`."""
        row = self.tasks.get(task_id)
        if row is None or row.owner != owner:
            raise TaskNotFound(task_id)
        return row

    def context(self, owner: str, context_id: str) -> ContextRow:
        """`ContextNotFound`."""
        context = self.contexts.get(owner, {}).get(context_id)
        if context is None:
            raise ContextNotFound(context_id)
        return context

    def context_of(self, row: TaskRow) -> ContextRow:
        """Every task has one."""
        return self.contexts[row.owner][row.context_id]

    def touch(self, owner: str, context_id: str, now: datetime) -> ContextRow:
        """A caller adds to a context: it is made where it is missing."""
        contexts = self.contexts.setdefault(owner, {})
        context = contexts.setdefault(context_id, ContextRow(owner, context_id, now, now))
        context.updated_at = now
        return context

    def add(self, new: NewTask) -> TaskRow:
        """A new task, at the next place of its context."""
        message = draft(complete(new.message, new.context_id, new.task_id))
        metadata = to_json(dict(new.metadata))
        now = self.now()
        context = self.touch(new.owner, new.context_id, now)
        row = TaskRow(
            task_id=new.task_id,
            owner=new.owner,
            context_id=new.context_id,
            place=context.next_place(),
            metadata=metadata,
            created_at=now,
            updated_at=now,
            status_timestamp=now,
            due_at=now,
            dispatched_at=now,
        )
        row.append(message, 0, now)
        self.tasks[row.task_id] = row
        context.entries.append(row)
        self.line_up(row, now)
        return row

    # ------------------------------------------------------------------ who may run when

    def claimable(self, row: TaskRow, now: datetime) -> bool:
        """Submitted, due, first in its context, and no other turn of the context running."""
        context = self.context_of(row)
        is_due = row.state is TaskState.SUBMITTED and row.due_at <= now
        return is_due and context.slot is None and context.first() is row

    def claimable_rows(self, now: datetime) -> list[TaskRow]:
        """All of them, longest due first."""
        rows = {task_id: self.tasks[task_id] for _, task_id in self._ready if task_id in self.tasks}
        return sorted((row for row in rows.values() if self.claimable(row, now)), key=lambda row: row.due_at)

    def longest_due(self, now: datetime) -> TaskRow | None:
        """The task to claim; it is no longer offered."""
        while self._ready and self._ready[0][0] <= now:
            due_at, task_id = heappop(self._ready)
            row = self.tasks.get(task_id)
            if row and row.due_at == due_at and self.claimable(row, now):
                return row
        return None

    def line_up(self, row: TaskRow, due_at: datetime) -> None:
        """A turn of it is due at `due_at`; it waits at its own place. Behind others it changes nothing for them: whoever is first
        has been rung for."""
        row.due_at = due_at
        context = self.context_of(row)
        context.line_up(row)
        if context.first() is row:
            self.wake(context)

    def wake(self, context: ContextRow) -> Sequence[Ring]:
        """The context's line or its slot changed: let whoever is first be claimed, and ring for it if it is due."""
        first = context.first()
        if first is None or context.slot is not None:
            return ()
        heappush(self._ready, (first.due_at, first.task_id))
        now = self.now()
        return (self.dispatched(first, now),) if self.claimable(first, now) else ()

    def dispatched(self, row: TaskRow, now: datetime) -> Ring:
        """A new ring for it."""
        row.dispatch += 1
        row.dispatched_at = now
        return Ring(row.task_id, row.dispatch)

    def ring(self, row: TaskRow | None) -> Ring | None:
        """The ring that was given for it, given again while it can be claimed."""
        return Ring(row.task_id, row.dispatch) if row and self.claimable(row, self.now()) else None

    # ------------------------------------------------------------------ the end of a turn, and of a task

    def let_go(self, row: TaskRow, due_at: datetime) -> Sequence[Ring]:
        """Nobody holds it any more: its context's slot is free, and if it is submitted it is due at `due_at`."""
        context = self.context_of(row)
        row.lease_until, context.slot = None, None
        del self.held[row.task_id]
        if row.waiting:
            row.due_at = due_at
            context.line_up(row)
        rings = self.wake(context)
        if row.state.terminal:
            self.finish(row)
        return rings

    def forget(self, row: TaskRow) -> None:
        """Its context is gone, and it goes with it."""
        for rows in (self.tasks, self.held, self.finished):
            rows.pop(row.task_id, None)

    def finish(self, row: TaskRow) -> None:
        """It has ended and nobody holds it."""
        self.finished[row.task_id] = row
        self.drop_finished(self._finished_tasks)

    def drop_finished(self, keep: int) -> int:
        """Delete the oldest finished tasks beyond `keep`, and the contexts that hold nothing any more; how many tasks went."""
        surplus = max(len(self.finished) - keep, 0)
        for _ in range(surplus):
            task_id, row = self.finished.popitem(last=False)
            del self.tasks[task_id]
            context = self.context_of(row)
            context.remove(row)
            if not context.entries and context.metadata == b"{}":
                del self.contexts[row.owner][row.context_id]
        return surplus
