"""The rows of `MemoryStorage`, found by id, and the rules that need more than one row: who may run when, and what an end frees.

Nothing here locks: `MemoryStorage` does, around each of its methods.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from heapq import heappop, heappush
from itertools import islice, takewhile
from uuid import UUID

from perdure.errors import ContextBusy, ContextNotFound, KeyReused, TaskNotFound
from perdure.storage import IdempotencyKey, NewTask, Policy
from perdure.storage.memory.conversations import ContextRow
from perdure.storage.memory.drafts import Draft, draft, to_json
from perdure.storage.memory.limits import Limits
from perdure.storage.memory.outbox import Line, Outbox, Parcel, is_told
from perdure.storage.memory.rows import TaskRow
from perdure.storage.memory.waiting import Waiting
from perdure.storage.retention import OLDER_PLACES
from perdure.storage.webhooks import WebhookConfig, endpoint_of
from perdure.storage.writes import complete, expired
from perdure.tasks import Notice, Ring, TaskState


@dataclass(frozen=True, slots=True)
class UsedKey:
    """What an idempotency key was used for."""

    fingerprint: str
    task_id: UUID
    time: datetime


class Ledger:
    """Everything that is stored about contexts and tasks."""

    def __init__(self, finished_tasks: int, clock: Callable[[], datetime]) -> None:
        self._clock = clock
        self.contexts: dict[str, dict[str, ContextRow]] = {}  # by owner, then by context id
        self.tasks: dict[UUID, TaskRow] = {}
        self.held: dict[UUID, TaskRow] = {}
        self.finished: OrderedDict[UUID, TaskRow] = OrderedDict()  # ended and let go, in the order of that
        self.keys: dict[tuple[str, str], UsedKey] = {}  # by owner and key, oldest first
        self.waiting = Waiting()
        self.outbox = Outbox()
        self.limits = Limits()
        # What may be claimed: by due time until that has come, then best first, for each agent. An entry is believed only after
        # a look at its row: one that no longer holds is dropped when it comes up, and `offer` makes a new one as soon as the
        # task can be claimed again.
        self._later: list[tuple[datetime, UUID]] = []
        self._ready: dict[str, list[tuple[int, int, datetime, UUID]]] = {}
        self._finished_tasks = finished_tasks
        self._newest = datetime.min.replace(tzinfo=UTC)

    def now(self) -> datetime:
        """The storage's clock. No two readings are equal, so that whatever is sorted by time has one order."""
        self._newest = max(self._clock(), self._newest + timedelta(microseconds=1))
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
        """A new task, at the next place of its context; it is not lined up yet. `ContextBusy`."""
        message = draft(complete(new.message, new.context_id, new.task_id))
        metadata = to_json(dict(new.metadata))
        if new.policy is Policy.REJECT and self._busy(new.owner, new.context_id):
            raise ContextBusy(new.context_id)
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
            due_at=_after(now, new.delay),
            dispatched_at=now,
            priority=new.priority,
            rank=self.waiting.next_rank(new.owner, new.priority),
            parallel=new.policy is Policy.PARALLEL,
            limit_keys=tuple(sorted(new.limits)),
            expires_at=None if new.expires is None else _after(now, new.expires),
            deadline_at=None if new.deadline is None else _after(now, new.deadline),
        )
        self.limits.allow(new.limits)
        row.append(message, 0, now)
        row.trace(new.trace_context)
        self.tasks[row.task_id] = row
        context.entries.append(row)
        self.waiting.add(row)
        for config in new.webhooks:
            self.add_webhook(row, config)
        return row

    def _busy(self, owner: str, context_id: str) -> bool:
        context = self.contexts.get(owner, {}).get(context_id)
        return context is not None and (context.slot is not None or context.first() is not None)

    def append(self, row: TaskRow, event: Draft, attempt: int, now: datetime) -> None:
        """The next event of a task, which may make it wait or wait no longer."""
        waited = row.state is TaskState.SUBMITTED
        row.append(event, attempt, now)
        waits = row.state is TaskState.SUBMITTED
        if waits and not waited:
            self.waiting.add(row)
        elif waited and not waits:
            self.waiting.remove(row)
        if row.webhooks and is_told(event.body):
            for line in row.webhooks.values():
                line.parcels.append(Parcel(row.last_seq, event.kind, now))
                if line.disabled is None and line.due_at is None:
                    line.due_at = now

    def add_webhook(self, row: TaskRow, config: WebhookConfig) -> None:
        """A new line of deliveries; or the one with its id goes on with a new address, enabled, and is due at once."""
        config = replace(config, endpoint=endpoint_of(row.owner, config))
        line = row.webhooks.get(config.config_id)
        if line is None:
            line = row.webhooks[config.config_id] = Line(row.owner, config)
            self.outbox.lines[row.task_id, config.config_id] = line
            return
        line.config, line.disabled, line.failing_since, line.due_at = config, None, None, self.now()

    # ------------------------------------------------------------------ idempotency keys

    def taken(self, owner: str, key: IdempotencyKey | None) -> TaskRow | None:
        """The task that a key stands for, if it was used before. `KeyReused`."""
        used = self.keys.get((owner, key.key)) if key else None
        if key is None or used is None:
            return None
        if used.fingerprint != key.fingerprint:
            raise KeyReused(key.key)
        return self.tasks[used.task_id]

    def take_key(self, row: TaskRow, key: IdempotencyKey | None) -> None:
        """It stands for this task from now on."""
        if key is not None:
            self.keys[row.owner, key.key] = UsedKey(key.fingerprint, row.task_id, self.now())
            row.keys.append(key.key)

    def forget_keys(self, before: datetime, limit: int) -> int:
        """Drop the oldest keys; how many."""
        entries = islice(self.keys.items(), limit)
        old = list(takewhile(lambda entry: entry[1].time < before, entries))
        for (owner, key), used in old:
            del self.keys[owner, key]
            self.tasks[used.task_id].keys.remove(key)
        return len(old)

    # ------------------------------------------------------------------ who may run when

    def claimable(self, row: TaskRow, now: datetime) -> bool:
        """It may run, and no limit of it is reached."""
        return self._may_run(row, now) and not self.limits.reached(row)

    def _may_run(self, row: TaskRow, now: datetime) -> bool:
        """Submitted, due and not over its time; first in its context, and no other turn of the context running."""
        if row.state is not TaskState.SUBMITTED or row.due_at > now or row.late(now):
            return False
        context = self.context_of(row)
        return row.parallel or (context.slot is None and context.first() is row)

    def forget_limits(self) -> int:
        """Those that nothing counts against and no open task names."""
        return self.limits.forget(
            named={key for row in self.tasks.values() if not row.state.terminal for key in row.limit_keys}
        )

    def claimable_rows(self, now: datetime, agent: str) -> list[TaskRow]:
        """All of an agent, the best first."""
        offered = {entry[-1] for entry in self._later} | {entry[-1] for entry in self._ready.get(agent, ())}
        rows = [self.tasks[task_id] for task_id in offered if task_id in self.tasks]
        claimable = (row for row in rows if row.agent == agent and self.claimable(row, now))
        return sorted(claimable, key=TaskRow.order)

    def next_time(self) -> datetime | None:
        """When, at the earliest, time alone makes a task due or puts one over its time; None: it does not."""
        now = self.now()
        times = [*(due_at for due_at, _ in self._later), *self.waiting.ends()]
        return min((time for time in times if time > now), default=None)

    def best(self, now: datetime, agent: str) -> TaskRow | None:
        """The task of an agent to claim; it is no longer offered."""
        while self._later and self._later[0][0] <= now:
            due_at, task_id = heappop(self._later)
            row = self.tasks.get(task_id)
            if row and row.due_at == due_at:
                heappush(self._ready.setdefault(row.agent, []), row.order())
        ready = self._ready.get(agent, [])
        limited = set()
        best = None
        while ready and best is None:
            entry = heappop(ready)
            row = self.tasks.get(entry[-1])
            if row is None or row.order() != entry or not self._may_run(row, now):
                continue
            if self.limits.reached(row):
                limited.add(entry)
            else:
                best = row
        for entry in limited:
            heappush(ready, entry)
        return best

    def hold(self, row: TaskRow) -> None:
        """A turn of it runs: it counts against its limits, and the slot of its context is taken."""
        self.held[row.task_id] = row
        self.limits.count(row)
        if not row.parallel:
            self.context_of(row).slot = row.task_id

    def line_up(self, row: TaskRow) -> Sequence[Ring]:
        """A turn of it is due at `due_at`; it waits at its own place. Behind others it changes nothing for them: whoever is first
        has been rung for."""
        self.dispatched(row, self.now())
        if row.parallel:
            return self._called(row)
        context = self.context_of(row)
        context.line_up(row)
        return self._called(row) if context.first() is row and context.slot is None else ()

    def wake(self, context: ContextRow) -> Sequence[Ring]:
        """The context's line or its slot changed: let whoever is first be claimed, and ring for it if it is due."""
        first = context.first()
        if first is None or context.slot is not None:
            return ()
        if self._may_run(first, now := self.now()):
            self.dispatched(first, now)
        return self._called(first)

    def _called(self, row: TaskRow) -> Sequence[Ring]:
        self.offer(row)
        ring = self.ring(row)
        return () if ring is None else (ring,)

    def offer(self, row: TaskRow) -> None:
        """It may be claimed, from its due time on."""
        heappush(self._later, (row.due_at, row.task_id))

    def dispatched(self, row: TaskRow, now: datetime) -> Ring:
        """A new ring for it."""
        row.dispatch += 1
        row.dispatched_at = now
        return Ring(row.task_id, row.dispatch, row.agent)

    def ring(self, row: TaskRow | None) -> Ring | None:
        """The ring that was given for it, given again while it may run."""
        return Ring(row.task_id, row.dispatch, row.agent) if row and self._may_run(row, self.now()) else None

    # ------------------------------------------------------------------ the end of a turn, and of a task

    def let_go(self, row: TaskRow, due_at: datetime) -> Sequence[Ring]:
        """Nobody holds it any more: its context's slot is free, and if it is submitted it is due at `due_at`."""
        context = self.context_of(row)
        row.lease_until = None
        self.limits.uncount(row)
        del self.held[row.task_id]
        if not row.parallel:
            context.slot = None
        rings: Sequence[Ring] = ()
        if row.waiting:
            row.due_at = due_at
            rings = self.line_up(row)
        # `line_up` has called whoever is first if that is the task itself.
        if not row.parallel and context.first() is not row:
            rings = self.wake(context)
        rings = (*rings, *self._unlimited(row))
        if row.state.terminal:
            self.finish(row)
        return rings

    def _unlimited(self, ended: TaskRow) -> Sequence[Ring]:
        """A ring for whoever waits for a limit that is free again, if one is due: under the id of the task whose turn ended."""
        now = self.now()
        waiting = self.waiting.sharing(ended.limit_keys)
        due = any(row is not ended and row.due_at <= now for row in waiting)
        return (Ring(ended.task_id, ended.dispatch + 1, ended.agent),) if due else ()

    def fail_late(self, row: TaskRow) -> Notice:
        """It was not begun or not done in time. Whoever comes next in its context is offered, not rung for."""
        status = expired()
        message = status.message and complete(status.message, row.context_id, row.task_id)
        self.append(row, draft(replace(status, message=message)), 0, self.now())
        context = self.context_of(row)
        if (first := context.first()) is not None:
            self.offer(first)
        self.finish(row)
        return Notice(row.task_id, row.last_seq, row.state)

    def forget(self, row: TaskRow) -> None:
        """Its context is gone, and it goes with it."""
        if row.state is TaskState.SUBMITTED:
            self.waiting.remove(row)
        if row.task_id in self.held:
            self.limits.uncount(row)
        for rows in (self.tasks, self.held, self.finished):
            rows.pop(row.task_id, None)
        self.outbox.forget(row.task_id, row.webhooks)
        self._drop_keys(row)

    def _drop_keys(self, row: TaskRow) -> None:
        for key in row.keys:
            del self.keys[row.owner, key]

    def finish(self, row: TaskRow) -> None:
        """It has ended and nobody holds it."""
        self.finished[row.task_id] = row
        self.drop_finished(self._finished_tasks)

    def drop_finished(self, keep: int) -> int:
        """Delete the oldest finished tasks beyond `keep`, and the contexts that hold nothing any more; how many tasks went."""
        surplus = max(len(self.finished) - keep, 0)
        for row in list(islice(self.finished.values(), surplus)):
            self.drop(row)
        return surplus

    def drop(self, row: TaskRow) -> bool:
        """Delete a finished task; whether its context went with it, since it held nothing else."""
        del self.finished[row.task_id], self.tasks[row.task_id]
        self.outbox.forget(row.task_id, row.webhooks)
        self._drop_keys(row)
        context = self.context_of(row)
        context.remove(row)
        if context.entries or context.metadata != b"{}":
            return False
        del self.contexts[row.owner][row.context_id]
        return True

    def put_back(self, row: TaskRow, limits: Mapping[str, int]) -> None:
        """A finished task from elsewhere, at its place; before all of a context that has begun anew meanwhile."""
        contexts = self.contexts.setdefault(row.owner, {})
        new = ContextRow(row.owner, row.context_id, row.created_at, row.updated_at)
        context = contexts.setdefault(row.context_id, new)
        if context.is_anew(row):
            row.place -= OLDER_PLACES
        context.add(row)
        self.limits.restore(limits)
        self.tasks[row.task_id] = row
        self.finish(row)


def _after(now: datetime, seconds: float) -> datetime:
    return now + timedelta(seconds=seconds)
