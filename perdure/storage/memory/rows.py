"""What `MemoryStorage` keeps: a row for each task and each context, and the small rules that need only the row.

Payloads and metadata are kept as JSON bytes in the stored form of `perdure.payload`: bytes cannot be shared by reference.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from heapq import heappop, heappush
from operator import attrgetter
from typing import Any
from uuid import UUID

import orjson

from perdure.owners import agent_of
from perdure.payload import dump_body, load_body
from perdure.storable import unstorable
from perdure.storage import MOST_BACKOFF, TRACED, Claim, Context, Feedback, Held
from perdure.storage.folding import folded
from perdure.storage.memory.outbox import Line
from perdure.storage.operators import Failure
from perdure.storage.retention import needed
from perdure.storage.views import conversation, last, task_artifacts, task_conversation, task_history
from perdure.storage.writes import worker_lost
from perdure.tasks import ArtifactChunk, Event, Message, StatusChange, Task, TaskState

Body = Message | ArtifactChunk | StatusChange


def to_json(value: Any) -> bytes:
    """`value` as bytes. `ValueError` for what no storage keeps."""
    if found := unstorable(value):
        path, why = found
        raise ValueError(f"{path or 'the value'} {why}")
    return orjson.dumps(value)


def merged(metadata: bytes, change: Mapping[str, Any] | None) -> bytes:
    """Top level; a None removes the key."""
    if not change:
        return metadata
    both = {**orjson.loads(metadata), **change}
    removed = {key for key, value in change.items() if value is None}
    return to_json({key: value for key, value in both.items() if key not in removed})


@dataclass(frozen=True, slots=True)
class _Entry:
    first_seq: int
    seq: int
    attempt: int
    time: datetime
    kind: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has its number: made first, so that what cannot be stored is refused before anything has changed."""

    body: Body
    kind: str
    payload: bytes


def draft(body: Body) -> Draft:
    """`ValueError` for what no storage keeps."""
    kind, json = dump_body(body)
    return Draft(body, kind, to_json(json))


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


@dataclass(slots=True, eq=False)
class Brought:
    """Messages that were appended to a context without a task."""

    place: int
    messages: list[Draft]
    created_at: datetime

    def said(self) -> Sequence[Message]:
        """Its part of the conversation."""
        # Loaded anew each time, since a message's metadata could be changed by whoever gets it.
        bodies = (load_body(message.kind, orjson.loads(message.payload)) for message in self.messages)
        return [body for body in bodies if isinstance(body, Message)]


@dataclass(slots=True, eq=False)
class ContextRow:
    """A conversation: its entries in the order of their places, and the slot in which one turn at a time runs."""

    owner: str
    context_id: str
    created_at: datetime
    updated_at: datetime
    metadata: bytes = b"{}"
    entries: list[TaskRow | Brought] = field(default_factory=list)
    slot: UUID | None = None
    places: int = 0
    _brought_ids: set[str] = field(default_factory=set)
    _line: list[int] = field(default_factory=list)  # a heap of places; the same place twice is harmless

    def next_place(self) -> int:
        """Places are never given twice."""
        self.places += 1
        return self.places

    def tasks(self) -> list[TaskRow]:
        """In the order of their places."""
        return [entry for entry in self.entries if isinstance(entry, TaskRow)]

    def bring(self, messages: Iterable[Draft]) -> None:
        """Append messages, those left out whose ids were appended before."""
        new: list[Draft] = []
        for message in messages:
            if isinstance(message.body, Message) and message.body.message_id not in self._brought_ids:
                self._brought_ids.add(message.body.message_id)
                new.append(message)
        if new:
            self.entries.append(Brought(self.next_place(), new, self.updated_at))

    def line_up(self, row: TaskRow) -> None:
        """It waits for a turn, at its own place."""
        heappush(self._line, row.place)

    def first(self) -> TaskRow | None:
        """The first task that keeps its place. Those that no longer do are forgotten on the way."""
        while self._line:
            entry = self._at(self._line[0])
            if isinstance(entry, TaskRow) and entry.waiting:
                return entry
            heappop(self._line)
        return None

    def is_anew(self, row: TaskRow) -> bool:
        """Whether something younger has a place such as this one's: the context was deleted after it, and begun again."""
        return any(
            other.place == row.place or (other.place < row.place and other.created_at > row.created_at)
            for other in self.entries
        )

    def add(self, row: TaskRow) -> None:
        """At its place, which may be an earlier one."""
        self.entries.insert(self._index(row.place), row)
        self.places = max(self.places, row.place)
        self.created_at = min(self.created_at, row.created_at)
        self.updated_at = max(self.updated_at, row.updated_at)

    def remove(self, row: TaskRow) -> None:
        """Its place stays empty."""
        del self.entries[self._index(row.place)]

    def said(self, place: int | None = None, limit: int | None = None) -> tuple[Message, ...]:
        """The last `limit` messages up to and with the entry at `place` (None: the newest)."""
        until = len(self.entries) if place is None else self._index(place + 1)
        return conversation((self.entries[index].said() for index in range(until - 1, -1, -1)), limit)

    def _at(self, place: int) -> TaskRow | Brought | None:
        index = self._index(place)
        found = index < len(self.entries) and self.entries[index].place == place
        return self.entries[index] if found else None

    def _index(self, place: int) -> int:
        return bisect_left(self.entries, place, key=attrgetter("place"))

    def context(self, task_ids: Sequence[UUID] = (), messages: Sequence[Message] = ()) -> Context:
        """As it stands now."""
        return Context(
            context_id=self.context_id,
            owner=self.owner,
            metadata=orjson.loads(self.metadata),
            created_at=self.created_at,
            updated_at=self.updated_at,
            task_ids=tuple(task_ids),
            messages=tuple(messages),
        )
