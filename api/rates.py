"""How often a caller may ask: a token bucket for each, in this process.

It is kept as one moment per caller (the generic cell rate algorithm): when the bucket will be full again. Why this is our own
stands in docs/decisions ("Limits of callers").
"""

from __future__ import annotations

import time
from collections.abc import Callable

from perdure.errors import TooMuch
from perdure.settings import ServerSettings

from .auth import Caller

AUTHENTICATED = 500.0
"""Requests per second unless the setting says otherwise. Without authentication everybody is one caller."""
MANY = 10_000
"""Callers that are remembered before those are looked for that may be forgotten."""


class Rates:
    """A bucket of `burst` tokens for each caller; `rate` tokens come in each second, a request takes one."""

    def __init__(self, settings: ServerSettings, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate = settings.rate
        self._burst = settings.burst
        self._clock = clock
        self._full_at: dict[str, float] = {}
        self._tidied = 0.0

    def take(self, caller: Caller) -> None:
        """One request. `TooMuch`, with the seconds until the next one may come."""
        rate = self._rate
        if rate is None:
            rate = AUTHENTICATED if caller.authenticated else 0.0
        if not rate:
            return
        now, interval = self._clock(), 1 / rate
        full_at = max(self._full_at.get(caller.owner, now), now) + interval
        wait = full_at - now - self._burst * interval
        if wait > interval / 1000:  # what is lost in adding up fractions is no debt
            raise TooMuch(f"more than {rate:g} requests per second", retry_after=wait)
        self._full_at[caller.owner] = full_at
        if len(self._full_at) > MANY and now > self._tidied + 1:
            self._tidy(now)

    def _tidy(self, now: float) -> None:
        """A full bucket is one that nobody has touched."""
        self._full_at = {owner: full_at for owner, full_at in self._full_at.items() if full_at > now}
        self._tidied = now
