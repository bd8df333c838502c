"""MemoryStorage: every guarantee of the port inside one process. The model that PostgresStorage must agree with.

One lock is held for the whole of each method, which never awaits while holding it: a method is a transaction. It is a thread's
lock since the keeper renews from a thread of its own. Whatever could be refused (a stale claim, a value that cannot be stored)
is looked at before the first change, so that nothing is half-written.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

from perdure.errors import (
    InvalidParams,
    LeaseLost,
    TaskNotCancelable,
    TaskNotFound,
    UnsupportedOperation,
)
from perdure.owners import ONLY
from perdure.storage import (
    TOTAL_CAP,
    Accepted,
    Claim,
    ClaimedTurn,
    Cursor,
    Held,
    IdempotencyKey,
    Keeper,
    NewTask,
    Policy,
    Swept,
    TaskPage,
    TaskQuery,
    WebhookConfig,
    Written,
)
from perdure.storage.folding import is_inside, whole
from perdure.storage.keeper import Renew, ThreadKeeper
from perdure.storage.memory.belongings import Belongings
from perdure.storage.memory.contexts import Contexts
from perdure.storage.memory.counts import Counts
from perdure.storage.memory.folding import Folding
from perdure.storage.memory.keys import Keys
from perdure.storage.memory.ledger import Ledger
from perdure.storage.memory.operators import Operators, Sign
from perdure.storage.memory.retention import Retention, Run
from perdure.storage.memory.rows import TaskRow, draft, merged, to_json
from perdure.storage.memory.webhooks import Webhooks
from perdure.storage.operators import OperatorAction, WorkerBeat
from perdure.storage.writes import YIELDS_TO_UNREAD, bodies, complete, crashed, ends_turn
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    Event,
    Message,
    Notice,
    Ring,
    StatusChange,
    Task,
    TaskState,
)


class MemoryStorage(Contexts, Belongings, Counts, Folding, Keys, Operators, Retention, Webhooks):
    """See `Storage`. Beyond `finished_tasks` ended tasks the oldest are dropped, with contexts that hold nothing else.
    `clock` tells the time, in UTC."""

    def __init__(
        self,
        *,
        finished_tasks: int = 10_000,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lock = threading.Lock()
        self._ledger = Ledger(finished_tasks, clock)
        self._keys = {}
        self._workers: dict[str, Sign] = {}
        self._actions: list[OperatorAction] = []
        self._run = Run()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def check(self) -> datetime:
        return self._ledger.now()

    # ------------------------------------------------------------------ callers

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

    # ------------------------------------------------------------------ workers

    async def claim_task(
        self, holder: str, token: UUID, *, lease: float, history: int = 200, agent: str = ONLY
    ) -> ClaimedTurn | None:
        with self._lock:
            mine = self._held_with(token)
            row = mine or self._take(holder, token, lease, agent)
            if row is None:
                return None
            row.unread = False
            said = self._ledger.context_of(row).said(row.place, history)
            ends = row.deadline_at
            deadline = None if ends is None else (ends - self._ledger.now()).total_seconds()
            return ClaimedTurn(
                claim=row.claim(token),
                task=row.task(history),
                conversation=said,
                steps=row.stored_steps(),
                deadline=deadline,
                trace_contexts=row.trace_contexts,
                again=mine is not None,
            )

    def _held_with(self, token: UUID) -> TaskRow | None:
        return next((row for row in self._ledger.held.values() if row.token == token), None)

    def _take(self, holder: str, token: UUID, lease: float, agent: str) -> TaskRow | None:
        now = self._ledger.now()
        row = self._ledger.best(now, agent)
        if row is None:
            return None
        row.attempt += 1
        row.holder, row.token, row.write_no = holder, token, 0
        row.holders[row.attempt] = holder
        row.lease_until = now + timedelta(seconds=lease)
        self._ledger.append(row, draft(StatusChange(TaskState.WORKING)), row.attempt, now)
        self._ledger.hold(row)
        return row

    async def renew_claims(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        with self._lock:
            until = self._ledger.now() + timedelta(seconds=lease)
            return {claim: self._renew(claim, until) for claim in claims}

    def _renew(self, claim: Claim, until: datetime) -> Held:
        row = self._ledger.tasks.get(claim.task_id)
        held = row.standing(claim) if row else Held.LOST
        if row and held is not Held.LOST:
            row.lease_until = until
        return held

    async def update_task(
        self,
        claim: Claim,
        write_no: int,
        *,
        state: TaskState | None = None,
        status_message: Message | None = None,
        status_metadata: Mapping[str, object] | None = None,
        new_messages: Sequence[Message] = (),
        new_artifacts: Sequence[Artifact | ArtifactChunk] = (),
        metadata: Mapping[str, object] | None = None,
    ) -> Written:
        ends = ends_turn(state)
        with self._lock:
            row = self._fenced(claim, write_no)
            if row.write_no == write_no:
                return self._written(row)
            if row.unread and state in YIELDS_TO_UNREAD:
                state = TaskState.SUBMITTED
            drafts = [draft(body) for body in bodies(new_messages, new_artifacts)]
            if ends or status_message or status_metadata:
                status = StatusChange(state or TaskState.WORKING, status_message, status_metadata or {})
                drafts.append(draft(status))
            changed_metadata = merged(row.metadata, metadata)
            now = self._ledger.now()
            for event in drafts:
                self._ledger.append(row, event, row.attempt, now)
            row.metadata, row.write_no, row.updated_at = changed_metadata, write_no, now
            if not ends:
                row.streamed |= bool(new_artifacts)
                return Written(row.state, row.last_seq)
            row.steps.clear()
            rings = self._ledger.let_go(row, now)
            return Written(row.state, row.last_seq, rings)

    def _fenced(self, claim: Claim, write_no: int) -> TaskRow:
        """The claim's row, if the claim may write or its write `write_no` has been kept already."""
        row = self._ledger.tasks.get(claim.task_id)
        if row is None:
            raise LeaseLost(canceled=False)
        if row.standing(claim) is Held.YES or (row.is_of(claim) and row.write_no == write_no):
            return row
        raise LeaseLost(canceled=row.attempt == claim.attempt and row.state is TaskState.CANCELED)

    def _written(self, row: TaskRow) -> Written:
        """The answer to a write that came a second time."""
        ring = self._ledger.ring(self._ledger.context_of(row).first())
        return Written(row.state, row.last_seq, (ring,) if ring else ())

    async def release_task(
        self,
        claim: Claim,
        *,
        reason: str,
        failed: bool = False,
        delay: float = 0.0,
        metadata: Mapping[str, object] | None = None,
    ) -> Sequence[Ring]:
        told = {"reason": reason, **(metadata or {})}
        with self._lock:
            row = self._ledger.tasks.get(claim.task_id)
            if row is None or row.standing(claim) is Held.LOST:
                return ()
            now = self._ledger.now()
            if row.state is TaskState.WORKING:
                changed_metadata = merged(row.metadata, metadata)
                status = StatusChange(TaskState.SUBMITTED, metadata=told)
                self._ledger.append(row, draft(status), 0, now)
                row.metadata = changed_metadata
                row.lost_attempts.add(row.attempt)
                row.failures += failed
            return self._ledger.let_go(row, now + timedelta(seconds=delay))

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: object) -> None:
        kept = to_json(result)
        with self._lock:
            row = self._ledger.tasks.get(claim.task_id)
            if row is None or row.standing(claim) is not Held.YES:
                raise LeaseLost(canceled=row is not None and row.state is TaskState.CANCELED)
            row.steps.setdefault((name, occurrence), kept)

    # ------------------------------------------------------------------ sweeps

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

    # ------------------------------------------------------------------ workers' signs of life

    async def beat(self, beat: WorkerBeat) -> bool:
        with self._lock:
            now = self._ledger.now()
            known = self._workers.get(beat.worker_id)
            self._workers[beat.worker_id] = Sign(
                beat, now, known.started if known else now, known.asked_to_drain if known else False
            )
            return self._workers[beat.worker_id].asked_to_drain

    async def forget_worker(self, worker_id: str) -> None:
        with self._lock:
            self._workers.pop(worker_id, None)

    async def workers_alive(self, within: float, *, agent: str | None = None) -> int:
        with self._lock:
            since = self._ledger.now() - timedelta(seconds=within)
            alive = [
                sign.beat for sign in self._workers.values() if sign.time >= since and not sign.beat.draining
            ]
            return sum(agent is None or agent in beat.agents for beat in alive)

    def keeper(self, *, lease: float) -> Keeper:

        @asynccontextmanager
        async def connect() -> AsyncIterator[Renew]:
            yield self.renew_claims

        return ThreadKeeper(connect, lease=lease)


def _would_fail(row: TaskRow, max_crashes: int) -> bool:
    """Whether one crash more is too many."""
    return row.state is TaskState.WORKING and row.crashes + 1 >= max_crashes


def _matches(row: TaskRow, query: TaskQuery) -> bool:
    in_state = query.state is None or row.state is query.state
    return in_state and (query.since is None or row.status_timestamp >= query.since)


def _task_cursor(row: TaskRow) -> tuple[datetime, str]:
    return row.status_timestamp, str(row.task_id)


def _key(cursor: Cursor) -> tuple[datetime, str]:
    return cursor.time, cursor.key
