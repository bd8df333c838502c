"""What operators see and do, in memory."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import islice
from typing import Any
from uuid import UUID

from perdure.errors import TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage import Claim
from perdure.storage.memory.base import Locked
from perdure.storage.memory.rows import TaskRow
from perdure.storage.operators import (
    COUNTED,
    HEAD,
    SAMPLED,
    SEARCHED,
    SHOWN_WHEN_LOST,
    Attempt,
    Failure,
    FailureGroup,
    Figures,
    Minute,
    OperatorAction,
    TaskFilter,
    TaskLine,
    TaskLines,
    WorkerBeat,
    WorkerStatus,
)
from perdure.storage.timeline import Status, attempts_of
from perdure.tasks import Message, StatusChange, TaskState, TextPart


@dataclass(frozen=True, slots=True)
class Sign:
    """A worker's last beat, when it came, and the time of its first."""

    beat: WorkerBeat
    time: datetime
    started: datetime
    asked_to_drain: bool = False


class Operators(Locked):
    """See the port."""

    _workers: dict[str, Sign]
    _actions: list[OperatorAction]

    async def figures(self) -> Figures:
        with self._lock:
            now = self._ledger.now()
            since = now - timedelta(hours=1)
            newest = [row for row in self._newest() if row.created_at >= since and row.state.terminal]
            minutes: dict[datetime, Counter[TaskState]] = defaultdict(Counter)
            for row in newest:
                if row.state in (TaskState.COMPLETED, TaskState.FAILED):
                    minutes[row.status_timestamp.replace(second=0, microsecond=0)][row.state] += 1
            begun = [(row, times) for row in newest[:SAMPLED] if (times := _begins(row))]
            counts, oldest = self._counts(), self._oldest_waiting(now)
        return Figures(
            time=now,
            counts=counts,
            oldest_waiting=oldest,
            minutes=[
                Minute(time=time, completed=ended[TaskState.COMPLETED], failed=ended[TaskState.FAILED])
                for time, ended in sorted(minutes.items())
            ],
            completed=sum(ended[TaskState.COMPLETED] for ended in minutes.values()),
            failed=sum(ended[TaskState.FAILED] for ended in minutes.values()),
            waits=_percentiles((times[0] - row.created_at).total_seconds() for row, times in begun),
            runs=_percentiles((row.status_timestamp - times[-1]).total_seconds() for row, times in begun),
        )

    async def waiting(self) -> tuple[Mapping[TaskState, int], float | None]:
        with self._lock:
            counts = {state: count for state, count in self._counts().items() if not state.terminal}
            return counts, self._oldest_waiting(self._ledger.now())

    async def open_by_agent(self) -> Mapping[tuple[str, TaskState], int]:
        with self._lock:
            rows = [row for row in self._ledger.tasks.values() if not row.state.terminal and row.agent]
            return Counter((row.agent, row.state) for row in rows)

    def _counts(self) -> Mapping[TaskState, int]:
        return Counter(row.state for row in self._ledger.tasks.values())

    def _oldest_waiting(self, now: datetime) -> float | None:
        due = [
            row.due_at
            for row in self._ledger.tasks.values()
            if row.state is TaskState.SUBMITTED
            and row.due_at <= now
            and (row.parallel or self._ledger.context_of(row).slot is None)
        ]
        return (now - min(due)).total_seconds() if due else None

    def _newest(self) -> list[TaskRow]:
        return sorted(self._ledger.tasks.values(), key=lambda row: row.task_id, reverse=True)

    async def find_tasks(
        self, wanted: TaskFilter, *, page_size: int = 50, before: UUID | None = None
    ) -> TaskLines:
        with self._lock:
            matching = self._matching(wanted)
            after = [row for row in matching if before is None or row.task_id < before]
            lines = [_line(self._ledger.limits.of(row), row) for row in after[:page_size]]
            return TaskLines(lines, lines[-1].task_id if len(after) > page_size else None)

    async def count_matching(self, wanted: TaskFilter) -> int:
        with self._lock:
            return min(len(self._matching(wanted)), COUNTED)

    def _matching(self, wanted: TaskFilter) -> list[TaskRow]:
        tests = _tests(wanted, self._ledger.now())
        return [row for row in self._newest() if all(test(row) for test in tests)]

    def _any_row(self, task_id: UUID) -> TaskRow:
        row = self._ledger.tasks.get(task_id)
        if row is None:
            raise TaskNotFound(task_id)
        return row

    async def task_line(self, task_id: UUID) -> TaskLine:
        with self._lock:
            row = self._any_row(task_id)
            return _line(self._ledger.limits.of(row), row)

    async def attempts(self, task_id: UUID) -> Sequence[Attempt]:
        with self._lock:
            row = self._ledger.tasks.get(task_id)
            if row is None:
                return ()
            return attempts_of(_statuses(row), dict(row.troubles))

    async def context_line(self, owner: str, context_id: str, limit: int = 200) -> Sequence[TaskLine]:
        with self._lock:
            context = self._ledger.contexts.get(owner, {}).get(context_id)
            rows = context.tasks()[-limit:] if context else []
            return [_line(self._ledger.limits.of(row), row) for row in rows]

    async def newest_contexts(self, limit: int = 50) -> Sequence[tuple[str, str, datetime, int, UUID | None]]:
        with self._lock:
            newest: dict[tuple[str, str], datetime] = {}
            for row in self._newest()[:SEARCHED]:
                newest.setdefault((row.owner, row.context_id), row.created_at)
            found = []
            for (owner, context_id), time in islice(newest.items(), limit):
                context = self._ledger.contexts[owner][context_id]
                waits = sum(row.state is TaskState.SUBMITTED and not row.parallel for row in context.tasks())
                found.append((owner, context_id, time, waits, context.slot))
            return found

    async def newest_claim(self, task_id: UUID) -> Claim | None:
        with self._lock:
            row = self._ledger.tasks.get(task_id)
            return row.claim(row.token) if row and row.held and row.token else None

    async def record_failure(self, failure: Failure) -> None:
        with self._lock:
            if row := self._ledger.tasks.get(failure.task_id):
                row.troubles.setdefault(failure.attempt, replace(failure, created_at=self._ledger.now()))

    async def failure_groups(self, limit: int = 100) -> Sequence[FailureGroup]:
        with self._lock:
            groups: dict[str, list[Failure]] = defaultdict(list)
            failures = [trouble for row in self._ledger.tasks.values() for trouble in row.troubles.values()]
            for failure in sorted(failures, key=_when, reverse=True)[:COUNTED]:
                groups[failure.fingerprint].append(failure)
            return [self._group(members) for members in islice(groups.values(), limit)]

    def _group(self, members: Sequence[Failure]) -> FailureGroup:
        tasks = {failure.task_id for failure in members}
        return FailureGroup(
            fingerprint=members[0].fingerprint,
            error_class=members[0].error_class,
            message=members[0].message,
            failures=len(members),
            tasks=len(tasks),
            failed=sum(self._ledger.tasks[task_id].state is TaskState.FAILED for task_id in tasks),
            first_seen=_when(members[-1]),
            last_seen=_when(members[0]),
        )

    async def list_workers(self) -> Sequence[WorkerStatus]:
        with self._lock:
            now = self._ledger.now()
            held: dict[str, list[UUID]] = defaultdict(list)
            renewing = set()
            for row in self._ledger.held.values():
                held[row.holder].append(row.task_id)
                if row.lease_until is not None and row.lease_until > now:
                    renewing.add(row.holder)
            signs = sorted(self._workers.values(), key=lambda sign: (sign.started, sign.beat.worker_id))
            return [
                WorkerStatus(
                    beat=sign.beat,
                    started_at=sign.started,
                    silent=(now - sign.time).total_seconds(),
                    asked_to_drain=sign.asked_to_drain,
                    tasks=sorted(held[sign.beat.worker_id]),
                    renews=sign.beat.worker_id in renewing,
                )
                for sign in signs
                if held[sign.beat.worker_id] or now - sign.time < timedelta(seconds=SHOWN_WHEN_LOST)
            ]

    async def ask_to_drain(self, worker_id: str, drain: bool) -> bool:
        with self._lock:
            if sign := self._workers.get(worker_id):
                self._workers[worker_id] = replace(sign, asked_to_drain=drain)
            return sign is not None

    async def record_action(self, action: OperatorAction) -> None:
        with self._lock:
            kept = [known for known in self._actions if known.action_id == action.action_id]
            if kept:
                self._actions[self._actions.index(kept[0])] = replace(kept[0], result=action.result)
            else:
                self._actions.append(replace(action, created_at=self._ledger.now()))

    async def list_actions(self, *, limit: int = 100, before: UUID | None = None) -> Sequence[OperatorAction]:
        with self._lock:
            newest = sorted(self._actions, key=lambda action: action.action_id, reverse=True)
            return [action for action in newest if before is None or action.action_id < before][:limit]


