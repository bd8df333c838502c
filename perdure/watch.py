"""Waiting for tasks to change, without polling per waiter.

A process has one `Watch`. It listens to the queue's notices, and makes up for lost ones: after every reconnect, and every
`refresh` seconds, one query covers all the tasks that somebody in this process waits for (DESIGN: pub/sub drops messages, and
a process can die between its commit and its announcement).

The order matters: follow, then read, then wait. What changes after the read is then heard in any case.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Protocol
from uuid import UUID

import structlog

from perdure.errors import QueueUnavailable, StorageUnavailable
from perdure.queue import Queue
from perdure.storage import Storage
from perdure.tasks import Notice

log = structlog.get_logger(__name__)

DEGRADED_REFRESH = 1.0
"""Seconds between two looks at the log while the queue is away."""
_PAUSE_AFTER_SURPRISE = 1.0
"""Seconds until it listens again after an error that nobody foresaw: it may come again at once, with a traceback each time."""


class Waits(Protocol):
    """Who waits for one task."""

    task_id: UUID

    def heard(self, notice: Notice) -> None:
        """Called on the event loop for each notice about the task, repeated and stale ones included."""

    def dismiss(self) -> None:
        """Wait no longer: the process is about to end."""


class Watch:
    """Notices for whoever waits in this process."""

    def __init__(self, storage: Storage, queue: Queue, *, refresh: float) -> None:
        self._storage = storage
        self._queue = queue
        self._refresh_every = refresh
        self._followers: dict[str, list[Callable[[Notice], None]]] = {}
        self._waiters: set[Waits] = set()
        self._dismissed = False
        self._away = asyncio.Event()

    @property
    def degraded(self) -> bool:
        """Whether the queue is away, so that changes are seen only at each refresh."""
        return self._away.is_set()

    @contextmanager
    def follow(self, task_id: UUID, heard: Callable[[Notice], None]) -> Iterator[None]:
        """Call `heard` on this event loop for each notice about the task, repeated and stale ones included."""
        self._followers.setdefault(str(task_id), []).append(heard)
        try:
            yield
        finally:
            self._forget(task_id, heard)

    def waiter(self, task_id: UUID) -> Waiter:
        """A place to wait for the task's next change, while inside (`with`)."""
        return Waiter(self, task_id)

    def enter(self, waiter: Waits) -> None:
        """It hears from now on."""
        self._waiters.add(waiter)
        self._followers.setdefault(str(waiter.task_id), []).append(waiter.heard)
        if self._dismissed:
            waiter.dismiss()

    def leave(self, waiter: Waits) -> None:
        """It hears no more."""
        self._waiters.remove(waiter)
        self._forget(waiter.task_id, waiter.heard)

    def _forget(self, task_id: UUID, heard: Callable[[Notice], None]) -> None:
        followers = self._followers[name := str(task_id)]
        followers.remove(heard)
        if not followers:
            del self._followers[name]

    async def ask(self, task_id: UUID) -> Sequence[Notice]:
        """Where a task stands in the storage."""
        return await self._storage.notices([task_id])

    def dismiss(self) -> None:
        """Nobody waits any longer: the process is about to end."""
        self._dismissed = True
        for waiter in self._waiters:
            waiter.dismiss()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Watch]:
        """Listen and refresh while inside."""
        loops = [asyncio.create_task(self._listen()), asyncio.create_task(self._refresh())]
        try:
            yield self
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)

    async def _listen(self) -> None:
        pause = 0.05
        while True:
            try:
                async with self._queue.listen(self._followers) as notices:
                    if self.degraded:
                        log.info("watch.recovered")
                    self._away.clear()
                    pause = 0.05
                    await self.refresh()  # what was announced while nobody listened
                    async for notice in notices:
                        self._tell(notice)
            except QueueUnavailable as error:
                if not self.degraded:
                    every = min(self._refresh_every, DEGRADED_REFRESH)
                    log.warning("watch.degraded", error=str(error), refresh_seconds=every)
                self._away.set()
            except Exception:  # a listener that ended would be missed by nobody, and waiters would wait on
                log.exception("watch.failed")
                self._away.set()
                pause = _PAUSE_AFTER_SURPRISE
            await asyncio.sleep(pause)
            pause = min(pause * 2, 2.0)

    async def _refresh(self) -> None:
        while True:
            if self._queue.shared and not self.degraded:
                await self._pause_until_degraded()
            else:
                await asyncio.sleep(min(self._refresh_every, DEGRADED_REFRESH))
            try:
                await self.refresh()
            except Exception:  # as above
                log.exception("watch.refresh_failed")

    async def _pause_until_degraded(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._refresh_every):
                await self._away.wait()

    async def refresh(self) -> None:
        """One query for all that is waited for."""
        if not self._followers:
            return
        with suppress(StorageUnavailable):  # the next refresh asks again
            for notice in await self._storage.notices([UUID(name) for name in self._followers]):
                self._tell(notice)

    def _tell(self, notice: Notice) -> None:
        for heard in tuple(self._followers.get(str(notice.task_id), ())):
            heard(notice)


class Waiter:
    """Remembers the newest notice about one task, while inside."""

    def __init__(self, watch: Watch, task_id: UUID) -> None:
        self.task_id = task_id
        self._watch = watch
        self._newest: Notice | None = None
        self._news = asyncio.Event()
        self.dismissed = False
        """Whether the process is about to end, so that nobody should go on waiting."""

    def __enter__(self) -> Waiter:
        self._watch.enter(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._watch.leave(self)

    def moves_to(self, task_id: UUID) -> None:
        """Wait for this task instead, from now on."""
        if task_id != self.task_id:
            self._watch.leave(self)
            self.task_id, self._newest = task_id, None
            self._watch.enter(self)

    def heard(self, notice: Notice) -> None:
        """Take a notice; older ones than the newest are ignored."""
        if self._newest is None or notice.state is None or notice.seq > self._newest.seq:
            self._newest = notice
            self._news.set()

    def dismiss(self) -> None:
        """Wait no longer."""
        self.dismissed = True
        self._news.set()

    async def beyond(self, seq: int, *, resting: bool = False) -> Notice:
        """The newest notice once its seq is above `seq` or the task is gone; with `resting`, once the task rests as well.
        TimeoutError when dismissed before."""
        while True:
            notice = self._newest
            if notice is not None and notice.state is None:
                found = await self._confirmed(notice)
                if self._newest is notice:  # nothing was heard meanwhile
                    self._newest = found
                notice = self._newest
            if notice is not None and _is_news(notice, seq, resting):
                return notice
            if self.dismissed:
                raise TimeoutError("dismissed")
            self._news.clear()
            await self._news.wait()

    async def _confirmed(self, gone: Notice) -> Notice | None:
        """Whether it is gone. A place to wait is taken before the task is stored: a refresh in between does not find it."""
        try:
            found = await self._watch.ask(self.task_id)
        except StorageUnavailable:
            return None  # the next refresh tells again
        return found[0] if found else gone


def _is_news(notice: Notice, seq: int, resting: bool) -> bool:
    if notice.state is None:
        return True
    return notice.seq > seq and (notice.state.rests or not resting)
