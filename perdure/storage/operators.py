"""What operators see and do, whoever owns the tasks. Callers never come here: the front door asks for the scope `operate` first.

Every look is bounded, however many tasks there are: it reads the newest ones (`SCANNED`, `SAMPLED`), and its answer says so.
Task ids sort by the time at which they were made, so "newest" needs no index of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from perdure.owners import ONLY, owner_at
from perdure.tasks import TaskState

if TYPE_CHECKING:
    from perdure.storage.claims import Claim

SCANNED = 100_000
"""How many tasks a page of a search looks through at most; its `next` goes on from there."""
SEARCHED = 10_000
"""The same for a search in texts and errors."""
SHOWN_WHEN_LOST = 3600
"""Seconds for which a worker that was lost is told of."""
COUNTED = 10_000
"""Counting what matches stops here."""
SAMPLED = 2_000
"""How many of the newest ended tasks of the last hour wait and run times are taken from."""
HEAD = 300
"""Characters of a message in a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerBeat:
    """A sign of life. `worker_id` is random for each start of a process, `name` says where it runs. `loop_lag` is in seconds.
    `counters` count since the start: `sweeps`, `rescued`, `expired`, `rung_again`, `pruned`. `agents`: whose turns it runs, empty
    for one that is alone in its deployment."""

    worker_id: str
    slots: int
    running: int
    version: str
    draining: bool = False
    name: str = ""
    loop_lag: float = 0.0
    counters: Mapping[str, int] = field(default_factory=dict)
    agents: Sequence[str] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatus:
    """A worker as its last beat, `silent` seconds ago, told it. `tasks` are those it holds now, as the tasks have it; `renews`:
    the lease of one of them is in force."""

    beat: WorkerBeat
    started_at: datetime
    silent: float
    asked_to_drain: bool
    tasks: Sequence[UUID] = ()
    renews: bool = False

    def is_blocked(self, after: float) -> bool:
        """It has not beaten for `after` seconds, and yet keeps its tasks: leases are renewed by a thread, beats come from the
        event loop. So the process lives, and a handler holds its loop. One that died loses its leases."""
        return self.renews and self.silent > after

    def is_lost(self, after: float) -> bool:
        """It has not beaten for `after` seconds and keeps no task: it ended, and not in order."""
        return self.silent > after and not self.renews

    @property
    def drains(self) -> bool:
        """It begins no more turns, or is about to hear that it should not."""
        return self.beat.draining or self.asked_to_drain


