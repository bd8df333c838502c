"""How many tasks a caller may have under way, and how many may wait in all: over all processes, without counting for each send.

A front door counts in the storage at most every second for a caller who sends, and adds what it has taken in itself since. Far
from a limit nobody waits for that count; near it the send waits, and before anybody is refused it is counted again. So a limit
can be passed by what the *other* front doors take in between two counts, and never by more than the limit itself for each of
them; within one process it is not passed.

Messages to a task that is there are not counted: its place was given to it when it was begun, and it would be stranded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

import structlog

from perdure.errors import Overloaded, StorageUnavailable, TooMuch
from perdure.settings import ServerSettings
from perdure.storage import Storage

from .places import retry_after

log = structlog.get_logger(__name__)

FRESH = 1.0
"""Seconds that a count is good for."""
JUST_NOW = 0.1
"""Seconds after which it is counted again before a caller is refused."""
SHARE = 0.02
"""Of a connection's time that counting may take: a count that takes long is good for longer."""
FORGOTTEN = 60.0
MANY = 1000
"""After so many seconds a caller who sends nothing is forgotten, once there are so many callers."""


class Place:
    """A place for one new task of this caller, while inside. `TooMuch`, `Overloaded`; `StorageUnavailable`."""

    __slots__ = ("_owner", "_quotas", "_tallies", "used")

    def __init__(self, quotas: Quotas, owner: str) -> None:
        self._quotas, self._owner = quotas, owner
        self.used = True
        """Cleared by who finds that nothing new was stored."""

    async def __aenter__(self) -> Place:
        self._tallies = await self._quotas.take(self._owner)
        return self

    async def __aexit__(self, kind: object, error: BaseException | None, _: object) -> None:
        # Where the storage was away it may have been stored all the same.
        stored = self.used if error is None else isinstance(error, StorageUnavailable)
        for tally in self._tallies:
            tally.give(stored=stored)


class Tally:
    """Counts that must stay below their limits (0: none), as this process knows them. `look` counts in the storage."""

    def __init__(self, limits: Sequence[int], look: Callable[[], Awaitable[Sequence[int]]]) -> None:
        self._limits = limits
        self._look = look
        self._counts: Sequence[int] = [0] * len(limits)
        self._known = False
        self._since = 0
        self._under_way = 0
        self._counted_at = 0.0
        self._good_for = FRESH
        self._counting: asyncio.Task[None] | None = None

    @property
    def idle(self) -> float:
        """Seconds since the last count; 0 while something is under way."""
        return 0.0 if self._under_way or self._counting else time.monotonic() - self._counted_at

    @property
    def is_fresh(self) -> bool:
        """Whether the last count is good, and has room."""
        return self._known and time.monotonic() - self._counted_at <= self._good_for and self.full() is None

    async def refresh(self) -> None:
        """Count if it is time to: in the background while the limits are far away, else before going on."""
        age = time.monotonic() - self._counted_at
        if not self._known or (age > self._good_for and not self._far()):
            await self._count()
        elif age > self._good_for:
            self._start_counting()
        if self.full() is not None and time.monotonic() - self._counted_at > JUST_NOW:
            await self._count()

    def full(self) -> int | None:
        """Which limit leaves no place for one more, by its number; None if there is one."""
        added = self._since + self._under_way
        for number, limit in enumerate(self._limits):
            if limit and self._counts[number] + added >= limit:
                return number
        return None

    def take(self) -> None:
        """A task is about to be stored."""
        self._under_way += 1

    def give(self, *, stored: bool) -> None:
        """It was, or not."""
        self._under_way -= 1
        self._since += stored

    def _far(self) -> bool:
        """Whether no limit is half reached."""
        added = self._since + self._under_way
        return all(
            2 * (count + added) < limit
            for count, limit in zip(self._counts, self._limits, strict=True)
            if limit
        )

    def _start_counting(self) -> asyncio.Task[None]:
        if self._counting is None:
            self._counting = asyncio.create_task(self._count_now())
            self._counting.add_done_callback(self._counted)
        return self._counting

    def _counted(self, counting: asyncio.Task[None]) -> None:
        self._counting = None
        if not counting.cancelled() and (error := counting.exception()):
            # Who waits for it has it as well; the next one counts again.
            log.debug("quotas.uncounted", error=str(error))

    async def _count(self) -> None:
        await asyncio.shield(self._start_counting())

    async def _count_now(self) -> None:
        """What was stored before it began is in the count; what is stored meanwhile may be, and is added."""
        before, started = self._since, time.monotonic()
        self._counts = await self._look()
        self._known = True
        self._since -= before
        self._counted_at = time.monotonic()
        self._good_for = max(FRESH, (self._counted_at - started) / SHARE)


class Quotas:
    """The limits of the settings."""

    def __init__(self, storage: Storage, settings: ServerSettings) -> None:
        self._storage = storage
        self._own_limits = settings.max_open_tasks, settings.max_waiting_per_caller
        self._limit = settings.max_waiting
        self._all = Tally([self._limit], self._count_all) if self._limit else None
        self._own: dict[str, Tally] = {}

    def place(self, owner: str) -> Place:
        """A place for one new task of this caller."""
        return Place(self, owner)

    async def take(self, owner: str) -> Sequence[Tally]:
        """What counts a new task of this caller, it included: `give` it back to each. Raises as `Place` says."""
        own = self._own_tally(owner)
        tallies = [tally for tally in (own, self._all) if tally]
        for tally in tallies:
            if not tally.is_fresh:
                await tally.refresh()
        # From here to the taking nothing is awaited: of many who come at once each sees those before it.
        if own and (number := own.full()) is not None:
            raise TooMuch(self._told(number), retry_after=retry_after())
        if self._all and self._all.full() is not None:
            raise Overloaded("too many tasks wait for a worker; try again", retry_after=retry_after())
        for tally in tallies:
            tally.take()
        return tallies

    def _told(self, number: int) -> str:
        what = "that have not ended", "that wait for a worker"
        return f"you have {self._own_limits[number]} tasks {what[number]}, which is the limit"

    def _own_tally(self, owner: str) -> Tally | None:
        if not any(self._own_limits):
            return None
        tally = self._own.get(owner)
        if tally is None:
            self._forget_some()
            tally = self._own[owner] = Tally(self._own_limits, lambda: self._count_own(owner))
        return tally

    def _forget_some(self) -> None:
        if len(self._own) % MANY == MANY - 1:
            self._own = {owner: tally for owner, tally in self._own.items() if tally.idle < FORGOTTEN}

    async def _count_own(self, owner: str) -> Sequence[int]:
        found = await self._storage.count_tasks(owner, up_to=max(self._own_limits))
        return found.open, found.waiting

    async def _count_all(self) -> Sequence[int]:
        return [await self._storage.count_waiting(up_to=self._limit)]