# ---------------------------------------------------------------------- searching


def _tests(wanted: TaskFilter, now: datetime) -> list[Callable[[TaskRow], bool]]:
    given: list[tuple[Any, Callable[[TaskRow, Any], bool]]] = [
        (wanted.state, lambda row, state: row.state is state),
        (wanted.whose, lambda row, owner: row.owner == owner),
        (wanted.agent, lambda row, agent: row.agent == agent),
        (wanted.context_id, lambda row, context_id: row.context_id == context_id),
        (wanted.worker, lambda row, worker: row.held and row.holder == worker),
        (wanted.fingerprint, _has_fingerprint),
        (wanted.older, lambda row, age: row.created_at <= now - timedelta(seconds=age)),
        (wanted.newer, lambda row, age: row.created_at >= now - timedelta(seconds=age)),
        (wanted.error, _says_error),
        (wanted.text, _says_text),
    ]
    return [
        lambda row, value=value, test=test: test(row, value)  # type: ignore[misc]
        for value, test in given
        if value is not None
    ]


def _has_fingerprint(row: TaskRow, fingerprint: str) -> bool:
    return any(failure.fingerprint == fingerprint for failure in row.troubles.values())


def _says_error(row: TaskRow, text: str) -> bool:
    return any(text.lower() in _told(failure).lower() for failure in row.troubles.values())


