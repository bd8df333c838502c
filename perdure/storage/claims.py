"""What workers hold: a claim, the turn that it is for, and what became of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol
from uuid import UUID

from perdure.tasks import Message, Notice, Ring, Task, TaskState

MOST_BACKOFF = 5
"""A task that waits is rung for again at the latest after 2^5 = 32 times the idle time. Nothing waits for that: a worker with a
free slot and a silent bell claims unasked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """The right to run one turn of a task. `attempt` is the fencing token; `token` names this very claim."""

    task_id: UUID
    owner: str
    context_id: str
    attempt: int
    token: UUID

    def __hash__(self) -> int:
        return hash(self.token)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedTurn:
    """A claim with what its handler needs.

    `task` holds all that settled so far, of its history the last `history` messages. `conversation` is what was said in the
    context up to and with this task, oldest first, the agent's artifacts and questions as messages with the role agent; the last
    `history` of them.
    """

    claim: Claim
    task: Task
    conversation: Sequence[Message]
    steps: Mapping[tuple[str, int], Any] = field(default_factory=dict)
    """Results of checkpoints that earlier attempts of this turn stored, by name and occurrence (1, 2, ...)."""
    deadline: float | None = None
    """Seconds until the task's deadline."""
    trace_contexts: Sequence[str] = ()
    """Of the requests that brought its messages, the newest last; the last `TRACED`."""
    again: bool = False
    """Whether its token got it before, so that a part of its lease is over."""


@dataclass(frozen=True, slots=True)
class Written:
    """A turn's write was kept. `state` is where the task stands now: `submitted` instead of the state asked for when a message
    came in that the turn had not seen. `rings` is what became claimable by it."""

    state: TaskState
    seq: int
    rings: Sequence[Ring] = ()


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep changed: what became claimable, and where the tasks that it touched stand now."""

    rings: Sequence[Ring] = ()
    notices: Sequence[Notice] = ()


class Held(Enum):
    """What a renewal found."""

    YES = "yes"
    CANCELED = "canceled"  # still ours until released, so that the slot frees when the handler has ended
    LOST = "lost"


class Keeper(Protocol):
    """Renews leases from its own thread over its own connection, so that a handler that blocks the event loop keeps its task."""

    def keep(self, claim: Claim, lost: Callable[[Held], None], *, limit: float | None = None) -> None:
        """Renew `claim` until `drop`. `lost` is called once, from the keeper's thread, when a renewal finds CANCELED or LOST;
        after LOST it is dropped, after CANCELED it is still renewed. After `limit` seconds without `settling` it is dropped
        without a word: its event loop must be hung, and may not keep the task for ever. Returns at once."""

    def settling(self, claim: Claim) -> None:
        """The handler has ended and the settle or release is being sent: from now on `lost` is not called, since a renewal that
        finds nothing means nothing, and there is no limit."""

    def drop(self, claim: Claim) -> None:
        """Stop renewing. Unknown claims are ignored."""

    def close(self) -> None:
        """End the thread."""
