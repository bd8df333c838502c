"""What callers send and cancel, in memory."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from uuid import UUID

from perdure.errors import InvalidParams, TaskNotCancelable, TaskNotFound, UnsupportedOperation
from perdure.storage import Accepted, IdempotencyKey, NewTask, Policy, WebhookConfig
from perdure.storage.memory.base import Locked
from perdure.storage.memory.drafts import draft
from perdure.storage.memory.rows import TaskRow
from perdure.storage.writes import complete
from perdure.tasks import Event, Message, Notice, StatusChange, TaskState


class Sending(Locked):
    """See the port."""

    async def submit_task(self, new: NewTask, *, key: IdempotencyKey | None = None) -> Accepted:
        with self._lock:
            row = self._ledger.taken(new.owner, key) or self._ledger.tasks.get(new.task_id)
            canceled: Sequence[Notice] = ()
            if row is None:
                row = self._ledger.add(new)
                self._ledger.take_key(row, key)
                if new.policy is Policy.INTERRUPT:
                    canceled = [self._interrupt(other) for other in self._under_way(row)]
                self._ledger.line_up(row)
            if row.owner != new.owner:
                raise TaskNotFound(new.task_id)
            accepted = self._accepted(row, row.events(0, 1))
            return replace(accepted, canceled=canceled, repeated=row.task_id != new.task_id)

    def _under_way(self, new: TaskRow) -> list[TaskRow]:
        """What waits or runs in the context before `new`."""
        rows = self._ledger.context_of(new).tasks()
        return [row for row in rows if row.waiting and not row.parallel and row is not new]

    def _interrupt(self, row: TaskRow) -> Notice:
        event = draft(StatusChange(TaskState.CANCELED, metadata={"reason": "interrupted"}))
        self._ledger.append(row, event, 0, self._ledger.now())
        if not row.held:
            self._ledger.finish(row)
        return Notice(row.task_id, row.last_seq, row.state)

    async def continue_task(
        self,
        owner: str,
        task_id: UUID,
        message: Message,
        *,
        key: IdempotencyKey | None = None,
        webhooks: Sequence[WebhookConfig] = (),
        trace_context: str = "",
    ) -> Accepted:
        with self._lock:
            if taken := self._ledger.taken(owner, key):
                return Accepted(taken.bare_task(), None, repeated=True)
            row = self._ledger.row(owner, task_id)
            if message.context_id not in ("", row.context_id):
                raise InvalidParams("message.contextId", f"the task belongs to the context {row.context_id}")
            if row.state.terminal:
                raise UnsupportedOperation(f"the task is {row.state} and takes no more messages")
            now = self._ledger.now()
            row.append(draft(complete(message, row.context_id, row.task_id)), 0, now)
            row.trace(trace_context)
            self._ledger.take_key(row, key)
            self._ledger.touch(owner, row.context_id, now)
            heard = row.events(row.last_seq - 1, 1)
            if row.state is TaskState.WORKING:
                row.unread = True
            elif row.state.interrupted:
                self._ledger.append(row, draft(StatusChange(TaskState.SUBMITTED)), 0, now)
                row.due_at = now
                self._ledger.line_up(row)
            for config in webhooks:
                self._ledger.add_webhook(row, config)
            return self._accepted(row, heard)

    async def cancel_task(self, owner: str, task_id: UUID, message: Message | None = None) -> Accepted:
        with self._lock:
            row = self._ledger.row(owner, task_id)
            if row.state.terminal:
                raise TaskNotCancelable(f"the task is {row.state} already")
            said = complete(message, row.context_id, task_id) if message else None
            event = draft(StatusChange(TaskState.CANCELED, said))
            context = self._ledger.context_of(row)
            was_first = context.first() is row
            self._ledger.append(row, event, 0, self._ledger.now())
            rings = self._ledger.wake(context) if was_first else ()
            if not row.held:
                self._ledger.finish(row)
            return Accepted(row.bare_task(), next(iter(rings), None))

    def _accepted(self, row: TaskRow, stored: Iterable[Event] = ()) -> Accepted:
        messages = [event.body for event in stored if isinstance(event.body, Message)]
        return Accepted(row.bare_task(messages), self._ledger.ring(row))
