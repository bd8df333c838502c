"""What `MemoryStorage` keeps of a task: its row with its log, and the small rules that need only these."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson

from perdure.owners import agent_of
from perdure.storage import MOST_BACKOFF, TRACED, Claim, Feedback, Held
from perdure.storage.folding import folded
from perdure.storage.memory.drafts import Draft, draft
from perdure.storage.memory.outbox import Line
from perdure.storage.operators import Failure
from perdure.storage.retention import needed
from perdure.storage.views import last, task_artifacts, task_conversation, task_history
from perdure.storage.writes import worker_lost
from perdure.stored.payload import load_body
from perdure.tasks import ArtifactChunk, Event, Message, StatusChange, Task, TaskState


@dataclass(frozen=True, slots=True)
class _Entry:
    first_seq: int
    seq: int
    attempt: int
    time: datetime
    kind: str
    payload: bytes


@dataclass(slots=True, eq=False)
class TaskRow:
    """A task. Its `log` is in the order of its numbers."""

    task_id: UUID
    owner: str
    context_id: str
    place: int
    created_at: datetime
    metadata: bytes
    due_at: datetime
    dispatched_at: datetime
    status_timestamp: datetime
    updated_at: datetime
    state: TaskState = TaskState.SUBMITTED
    status_seq: int = 0
    log: list[_Entry] = field(default_factory=list)
    lost_attempts: set[int] = field(default_factory=set)
    unread: bool = False
    streamed: bool = False
    trimmed: bool = False
    attempt: int = 0
    failures: int = 0
    crashes: int = 0
    token: UUID | None = None
    holder: str = ""
    lease_until: datetime | None = None
    write_no: int = 0
    dispatch: int = 0
    priority: int = 0
    rank: int = 0
    parallel: bool = False
    limit_keys: tuple[str, ...] = ()
    expires_at: datetime | None = None
    deadline_at: datetime | None = None
    steps: dict[tuple[str, int], bytes] = field(default_factory=dict)  # of the turn that has not settled yet
    holders: dict[int, str] = field(default_factory=dict)  # who claimed each attempt
    troubles: dict[int, Failure] = field(default_factory=dict)  # why an attempt failed
    keys: list[str] = field(default_factory=list)  # the idempotency keys that stand for it
    feedback: list[tuple[Feedback, bytes]] = field(default_factory=list)
    webhooks: dict[str, Line] = field(default_factory=dict)  # by the ids of their configs
    trace_contexts: tuple[str, ...] = ()

    def trace(self, context: str) -> None:
        """A message came with this trace context."""
        if context:
            self.trace_contexts = (*self.trace_contexts, context)[-TRACED:]

    # ------------------------------------------------------------------ the log

    def append(self, event: Draft, attempt: int, time: datetime) -> None:
        """The next event. A status takes effect."""
        seq = self.last_seq + 1
        self.log.append(_Entry(seq, seq, attempt, time, event.kind, event.payload))
        self.updated_at = time
        match event.body:
            # Progress without a message leaves the present status as it is.
            case StatusChange(state=state, message=message) if state is not self.state or message:
                self.state, self.status_seq, self.status_timestamp = state, self.last_seq, time

    @property
    def last_seq(self) -> int:
        """The number of the newest event."""
        return self.log[-1].seq if self.log else 0

    def events(self, after: int = 0, limit: int | None = None) -> Iterator[Event]:
        """Those with seq > `after`."""
        begin = self._place(after + 1)
        end = len(self.log) if limit is None else min(len(self.log), begin + limit)
        return (self._event(self.log[place]) for place in range(begin, end))

    def _place(self, seq: int) -> int:
        """Where in the log the event with this number is, or the next one."""
        return bisect_left(self.log, seq, key=attrgetter("seq"))

    def _event(self, entry: _Entry) -> Event:
        return Event(
            task_id=self.task_id,
            seq=entry.seq,
            first_seq=entry.first_seq,
            attempt=entry.attempt,
            time=entry.time,
            body=load_body(entry.kind, orjson.loads(entry.payload)),
        )

    def fold(self) -> None:
        """The pieces of its artifacts become few events."""
        self.streamed = False
        entries = [(entry, self._event(entry)) for entry in self.log if entry.kind == "artifact"]
        pieces = [
            (event, event.body, len(entry.payload))
            for entry, event in entries
            if isinstance(event.body, ArtifactChunk)
        ]
        for event in folded(pieces):
            made = draft(event.body)
            place = self._place(event.seq)
            self.log[self._place(event.first_seq) : place + 1] = [
                _Entry(event.first_seq, event.seq, event.attempt, event.time, made.kind, made.payload)
            ]

    def lost_worker(self, time: datetime) -> None:
        """Why the attempt ended, for operators, where nobody has said it yet."""
        spoke = any(entry.attempt == self.attempt and entry.kind != "status" for entry in self.log)
        error_class, message, fingerprint = worker_lost(spoke=spoke)
        failure = Failure(
            task_id=self.task_id,
            attempt=self.attempt,
            error_class=error_class,
            message=message,
            fingerprint=fingerprint,
            worker=self.holder,
            created_at=time,
        )
        self.troubles.setdefault(self.attempt, failure)

    def trim(self) -> None:
        """Only what says where it stands stays in its log; each of these events begins where the one before it ends."""
        self.trimmed = True
        events = list(self.events())
        stay = [
            entry
            for entry, event in zip(self.log, events, strict=True)
            if needed(event, self.lost_attempts, self.status_seq)
        ]
        begins = [1, *(entry.seq + 1 for entry in stay)]
        self.log = [replace(entry, first_seq=first) for entry, first in zip(stay, begins, strict=False)]

    def put_log(self, events: Iterable[Event]) -> None:
        """A log from elsewhere, as it stands."""
        for event in events:
            made = draft(event.body)
            entry = _Entry(event.first_seq, event.seq, event.attempt, event.time, made.kind, made.payload)
            self.log.append(entry)

    def refers_to(self) -> set[str]:
        """The tasks that its messages refer to, as they were sent."""
        spoken = (entry for entry in self.log if entry.kind == "message")
        said = (orjson.loads(entry.payload) for entry in spoken if b"referenceTaskIds" in entry.payload)
        return {reference for message in said for reference in message.get("referenceTaskIds", ())}

    @property
    def size(self) -> int:
        """Bytes, about."""
        return len(self.metadata) + sum(len(entry.payload) for entry in self.log)

    @property
    def agent(self) -> str:
        """Whose task it is."""
        return agent_of(self.owner)

    # ------------------------------------------------------------------ the lease

    @property
    def held(self) -> bool:
        """Somebody has the right to run it, or has not yet said that the handler of a canceled turn has ended."""
        return self.lease_until is not None

    @property
    def waiting(self) -> bool:
        """It keeps its place in the context: later tasks wait for it."""
        return self.state in (TaskState.SUBMITTED, TaskState.WORKING)

    def late(self, now: datetime) -> bool:
        """Over its time, so that no turn of it may begin: what has begun once does not expire any more."""
        over = self.deadline_at is not None and self.deadline_at <= now
        return over or (self.attempt == 0 and self.expires_at is not None and self.expires_at <= now)

    def ends_by(self) -> datetime:
        """The earlier one of its times; it has one."""
        return min(time for time in (self.expires_at, self.deadline_at) if time is not None)

    def order(self) -> tuple[int, int, datetime, UUID]:
        """Least is claimed first."""
        return -self.priority, self.rank, self.due_at, self.task_id

    def stored_steps(self) -> dict[tuple[str, int], Any]:
        """What earlier attempts of the present turn stored."""
        # Nothing was run before the first attempt.
        steps = self.steps if self.attempt > 1 else {}
        return {step: orjson.loads(result) for step, result in steps.items()}

    def is_of(self, claim: Claim) -> bool:
        """Whether `claim` is the newest claim of this task, held or not."""
        return self.attempt == claim.attempt and self.token == claim.token

    def stranded(self, now: datetime, idle: float) -> bool:
        """Whether it is time to ring for it again. Every turn has had one dispatch; what is beyond that were rings in vain."""
        in_vain = min(max(self.dispatch - self.attempt - 1, 0), MOST_BACKOFF)
        return self.dispatched_at < now - timedelta(seconds=idle * 2**in_vain)

    @property
    def ended_at(self) -> datetime:
        """When it ended, or was put back, which counts as its last ring: nobody puts a task back to have it deleted at once."""
        return max(self.status_timestamp, self.dispatched_at)

    def standing(self, claim: Claim) -> Held:
        """What a holder of `claim` is told."""
        if not (self.held and self.is_of(claim)):
            return Held.LOST
        return Held.YES if self.state is TaskState.WORKING else Held.CANCELED

    def claim(self, token: UUID) -> Claim:
        """The newest one, which `token` names."""
        return Claim(
            task_id=self.task_id,
            owner=self.owner,
            context_id=self.context_id,
            attempt=self.attempt,
            token=token,
        )

    # ------------------------------------------------------------------ what readers get

    def task(self, history_length: int | None = None, *, artifacts: bool = True) -> Task:
        """As it stands now."""
        wants_history = history_length is None or history_length > 0
        events = list(self.events()) if wants_history or artifacts else []
        history = task_history(events, self.lost_attempts, self.status_seq)
        return self.bare_task(
            last(history, history_length), task_artifacts(events, self.lost_attempts) if artifacts else ()
        )

    def bare_task(self, history: Sequence[Message] = (), artifacts: Sequence[Any] = ()) -> Task:
        """As it stands now, with the history and artifacts given."""
        status = self._event(self.log[self._place(self.status_seq)]).body if self.status_seq else None
        return Task(
            task_id=self.task_id,
            context_id=self.context_id,
            owner=self.owner,
            state=self.state,
            status_message=status.message if isinstance(status, StatusChange) else None,
            status_timestamp=self.status_timestamp,
            metadata=orjson.loads(self.metadata),
            history=tuple(history),
            artifacts=tuple(artifacts),
            created_at=self.created_at,
            updated_at=self.updated_at,
            last_seq=self.last_seq,
            attempt=self.attempt,
            failures=self.failures,
            crashes=self.crashes,
        )

    def said(self) -> Sequence[Message]:
        """Its part of the conversation."""
        return task_conversation(self.events(), self.lost_attempts)