def by_liveliness(workers: Iterable[WorkerStatus], after: float) -> list[WorkerStatus]:
    """First who works, a blocked one as well, then who drains, then who has been lost, the last one first."""
    return sorted(
        workers,
        key=lambda each: (2, each.silent) if each.is_lost(after) else (1 if each.drains else 0, 0.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """All that are given have to hold. `owner` is a caller at `agent`, or where that is not given at an only agent. `worker`
    holds the task now. `older` and `newer`: sent so many seconds ago at least, at
    most. `error` is searched in the failures' classes and messages, `text` in the first message; both ignore case. A `text`
    that is a task's or a context's id finds that."""

    state: TaskState | None = None
    owner: str | None = None
    agent: str | None = None
    context_id: str | None = None
    worker: str | None = None
    fingerprint: str | None = None
    older: float | None = None
    newer: float | None = None
    error: str | None = None
    text: str | None = None

    @property
    def whose(self) -> str | None:
        """The owner as tasks have it."""
        return None if self.owner is None else owner_at(self.agent or ONLY, self.owner)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """A task in a list. `text` is the head of its first message, `error` that of its last failure. `holder` has it now."""

    task_id: UUID
    context_id: str
    owner: str
    state: TaskState
    created_at: datetime
    status_timestamp: datetime
    due_at: datetime
    attempt: int
    failures: int
    crashes: int
    priority: int
    parallel: bool
    limits: Mapping[str, int]
    holder: str
    lease_until: datetime | None
    text: str
    error: str
    trace_contexts: Sequence[str] = ()
    """As in `ClaimedTurn`."""


@dataclass(frozen=True, slots=True)
class TaskLines:
    """The newest first; `next` is where to go on, None at the end. Not `complete`: so many tasks were looked at that the
    page ends before it is full; the search goes on at `next`."""

    lines: Sequence[TaskLine]
    next: UUID | None
    complete: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why an attempt failed. Never shown to callers."""

    task_id: UUID
    attempt: int
    error_class: str
    message: str
    fingerprint: str
    traceback: str = ""
    worker: str = ""
    created_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureGroup:
    """Failures with one fingerprint among the newest `COUNTED`. `failed` is how many of their tasks have ended as failed."""

    fingerprint: str
    error_class: str
    message: str
    failures: int
    tasks: int
    failed: int
    first_seen: datetime
    last_seen: datetime


class Why(Enum):
    """Why an attempt ended."""

    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELED = "canceled"
    ASKED = "asked the caller"
    AGAIN = "unread message"
    RETRY = "retry"
    TIMEOUT = "timeout"
    CRASH = "crash"
    DEPLOY = "deploy"
    LATE = "claimed too late"
    OTHER = "released"


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """A turn of a task: who had it, from when until when, why it ended. `seq` is the number of the event that began it. `retry`
    is the seconds after which it is tried again."""

    attempt: int
    seq: int
    worker: str
    began_at: datetime
    ended_at: datetime | None
    why: Why
    retry: float | None = None
    failure: Failure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Minute:
    """What ended in a minute."""

    time: datetime
    completed: int
    failed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """How things stand. Seconds.

    `counts`: submitted, working and interrupted ones exactly; the ended ones among the newest `SCANNED` tasks.
    `oldest_waiting`: how long the one has been due that has been due longest, of those whose conversation is free, among the
    first and the last 5,000 of the line; None when none waits.
    `minutes`, `completed`, `failed`: of the tasks sent in the last hour, among the newest `SCANNED`.
    `waits`, `runs`: the 50th and 95th percentile over the newest `SAMPLED` of these: from sent to first begun, from the last
    begin to the end.
    """

    time: datetime
    counts: Mapping[TaskState, int]
    oldest_waiting: float | None
    minutes: Sequence[Minute]
    completed: int
    failed: int
    waits: tuple[float, float] | None
    runs: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorAction:
    """Something done by hand. `action_id` sorts by time."""

    action_id: UUID
    actor: str
    action: str
    target: str
    result: str
    created_at: datetime | None = None


class Operators(Protocol):
    """Looks across owners. Nothing here needs one."""

    async def figures(self) -> Figures:
        """How things stand."""

    async def waiting(self) -> tuple[Mapping[TaskState, int], float | None]:
        """`Figures.counts` without those that have ended, and `Figures.oldest_waiting`: cheap enough for every few seconds."""

    async def open_by_agent(self) -> Mapping[tuple[str, TaskState], int]:
        """How many tasks that have not ended each of several agents has, by name and state: as cheap."""

    async def find_tasks(
        self, wanted: TaskFilter, *, page_size: int = 50, before: UUID | None = None
    ) -> TaskLines:
        """The newest that match, made before the task `before`."""

    async def count_matching(self, wanted: TaskFilter) -> int:
        """How many match among the newest `SCANNED` (`SEARCHED` for `text` and `error`), counted up to `COUNTED`."""

    async def task_line(self, task_id: UUID) -> TaskLine:
        """`TaskNotFound`."""

    async def attempts(self, task_id: UUID) -> Sequence[Attempt]:
        """Oldest first. Empty for an unknown task."""

    async def context_line(self, owner: str, context_id: str, limit: int = 200) -> Sequence[TaskLine]:
        """The newest `limit` tasks of a conversation, in the order of their places, oldest first."""

    async def newest_contexts(self, limit: int = 50) -> Sequence[tuple[str, str, datetime, int, UUID | None]]:
        """The conversations of the newest tasks, newest first: owner, context id, when its newest task was sent, how many tasks
        wait in it, which one runs."""

    async def newest_claim(self, task_id: UUID) -> Claim | None:
        """The claim under which the task is held, also when it has ended and its holder has not let go of it. None: not held."""

    async def record_failure(self, failure: Failure) -> None:
        """Keep why an attempt failed; the first word about an attempt counts. Nothing happens for an unknown task."""

    async def failure_groups(self, limit: int = 100) -> Sequence[FailureGroup]:
        """Newest last failure first."""

    async def list_workers(self) -> Sequence[WorkerStatus]:
        """Those that did not end in order, the oldest start first: of those that hold no task, who gave a sign of life in the
        last `SHOWN_WHEN_LOST` seconds."""

    async def ask_to_drain(self, worker_id: str, drain: bool) -> bool:
        """Its next beat is told. False for one that is not known."""

    async def record_action(self, action: OperatorAction) -> None:
        """Keep what was done; the same id again replaces its result."""

    async def list_actions(self, *, limit: int = 100, before: UUID | None = None) -> Sequence[OperatorAction]:
        """The newest first."""
