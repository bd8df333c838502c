"""Retention at work: what is kept for how long, and the walk through all tasks that deletes what is older.

The walk reads tasks in the order of their making, a window at a time, and deletes in small batches. After each it rests as long
as the batch took, so that it never takes more than half of one connection.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID

from perdure.storage import Storage
from perdure.storage.retention import FIRST, Archive, EndedTask
from perdure.tasks import TaskState

if TYPE_CHECKING:
    from perdure.settings import RetentionSettings

BATCH_TASKS = 50
BATCH_EVENTS = 5_000
"""What one transaction deletes; a task with more events is alone in it."""
AGES = (("a day", 86_400.0), ("a week", 7 * 86_400.0), ("30 days", 30 * 86_400.0), ("a year", 365 * 86_400.0))
"""In a survey: younger than these."""
OLDEST = "a year and more"


@dataclass(frozen=True, slots=True)
class Rules:
    """How many seconds after its end a task is kept, by its state (a state that is not named: for ever), its whole log, and an
    entry of the operators' audit."""

    ages: Mapping[TaskState, float]
    events: float | None = None
    actions: float | None = None

    @classmethod
    def of(cls, settings: RetentionSettings) -> Rules:
        """Those of the settings."""
        given = {state: getattr(settings, state.value) for state in TaskState if state.terminal}
        ages = {state: age for state, age in given.items() if age is not None}
        return cls(ages, settings.events, settings.actions)

    def __bool__(self) -> bool:
        """Whether anything ever goes."""
        return bool(self.ages) or self.events is not None or self.actions is not None

    @property
    def least(self) -> float | None:
        """No task that ended less than so many seconds ago is touched; None: none at all."""
        ages = [*self.ages.values(), *(() if self.events is None else (self.events,))]
        return min(ages, default=None)

    def due(self, task: EndedTask) -> bool:
        """Whether it is old enough to go."""
        return task.state in self.ages and task.ago >= self.ages[task.state]

    def long(self, task: EndedTask) -> bool:
        """Whether its log is old enough to be trimmed, and has not been."""
        return self.events is not None and not task.trimmed and task.ago >= self.events


@dataclass(slots=True)
class Tally:
    """What was done. `kept` were old enough, and needed by something (see `perdure.storage.retention`)."""

    tasks: Counter[TaskState] = field(default_factory=Counter)
    contexts: int = 0
    trimmed: int = 0
    actions: int = 0
    kept: int = 0

    def __str__(self) -> str:
        parts = [f"{self.tasks.total()} tasks deleted"]
        if self.contexts:
            parts.append(f"{self.contexts} conversations with them")
        if self.trimmed:
            parts.append(f"{self.trimmed} logs trimmed")
        if self.actions:
            parts.append(f"{self.actions} entries of the audit deleted")
        if self.kept:
            parts.append(f"{self.kept} kept because something needs them")
        return ", ".join(parts)


GoOn = Callable[[UUID, Tally], Awaitable[bool]]


async def _always(place: UUID, tally: Tally) -> bool:
    return True


async def prune(
    storage: Storage,
    rules: Rules,
    *,
    archive: Archive | None = None,
    after: UUID = FIRST,
    go_on: GoOn = _always,
) -> Tally:
    """Delete what is old enough of the tasks after `after`. `go_on` is asked after each batch, with the task that all before
    it have been looked at. `ArchiveFailed`, `StorageUnavailable`; what was done stays done."""
    tally, place = Tally(), after
    if rules.actions is not None:
        while gone := await storage.forget_actions(older_than=rules.actions):
            tally.actions += gone
    more = rules.least is not None
    while more:
        page = await storage.ended_tasks(older_than=rules.least or 0.0, after=place)
        if not await _pruned(storage, page.tasks, rules, archive, tally, partial(go_on, place, tally)):
            break
        more = page.next is not None
        place = page.next or place
        more = more and await go_on(place, tally)
    return tally


async def _pruned(
    storage: Storage,
    tasks: Sequence[EndedTask],
    rules: Rules,
    archive: Archive | None,
    tally: Tally,
    go_on: Callable[[], Awaitable[bool]],
) -> bool:
    """Whether to go on."""
    for batch in batches([task for task in tasks if rules.due(task)]):
        await _rested(_deleted(storage, batch, rules, archive, tally))
        if not await go_on():
            return False
    for batch in batches([task for task in tasks if rules.long(task)]):
        await _rested(_trimmed(storage, batch, rules, tally))
        if not await go_on():
            return False
    return True


async def _deleted(
    storage: Storage, batch: Sequence[UUID], rules: Rules, archive: Archive | None, tally: Tally
) -> None:
    left = batch
    while left:
        pruned = await storage.prune_tasks(left, rules.ages, archive=archive)
        tally.tasks.update(pruned.tasks.values())
        tally.contexts += pruned.contexts
        tally.kept += len(left) - len(pruned.tasks) - len(pruned.left)
        left = pruned.left


async def _trimmed(storage: Storage, batch: Sequence[UUID], rules: Rules, tally: Tally) -> None:
    assert rules.events is not None  # noqa: S101 - nothing is due else
    tally.trimmed += await storage.trim_tasks(batch, ended_for=rules.events)


async def _rested(work: Awaitable[None]) -> None:
    began = time.monotonic()
    await work
    await asyncio.sleep(time.monotonic() - began)


def batches(tasks: Sequence[EndedTask]) -> Iterator[Sequence[UUID]]:
    """What one transaction takes at once."""
    batch: list[UUID] = []
    events = 0
    for task in tasks:
        if batch and (len(batch) == BATCH_TASKS or events + task.events > BATCH_EVENTS):
            yield batch
            batch, events = [], 0
        batch.append(task.task_id)
        events += task.events
    if batch:
        yield batch


# ---------------------------------------------------------------------- looking only


@dataclass(slots=True)
class Survey:
    """What `prune` would do: tasks and bytes by state and age, how many are needed by something, how many logs are long."""

    tasks: Counter[tuple[TaskState, str]] = field(default_factory=Counter)
    sizes: Counter[tuple[TaskState, str]] = field(default_factory=Counter)
    kept: int = 0
    logs: int = 0

    @property
    def total(self) -> int:
        """Tasks that would go."""
        return self.tasks.total()


async def survey(
    storage: Storage, rules: Rules, *, tell: Callable[[int], None] = lambda looked_at: None
) -> Survey:
    """Look through all tasks, and change nothing. `tell` is told how many were looked at."""
    found, place, looked_at = Survey(), FIRST, 0
    while rules.least is not None:
        page = await storage.ended_tasks(older_than=rules.least, after=place)
        due = [task for task in page.tasks if rules.due(task)]
        sizes: dict[UUID, int] = {}
        for batch in batches(due):
            sizes |= await storage.weigh_tasks(batch)
        for task in due:
            if task.task_id in sizes:
                found.tasks[task.state, age_of(task)] += 1
                found.sizes[task.state, age_of(task)] += sizes[task.task_id]
        found.kept += len(due) - len(sizes)
        found.logs += sum(rules.long(task) and task.task_id not in sizes for task in page.tasks)
        tell(looked_at := looked_at + page.looked_at)
        if page.next is None:
            break
        place = page.next
    return found


def age_of(task: EndedTask) -> str:
    """The group of ages that it is in."""
    return next((f"less than {name}" for name, limit in AGES if task.ago < limit), OLDEST)
