"""What `MemoryStorage` knows of the tasks that wait, whatever for: ranks, limits and expiry are reckoned from it."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import TypeVar
from uuid import UUID

from perdure.owners import agent_of
from perdure.storage.memory.rows import TaskRow

Key = TypeVar("Key")


class Waiting:
    """Every submitted task."""

    def __init__(self) -> None:
        # Sorted; an insertion moves what is behind it, which for ten thousand is a few microseconds.
        self._ranks: dict[tuple[str, int], list[int]] = {}  # by agent and priority
        self._owned: dict[tuple[str, int], list[int]] = {}  # by owner and priority
        self._limited: dict[str, dict[UUID, TaskRow]] = {}  # by limit key
        self._timed: dict[UUID, TaskRow] = {}

    def add(self, row: TaskRow) -> None:
        """It is submitted from now on."""
        insort(self._ranks.setdefault((row.agent, row.priority), []), row.rank)
        insort(self._owned.setdefault((row.owner, row.priority), []), row.rank)
        for key in row.limit_keys:
            self._limited.setdefault(key, {})[row.task_id] = row
        if row.expires_at or row.deadline_at:
            self._timed[row.task_id] = row

    def remove(self, row: TaskRow) -> None:
        """It no longer is."""
        _take_out(self._ranks, (row.agent, row.priority), row.rank)
        _take_out(self._owned, (row.owner, row.priority), row.rank)
        for key in row.limit_keys:
            del self._limited[key][row.task_id]
            if not self._limited[key]:
                del self._limited[key]
        self._timed.pop(row.task_id, None)

    @property
    def number(self) -> int:
        """How many they are."""
        return sum(len(ranks) for ranks in self._ranks.values())

    def next_rank(self, owner: str, priority: int) -> int:
        """A new task's: one more than that of the owner's newest waiting task, but not before the one that is next of all of its
        agent."""
        lowest = self._ranks.get((agent_of(owner), priority), [0])[0]
        own = self._owned.get((owner, priority), [-1])[-1] + 1
        return max(lowest, own, 0)

    def sharing(self, limit_keys: Iterable[str]) -> Iterator[TaskRow]:
        """Those that count against one of these limits."""
        return (row for key in limit_keys for row in self._limited.get(key, {}).values())

    def late(self, now: datetime) -> list[TaskRow]:
        """Those over their time, longest first."""
        rows = [row for row in self._timed.values() if row.late(now)]
        return sorted(rows, key=TaskRow.ends_by)

    def ends(self) -> Iterator[datetime]:
        """The times at which one of them may be over its time."""
        times = (time for row in self._timed.values() for time in (row.expires_at, row.deadline_at))
        return (time for time in times if time is not None)


def _take_out(lists: dict[Key, list[int]], key: Key, rank: int) -> None:
    ranks = lists[key]
    del ranks[bisect_left(ranks, rank)]
    if not ranks:
        del lists[key]
