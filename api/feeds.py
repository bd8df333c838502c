"""The streams of one task share what happens to it.

A stream that has said all that is known of its task waits at the task's `Feed`. What happens next is read once, and handed to all
who wait there: to `take` of each, which says it at once where it can. Only a stream whose `take` refuses is woken, to say it in
its own time; and so is each at its end. One that is behind, since it resumes or since its client reads slowly, reads for itself
until it is not: nothing is kept for it meanwhile.

The order matters, as in `perdure.watch`: join, then read the task, then wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import Context
from dataclasses import dataclass
from operator import attrgetter
from uuid import UUID

from perdure.errors import StorageUnavailable
from perdure.storage import Storage
from perdure.tasks import ArtifactChunk, Event, Message, Notice, Role, StatusChange, Task, TaskState
from perdure.telling import Update
from perdure.watch import Watch

EVENTS_PER_READ = 100
"""What a stream holds at most, beside the buffers of its connection."""
OUTAGE_PAUSE = 1.0
"""Seconds until who waits for an accepted task asks again for a database that is away."""

Take = Callable[[Update], bool]
"""Says an update at once. False, and nothing was said, where that would have to wait."""
Ends = Callable[[Update], bool]
"""Whether a stream ends with this update."""


def refuse(_: Update) -> bool:
    """For streams that cannot be written to from outside."""
    return False


@dataclass(frozen=True, slots=True)
class Batch:
    """The events of a log that follow number `after`, up to `last`, as far as they are updates."""

    after: int
    last: int
    updates: Sequence[Update] = ()


class Feeds:
    """Those of this process: one for each task that has streams."""

    def __init__(self, storage: Storage, watch: Watch) -> None:
        self._storage = storage
        self._watch = watch
        self._feeds: dict[UUID, Feed] = {}

    @contextmanager
    def joined(self, task_id: UUID) -> Iterator[Follower]:
        """A stream of the task, while inside: it misses nothing that is announced from now on. Whose the task is, is not asked
        here."""
        feed = self._feeds.get(task_id)
        if feed is None:
            feed = self._feeds[task_id] = Feed(self._storage, self._watch, task_id)
            self._watch.enter(feed)
        feed.streams += 1
        try:
            yield Follower(feed)
        finally:
            feed.streams -= 1
            if not feed.streams:
                del self._feeds[task_id]
                self._watch.leave(feed)
                feed.close()


class Feed:
    """What happens to one task."""

    def __init__(self, storage: Storage, watch: Watch, task_id: UUID) -> None:
        self._storage = storage
        self._watch = watch
        self.task_id = task_id
        self.streams = 0
        self.newest = 0
        """The highest number in the task's log that was heard of."""
        self.over = False
        """Whether nothing more comes: the task is gone, or the process is about to end."""
        self._doubtful = False  # it is said to be gone
        self._waiting: set[Follower] = set()
        self._handing: asyncio.Task[None] | None = None

    def heard(self, notice: Notice) -> None:
        """Take a notice; what is known already is ignored."""
        if notice.state is None:
            self._doubtful = True
        elif notice.seq <= self.newest:
            return
        else:
            self.newest = notice.seq
        self._look()

    def dismiss(self) -> None:
        """All streams end."""
        self.over = True
        for follower in tuple(self._waiting):
            follower.wake(None)

    def close(self) -> None:
        """Nobody is there any more."""
        if self._handing is not None:
            self._handing.cancel()

    def enter(self, follower: Follower) -> None:
        """It waits, and has said all that was heard of."""
        self._waiting.add(follower)
        if self._doubtful:
            self._look()

    def leave(self, follower: Follower) -> None:
        """It waits no more."""
        self._waiting.discard(follower)

    async def read(self, task: Task, after: int) -> Batch:
        """What follows in the log. An outage of the database is waited out."""
        while not self.over:
            known = self.newest
            try:
                events = await self._storage.events_since(
                    task.owner, task.task_id, after, limit=EVENTS_PER_READ
                )
            except StorageUnavailable:
                await asyncio.sleep(OUTAGE_PAUSE)
                continue
            if not events:  # announced, but not there: cleared meanwhile, or lost in a failover
                return Batch(after, max(after, known))
            updates = [_update(task, event, body) for event in events if (body := _shown(event))]
            return Batch(after, events[-1].seq, updates)
        return Batch(after, after)

    def _look(self) -> None:
        if self._waiting and self._handing is None:
            # Not in the context of whoever comes first: its log lines are about all of them.
            self._handing = asyncio.get_running_loop().create_task(self._hand_out(), context=Context())

    async def _hand_out(self) -> None:
        """Until all who wait have all that was heard of."""
        try:
            while self._waiting:
                if self._doubtful:
                    await self._confirm()
                first = min(self._waiting, key=attrgetter("cursor"), default=None)
                if first is None or first.cursor >= self.newest:
                    return
                batch = await self.read(first.task, first.cursor)
                for follower in tuple(self._waiting):
                    follower.hand(batch)
        except Exception as error:  # a defect: each stream tells it to its client
            for follower in tuple(self._waiting):
                follower.fail(error)
        finally:  # in the same step as the last look: the next notice starts another one
            self._handing = None

    async def _confirm(self) -> None:
        """Whether it is gone. A stream joins before its task is stored: a refresh in between does not find it."""
        self._doubtful = False
        try:
            found = await self._watch.ask(self.task_id)
        except StorageUnavailable:
            return  # the next refresh tells again
        if all(notice.state is None for notice in found):
            self.dismiss()
        for notice in found:
            self.newest = max(self.newest, notice.seq)


