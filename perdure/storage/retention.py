"""Retention in the port: what has ended is found, archived and deleted; and put back from an archive.

Nothing here blocks anybody: tasks that somebody has locked are left for the next time, and a conversation's row is locked for
no longer than it takes to delete it. The one who waits is who refers to a task (or adds to it) that is being deleted at this
very moment: until its batch has ended.

A task that has ended may be deleted unless

- its worker has not let go of it;
- a delivery waits for one of its webhooks (a disabled one does not count: nothing is sent there until somebody enables it);
- a message of a task of the same owner that has not ended refers to it;
- an idempotency key stands for it: the send repeated would be a new task.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

from perdure.storage.operators import Failure
from perdure.storage.webhooks import Delivery, DeliveryAttempt
from perdure.tasks import Event, StatusChange, Task, TaskState

if TYPE_CHECKING:
    from perdure.storage.contexts import Feedback

FIRST = UUID(int=0)
"""Before every task id."""
WINDOW = 1000
"""How many tasks one look passes by."""
OLDER_PLACES = 2**40
"""So many places before their own, tasks are put back into a conversation that has begun anew meanwhile."""


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task that ended `ago` seconds ago, and how many events it had. `trimmed`: its log has been shortened."""

    task_id: UUID
    state: TaskState
    ago: float
    events: int
    trimmed: bool


@dataclass(frozen=True, slots=True)
class EndedTasks:
    """Those among the next `looked_at` tasks; `next` is the last of these, None when there are no more that are old
    enough: they sort by the time of their making."""

    tasks: Sequence[EndedTask]
    next: UUID | None
    looked_at: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """`tasks` were deleted, with so many `contexts` that hold nothing any more; `left` were not come to in time."""

    tasks: Mapping[UUID, TaskState] = field(default_factory=dict)
    contexts: int = 0
    left: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """All that is kept of a task. `position` is its place in its conversation, `status_seq` the number of the event that made
    its present status, `workers` says who claimed an attempt. What webhooks were told is a record alone: where they
    are, and their secrets, is not in it."""

    task: Task
    position: int
    status_seq: int
    events: Sequence[Event]
    lost_attempts: Sequence[int] = ()
    workers: Mapping[int, str] = field(default_factory=dict)
    priority: int = 0
    parallel: bool = False
    limits: Mapping[str, int] = field(default_factory=dict)
    streamed: bool = False
    trimmed: bool = False
    trace_contexts: Sequence[str] = ()
    feedback: Sequence[Feedback] = ()
    failures: Sequence[Failure] = ()
    deliveries: Sequence[tuple[Delivery, Sequence[DeliveryAttempt]]] = ()


class Archive(Protocol):
    """Where tasks go before they are deleted. Both raise `ArchiveFailed`, and then nothing is deleted."""

    async def add(self, record: TaskRecord) -> None:
        """One task."""

    async def sync(self) -> None:
        """What was added would outlive a crash of this machine."""


class Retention(Protocol):
    """See `Storage` for the rules that hold everywhere."""

    async def ended_tasks(
        self, *, older_than: float, after: UUID = FIRST, window: int = WINDOW
    ) -> EndedTasks:
        """Of the next `window` tasks after the id `after` those that ended at least `older_than` seconds ago and that nobody
        holds, in the order of their ids, which is about that of their making."""

    async def weigh_tasks(self, task_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        """Those of them that `prune_tasks` would delete were they old enough, and about how many bytes each of them takes."""

    async def prune_tasks(
        self,
        task_ids: Sequence[UUID],
        ages: Mapping[TaskState, float],
        *,
        archive: Archive | None = None,
        seconds: float = 1.0,
    ) -> Pruned:
        """Delete those of these tasks that may be (see the module's text) and ended at least so many seconds ago as `ages` says
        of their state, with all that belongs to them, in one transaction. A conversation goes with its last task unless its
        caller has put metadata or messages there.

        Each is handed to `archive` first, and that is synced before the deletion commits: a crash in between archives a task
        twice, and loses none. After `seconds` no more of them are archived.
        """

    async def trim_tasks(self, task_ids: Sequence[UUID], *, ended_for: float) -> int:
        """Shorten the logs of those that ended at least `ended_for` seconds ago; how many. What goes says nothing any more about
        where the task stands: its way through the states, progress, and what lost attempts wrote. History, artifacts and the
        present status stay, with their numbers, and each of these events stands for those before it that went, so that streams
        resume from any number. Each task is trimmed once, and not while there are deliveries of it."""

    async def task_record(self, task_id: UUID) -> TaskRecord:
        """All of a task, whoever owns it. `TaskNotFound`."""

    async def restore_task(self, record: TaskRecord) -> bool:
        """Put a task back that has ended, into its conversation, which is made if it is gone. False if a task with its id is
        there. Its deliveries are not put back. `ValueError` for one that has not ended."""

    async def forget_actions(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete the oldest entries of the audit; how many."""

    async def begin_retention(self, token: UUID, *, every: float, lease: float) -> UUID | None:
        """The right to look through all tasks, for `lease` seconds: after which one to begin. None while somebody has it, or
        if the last one who did came to the end less than `every` seconds ago."""

    async def go_on_with_retention(self, token: UUID, place: UUID | None, *, lease: float) -> bool:
        """`place` is come to (None: the end), and the right is good for `lease` seconds more. False if it was lost."""

    async def retention_age(self) -> float | None:
        """How many seconds ago somebody last came to the end; None: never."""


def needed(event: Event, lost_attempts: Collection[int], status_seq: int) -> bool:
    """Whether history, artifacts or the present status need it."""
    if event.attempt in lost_attempts:
        return False
    return (
        not isinstance(event.body, StatusChange) or event.seq == status_seq or event.body.message is not None
    )
