"""What `MemoryStorage` keeps of a conversation: its entries in their order, and who is the first in its line."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from heapq import heappop, heappush
from operator import attrgetter
from uuid import UUID

import orjson

from perdure.storage import Context
from perdure.storage.memory.drafts import Draft
from perdure.storage.memory.rows import TaskRow
from perdure.storage.views import conversation
from perdure.stored.payload import load_body
from perdure.tasks import Message


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