class Follower:
    """A stream at its feed. `cursor` is the number of the last event that it has said or that was none to say."""

    __slots__ = ("_ends", "_feed", "_take", "_woken", "cursor", "task")

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._woken: asyncio.Future[Batch | None] | None = None

    async def updates(
        self, task: Task, cursor: int, *, ends: Ends, take: Take = refuse
    ) -> AsyncIterator[Update]:
        """Every update after `cursor` that was not taken, until one ends the stream, or nothing more comes. `take` is called only
        while this is waited for."""
        feed, self.task, self.cursor, self._ends, self._take = self._feed, task, cursor, ends, take
        feed.heard(Notice(task.task_id, task.last_seq, task.state))
        while not feed.over:
            behind = self.cursor < feed.newest
            batch = await (feed.read(task, self.cursor) if behind else self._handed())
            if batch is None:
                return
            for update in batch.updates:
                self.cursor = update.seq
                yield update
                if ends(update):
                    return
            self.cursor = max(self.cursor, batch.last)

    async def _handed(self) -> Batch | None:
        """What could not be taken; None when the stream is over."""
        self._woken = asyncio.get_running_loop().create_future()
        self._feed.enter(self)
        try:
            return await self._woken
        finally:
            self._feed.leave(self)

    def hand(self, batch: Batch) -> None:
        """Take as much as possible, and wake up for the rest. A batch is for those who stand where it begins: in a log that was
        folded meanwhile another one may be somewhere inside its first event."""
        if self.cursor != batch.after:
            self.wake(Batch(self.cursor, self.cursor))
            return
        for place, update in enumerate(batch.updates):
            if not self._take(update):
                self.wake(Batch(self.cursor, batch.last, batch.updates[place:]))
                return
            if self._ends(update):
                self.wake(None)
                return
        self.cursor = batch.last

    def wake(self, batch: Batch | None) -> None:
        """It goes on by itself."""
        self._feed.leave(self)
        if self._woken is not None and not self._woken.done():
            self._woken.set_result(batch)

    def fail(self, error: Exception) -> None:
        """It raises that."""
        self._feed.leave(self)
        if self._woken is not None and not self._woken.done():
            self._woken.set_exception(error)


def _update(task: Task, event: Event, body: StatusChange | ArtifactChunk) -> Update:
    return Update(task_id=task.task_id, context_id=task.context_id, seq=event.seq, time=event.time, body=body)


def _shown(event: Event) -> StatusChange | ArtifactChunk | None:
    """An event as streams show it. A caller's message is no update; what the agent says in mid-turn comes with a status."""
    if not isinstance(event.body, Message):
        return event.body
    return StatusChange(TaskState.WORKING, event.body) if event.body.role is Role.AGENT else None
