"""Time that passes when a test says so: for the storage, and for everything that waits on the event loop.

The loop of a `Harness` never sleeps. Where nothing is left to do but to wait for a timer, its time jumps to that timer, as far as
the test allows. What works outside of the loop, a thread or a connection, is waited for in real time.
"""

from __future__ import annotations

import asyncio
import selectors
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.threads import working_for

_LOOK = 0.01
"""Seconds between two looks at whether what works outside of the loop has ended."""


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self, start: datetime | None = None) -> None:
        self._start = start or datetime.now(UTC)
        self.passed = 0.0
        """Seconds since it was made."""

    def now(self) -> datetime:
        """What time it is, in UTC."""
        return self._start + timedelta(seconds=self.passed)


class PatientLoop(asyncio.SelectorEventLoop):
    """An event loop on a `Clock`. `patience` is how many real seconds without a sign what works outside of it is waited for."""

    def __init__(self, clock: Clock, *, patience: float) -> None:
        self._clock = clock
        self._in_executors: set[asyncio.Future[Any]] = set()
        self._waiting = _Waiting(clock, self._outside, patience)
        super().__init__(self._waiting)
        # A timer that is this near is due. With that of the system's clock one of a year ahead never would be: nothing so small
        # can be added to so many seconds.
        self._clock_resolution = 1e-6

    def time(self) -> float:
        """Seconds on the clock."""
        return self._clock.passed

    def idle(self, until: float) -> asyncio.Future[None]:
        """Done when nothing is left to do before the clock shows `until`, which it then does (infinity: never again)."""
        return self._waiting.begin(until, self.create_future())

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """As ever, and remembered."""
        future = super().run_in_executor(executor, func, *args)
        self._in_executors.add(future)
        future.add_done_callback(self._in_executors.discard)
        return future

    def _outside(self) -> set[Any]:
        return {*working_for(self), *self._in_executors}


class _Waiting(selectors.BaseSelector):
    """What the loop does when it has nothing to do."""

    def __init__(self, clock: Clock, outside: Callable[[], set[Any]], patience: float) -> None:
        self._clock = clock
        self._outside = outside
        self._patience = patience
        self._inner = selectors.DefaultSelector()
        self._own_pipe: int | None = None  # by which threads wake the loop: the first that it registers
        self._since: float | None = None
        self._given_up: set[Any] = set()
        self.told: asyncio.Future[None] | None = None
        self.until = 0.0

    def begin(self, until: float, told: asyncio.Future[None]) -> asyncio.Future[None]:
        """See `PatientLoop.idle`."""
        self.until, self.told, self._since = until, told, None
        return told

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = self._inner.select(0)
        if found or (timeout is not None and timeout <= 0):
            if self.until > self._clock.passed:
                # Where no time is to pass, what never falls silent is not waited for either.
                self._since = None
            return found
        if self.told is None or self.told.done():  # nobody plays with the time: the loop is being closed
            return self._inner.select(timeout)
        if self._working():
            return self._inner.select(_LOOK)
        self._given_up -= self._outside()  # after whatever comes now they may go on
        left = max(self.until - self._clock.passed, 0.0)
        if timeout is not None and timeout <= left:
            self._clock.passed += timeout
        else:
            self._clock.passed += left if left < float("inf") else 0.0
            self.told.set_result(None)
        return []

    def _working(self) -> bool:
        """Whether something outside may still have a sign to give."""
        working = self._outside() | (set(self._inner.get_map()) - {self._own_pipe})
        self._given_up &= working
        if working <= self._given_up:
            self._since = None
            return False
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since < self._patience:
            return True
        self._given_up, self._since = working, None
        return False

    # ------------------------------------------------------------------ as it is

    def register(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        key = self._inner.register(fileobj, events, data)
        self._own_pipe = key.fd if self._own_pipe is None else self._own_pipe
        return key

    def unregister(self, fileobj: Any) -> selectors.SelectorKey:
        return self._inner.unregister(fileobj)

    def modify(self, fileobj: Any, events: int, data: Any = None) -> selectors.SelectorKey:
        return self._inner.modify(fileobj, events, data)

    def close(self) -> None:
        self._inner.close()

    def get_map(self) -> Mapping[Any, selectors.SelectorKey]:
        return self._inner.get_map()
