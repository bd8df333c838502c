"""What callers look through: pages of tasks, and how many there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from perdure.tasks import Task, TaskState

TOTAL_CAP = 10_000
"""Counting stops here: an exact count of a million rows takes a quarter of a second and nobody pages through them."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in a keyset page: everything after it is older."""

    time: datetime
    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskQuery:
    """Filters of `list_tasks`. `since` is inclusive and compares the status timestamp."""

    owner: str
    context_id: str | None = None
    state: TaskState | None = None
    since: datetime | None = None
    page_size: int = 50
    after: Cursor | None = None
    history_length: int | None = None
    include_artifacts: bool = False


@dataclass(frozen=True, slots=True)
class TaskPage:
    """`next` is None on the last page. `total` counts all that match, up to `TOTAL_CAP`."""

    tasks: Sequence[Task]
    next: Cursor | None
    total: int


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """Tasks of an owner: that have not ended, and those of them that are submitted. Each up to the cap that was asked for."""

    open: int = 0
    waiting: int = 0
