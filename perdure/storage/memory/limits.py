"""How many turns may run at once with a key, and how many do."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from perdure.storage.memory.rows import TaskRow


@dataclass(slots=True)
class Limit:
    """Of one key."""

    most: int
    running: int = 0


class Limits:
    """By key. The keys of open tasks are always there."""

    def __init__(self) -> None:
        self._limits: dict[str, Limit] = {}

    def allow(self, limits: Mapping[str, int]) -> None:
        """A new task names them: what it says is so from now on."""
        for key, most in limits.items():
            self._limits.setdefault(key, Limit(most)).most = most

    def restore(self, limits: Mapping[str, int]) -> None:
        """A finished task from elsewhere names them: what is known already is newer."""
        for key, most in limits.items():
            self._limits.setdefault(key, Limit(most))

    def of(self, row: TaskRow) -> Mapping[str, int]:
        """How many may run with each of its keys; without those that were forgotten after its end."""
        return {key: self._limits[key].most for key in row.limit_keys if key in self._limits}

    def reached(self, row: TaskRow) -> bool:
        """Whether as many run as may, with one of its keys."""
        limits = (self._limits[key] for key in row.limit_keys)
        return any(limit.running >= limit.most for limit in limits)

    def count(self, row: TaskRow) -> None:
        """A turn of it runs."""
        for key in row.limit_keys:
            self._limits[key].running += 1

    def uncount(self, row: TaskRow) -> None:
        """It runs no longer."""
        for key in row.limit_keys:
            self._limits[key].running -= 1

    def forget(self, named: Collection[str]) -> int:
        """Drop those that nothing counts against and no open task has `named`; how many."""
        gone = [key for key, limit in self._limits.items() if not limit.running and key not in named]
        for key in gone:
            del self._limits[key]
        return len(gone)
