"""How many of a kind there may be at once: open streams, sends that wait."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from perdure.errors import Overloaded, TooMuch

RETRY_AFTER = 2, 8
"""Seconds, from and to: who is refused at once must not come back at once."""


class Places:
    """`what` names them for people. A place is given back when its holder ends, however that is."""

    def __init__(self, what: str, *, most: int, each: int) -> None:
        self._what = what
        self._most = most
        self._each = each
        self._taken: Counter[str] = Counter()
        self._all = 0

    @contextmanager
    def taken(self, owner: str) -> Iterator[None]:
        """A place while inside. `TooMuch` if the owner has all of its own, `Overloaded` if this process has no more."""
        if self._taken[owner] >= self._each:
            raise TooMuch(
                f"you have {self._each} {self._what} open, which is the limit", retry_after=retry_after()
            )
        if self._all >= self._most:
            raise Overloaded(f"too many {self._what} are open here; try again", retry_after=retry_after())
        self._taken[owner] += 1
        self._all += 1
        try:
            yield
        finally:
            self._all -= 1
            self._taken[owner] -= 1
            if not self._taken[owner]:
                del self._taken[owner]


def retry_after() -> float:
    """When to come back for something that is taken: spread, so that not everybody comes at the same time."""
    return random.uniform(*RETRY_AFTER)  # noqa: S311 - no secret