def _says_text(row: TaskRow, text: str) -> bool:
    if (named := parse_task_id(text)) is not None:
        return row.task_id == named
    said = (part.text.lower() for part in _first(row).parts if isinstance(part, TextPart))
    return row.context_id == text or any(text.lower() in each for each in said)


# ---------------------------------------------------------------------- rows


def _line(limits: Mapping[str, int], row: TaskRow) -> TaskLine:
    last = row.troubles[max(row.troubles)] if row.troubles else None
    words = " ".join(part.text for part in _first(row).parts if isinstance(part, TextPart))
    return TaskLine(
        task_id=row.task_id,
        context_id=row.context_id,
        owner=row.owner,
        state=row.state,
        created_at=row.created_at,
        status_timestamp=row.status_timestamp,
        due_at=row.due_at,
        attempt=row.attempt,
        failures=row.failures,
        crashes=row.crashes,
        priority=row.priority,
        parallel=row.parallel,
        limits=limits,
        holder=row.holder if row.held else "",
        lease_until=row.lease_until,
        text=words[:HEAD],
        error=_told(last)[:HEAD] if last else "",
        trace_contexts=row.trace_contexts,
    )


def _first(row: TaskRow) -> Message:
    body = next(row.events(0, 1)).body
    assert isinstance(body, Message)  # noqa: S101 - a log begins with one
    return body


def _told(failure: Failure) -> str:
    return f"{failure.error_class}: {failure.message}"


def _when(failure: Failure) -> datetime:
    assert failure.created_at is not None  # noqa: S101 - stored
    return failure.created_at


def _statuses(row: TaskRow) -> Iterable[Status]:
    begun: set[int] = set()
    for event in row.events():
        if isinstance(event.body, StatusChange):
            first = event.body.state is TaskState.WORKING and event.attempt not in begun
            begun.add(event.attempt)
            worker = row.holders.get(event.attempt, "") if first else ""
            yield Status(event.seq, event.attempt, event.time, event.body, worker)


def _begins(row: TaskRow) -> list[datetime]:
    return [status.time for status in _statuses(row) if status.worker]


def _percentiles(values: Iterable[float]) -> tuple[float, float] | None:
    """The 50th and the 95th, between neighbours where they fall there, as Postgres reckons them."""
    ordered = sorted(values)
    if not ordered:
        return None

    def at(share: float) -> float:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return max(ordered[below] + (ordered[above] - ordered[below]) * (place - below), 0.0)

    return at(0.5), at(0.95)
