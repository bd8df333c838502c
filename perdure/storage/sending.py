"""What callers bring: a new task, and what their act led to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any
from uuid import UUID

from perdure.storage.webhooks import WebhookConfig
from perdure.tasks import Message, Notice, Ring, Task

TRACED = 8
"""How many trace contexts a task keeps: those of its newest messages."""


class Policy(Enum):
    """What a new task does while its context has one that waits or runs."""

    ENQUEUE = "enqueue"  # wait for its turn
    REJECT = "reject"  # be refused: `ContextBusy`
    INTERRUPT = "interrupt"  # cancel them, then start
    PARALLEL = "parallel"  # run beside them


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """What `submit_task` stores. `task_id` is made by the process that asks, so that asking again is harmless."""

    task_id: UUID
    owner: str
    context_id: str
    message: Message
    metadata: Mapping[str, Any] = field(default_factory=dict)
    policy: Policy = Policy.ENQUEUE
    priority: int = 0
    """-100 to 100; higher ones are claimed first."""
    delay: float = 0.0
    """Seconds until it is due."""
    expires: float | None = None
    """Seconds after which it fails if no turn has begun."""
    deadline: float | None = None
    """Seconds after which it fails if it has not ended; a running turn is ended by its worker."""
    limits: Mapping[str, int] = field(default_factory=dict)
    """What it counts against while it runs: a key, and how many may run with it."""
    webhooks: Sequence[WebhookConfig] = ()
    """Who is told of its changes, from the first one on."""
    trace_context: str = ""
    """Of the request that brings it, as `perdure.tracing` writes it; empty: it is not traced."""


@dataclass(frozen=True, slots=True)
class IdempotencyKey:
    """A send that may be repeated: `key` is the caller's own, `fingerprint` says what was asked for."""

    key: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class Accepted:
    """What a caller's act led to: the task as it stands now and, where a turn of it could be claimed now, the ring for it (also
    where a limit is reached: that may change before the ring is heard).

    The task's `history` is only the message that this call stored, its `artifacts` are left out: an append costs the same
    however much the task holds.
    """

    task: Task
    ring: Ring | None
    canceled: Sequence[Notice] = ()
    """The tasks that an interrupt canceled."""
    repeated: bool = False
    """Its idempotency key was used before with the same request: the task of that time, and nothing was stored."""
