"""How many of a kind there may be at once: open streams, sends that wait."""

from __future__ import annotations

import random
from collections import Counter

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

    def taken(self, owner: str) -> Place:
        """A place while inside. `TooMuch` if the owner has all of its own, `Overloaded` if this process has no more."""
        return Place(self, owner)

    def take(self, owner: str) -> None:
        """See `taken`."""
        if self._taken[owner] >= self._each:
            raise TooMuch(
                f"you have {self._each} {self._what} open, which is the limit", retry_after=retry_after()
            )
        if self._all >= self._most:
            raise Overloaded(f"too many {self._what} are open here; try again", retry_after=retry_after())
        self._taken[owner] += 1
        self._all += 1

    def give(self, owner: str) -> None:
        """One is free again."""
        self._all -= 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]


class Place:
    """One that is taken while inside."""

    __slots__ = ("_owner", "_places")

    def __init__(self, places: Places, owner: str) -> None:
        self._places, self._owner = places, owner

    def __enter__(self) -> None:
        self._places.take(self._owner)

    def __exit__(self, *_: object) -> None:
        self._places.give(self._owner)


def retry_after() -> float:
    """When to come back for something that is taken: spread, so that not everybody comes at the same time."""
    return random.uniform(*RETRY_AFTER)  # noqa: S311 - no secret
