"""Retention in memory."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

import orjson

from perdure.errors import TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage.memory.base import Locked
from perdure.storage.memory.belongings import feedback_of
from perdure.storage.memory.drafts import to_json
from perdure.storage.memory.rows import TaskRow
from perdure.storage.memory.webhooks import delivery_of
from perdure.storage.operators import OperatorAction
from perdure.storage.retention import FIRST, WINDOW, Archive, EndedTask, EndedTasks, Pruned, TaskRecord
from perdure.tasks import TaskState


@dataclass(slots=True)
class Run:
    """Who looks through all tasks, and how far it has come."""

    token: UUID | None = None
    until: datetime | None = None
    place: UUID | None = None
    ended_at: datetime | None = None


class Retention(Locked):
    """See the port."""

    _actions: list[OperatorAction]
    _run: Run

    async def ended_tasks(
        self, *, older_than: float, after: UUID = FIRST, window: int = WINDOW
    ) -> EndedTasks:
        with self._lock:
            now = self._ledger.now()
            ids = sorted(task_id for task_id in self._ledger.tasks if task_id > after)[:window]
            rows = [row for task_id in ids if (row := self._ledger.finished.get(task_id))]
            found = [
                EndedTask(row.task_id, row.state, ago, row.last_seq, row.trimmed)
                for row in rows
                if (ago := (now - row.ended_at).total_seconds()) >= older_than
            ]
            more = len(ids) == window and self._ledger.tasks[ids[-1]].created_at <= now - timedelta(
                seconds=older_than
            )
            return EndedTasks(found, ids[-1] if more else None, len(ids))

    async def weigh_tasks(self, task_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        with self._lock:
            return {row.task_id: row.size for row in self._free(task_ids)}

    async def prune_tasks(
        self,
        task_ids: Sequence[UUID],
        ages: Mapping[TaskState, float],
        *,
        archive: Archive | None = None,
        seconds: float = 1.0,
    ) -> Pruned:
        with self._lock:
            rows = {row.task_id: row for row in self._due(task_ids, ages)}
            records = [] if archive is None else [self._record(row) for row in rows.values()]
        archived = None if archive is None else await _archived(records, archive, seconds)
        with self._lock:
            # What was added to it meanwhile is not in the archive.
            going = [
                row
                for row in self._due(list(rows), ages)
                if archived is None or self._record(row) == archived.get(row.task_id)
            ]
            contexts = sum(self._ledger.drop(row) for row in going)
        left = [] if archived is None else [task_id for task_id in rows if task_id not in archived]
        return Pruned({row.task_id: row.state for row in going}, contexts, tuple(left))

    def _due(self, task_ids: Sequence[UUID], ages: Mapping[TaskState, float]) -> list[TaskRow]:
        now = self._ledger.now()
        return [
            row
            for row in self._free(task_ids)
            if row.state in ages and row.ended_at <= now - timedelta(seconds=ages[row.state])
        ]

    def _free(self, task_ids: Sequence[UUID]) -> list[TaskRow]:
        """Those that may go at all, in the order of their ids."""
        found = (self._ledger.finished.get(task_id) for task_id in sorted(task_ids))
        rows = [row for row in found if row and not row.keys and not _told(row)]
        kept = self._referenced({row.owner for row in rows})
        return [row for row in rows if row.task_id not in kept]

    def _referenced(self, owners: Collection[str]) -> set[UUID | None]:
        open_ones = (row for row in self._ledger.tasks.values() if not row.state.terminal)
        sent = (row.refers_to() for row in open_ones if row.owner in owners)
        return {parse_task_id(reference) for references in sent for reference in references}

    async def trim_tasks(self, task_ids: Sequence[UUID], *, ended_for: float) -> int:
        with self._lock:
            before = self._ledger.now() - timedelta(seconds=ended_for)
            found = (self._ledger.finished.get(task_id) for task_id in task_ids)
            rows = [row for row in found if row and not row.trimmed and row.ended_at <= before]
            due = [row for row in rows if not any(line.parcels for line in row.webhooks.values())]
            for row in due:
                row.trim()
            return len(due)

    async def task_record(self, task_id: UUID) -> TaskRecord:
        with self._lock:
            row = self._ledger.tasks.get(task_id)
            if row is None:
                raise TaskNotFound(task_id)
            return self._record(row)

    def _record(self, row: TaskRow) -> TaskRecord:
        return TaskRecord(
            task=row.task(),
            position=row.place,
            status_seq=row.status_seq,
            events=list(row.events()),
            lost_attempts=sorted(row.lost_attempts),
            workers=dict(row.holders),
            priority=row.priority,
            parallel=row.parallel,
            limits=self._ledger.limits.of(row),
            streamed=row.streamed,
            trimmed=row.trimmed,
            trace_contexts=row.trace_contexts,
            feedback=[feedback_of(*kept) for kept in row.feedback],
            failures=[row.troubles[attempt] for attempt in sorted(row.troubles)],
            deliveries=[
                (delivery_of(line, parcel), list(parcel.records))
                for line in row.webhooks.values()
                for parcel in line.parcels
            ],
        )

    async def restore_task(self, record: TaskRecord) -> bool:
        if not record.task.state.terminal:
            raise ValueError(f"the task is {record.task.state}: only tasks that have ended are put back")
        with self._lock:
            if record.task.task_id in self._ledger.tasks:
                return False
            self._ledger.put_back(_row_of(record, self._ledger.now()), record.limits)
            return True

    async def forget_actions(self, *, older_than: float, limit: int = 1000) -> int:
        with self._lock:
            before = self._ledger.now() - timedelta(seconds=older_than)
            ordered = sorted(self._actions, key=lambda action: action.action_id)
            old = [action for action in ordered if action.created_at and action.created_at < before][:limit]
            for action in old:
                self._actions.remove(action)
            return len(old)

    async def begin_retention(self, token: UUID, *, every: float, lease: float) -> UUID | None:
        with self._lock:
            run, now = self._run, self._ledger.now()
            if run.until is not None and run.until > now:
                return None
            if run.place is None and run.ended_at and run.ended_at > now - timedelta(seconds=every):
                return None
            run.token, run.until = token, now + timedelta(seconds=lease)
            return run.place or FIRST

    async def go_on_with_retention(self, token: UUID, place: UUID | None, *, lease: float) -> bool:
        with self._lock:
            run, now = self._run, self._ledger.now()
            if run.token != token or run.until is None or run.until <= now:
                return False
            run.place = place
            run.until = None if place is None else now + timedelta(seconds=lease)
            run.ended_at = now if place is None else run.ended_at
            return True

    async def retention_age(self) -> float | None:
        with self._lock:
            ended_at = self._run.ended_at
            return None if ended_at is None else (self._ledger.now() - ended_at).total_seconds()


def _told(row: TaskRow) -> bool:
    """Whether something is still to be told to its webhooks."""
    return any(line.head is not None and line.disabled is None for line in row.webhooks.values())


async def _archived(
    records: Iterable[TaskRecord], archive: Archive, seconds: float
) -> Mapping[UUID, TaskRecord]:
    until, done = time.monotonic() + seconds, {}
    for record in records:
        await archive.add(record)
        done[record.task.task_id] = record
        if time.monotonic() > until:
            break
    if done:
        await archive.sync()
    return done


def _row_of(record: TaskRecord, now: datetime) -> TaskRow:
    task = record.task
    row = TaskRow(
        task_id=task.task_id,
        owner=task.owner,
        context_id=task.context_id,
        place=record.position,
        created_at=task.created_at,
        metadata=to_json(dict(task.metadata)),
        due_at=task.created_at,
        dispatched_at=now,
        status_timestamp=task.status_timestamp,
        updated_at=task.updated_at,
        state=task.state,
        status_seq=record.status_seq,
        lost_attempts=set(record.lost_attempts),
        streamed=record.streamed,
        trimmed=record.trimmed,
        trace_contexts=tuple(record.trace_contexts),
        attempt=task.attempt,
        failures=task.failures,
        crashes=task.crashes,
        priority=record.priority,
        parallel=record.parallel,
        limit_keys=tuple(sorted(record.limits)),
        holders=dict(record.workers),
        troubles={failure.attempt: failure for failure in record.failures},
        feedback=[
            (said, orjson.dumps({"text": said.text, "metadata": dict(said.metadata)}))
            for said in record.feedback
        ],
    )
    row.put_log(record.events)
    return row
