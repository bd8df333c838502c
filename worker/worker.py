"""What every turn of this process shares, and the bell from its side."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from uuid import UUID

import structlog

from perdure.agent import Agent
from perdure.errors import QueueUnavailable
from perdure.owners import ONLY
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Keeper, Storage
from perdure.tasks import Notice, Ring
from perdure.turns.stuck import fail_at_the_end
from perdure.watch import Watch

log = structlog.get_logger(__name__)


def ask_to_end() -> None:
    """Let this process end in good order, as its supervisor would, with exit code 1."""
    fail_at_the_end()
    signal.raise_signal(signal.SIGTERM)


@dataclass(slots=True)
class Duty:
    """How a worker is: read by its beats and by its port, written from wherever it is found out."""

    draining: bool = False
    """An operator asked it to begin no more turns."""
    storage_answers: bool = False
    loop_lag: float = 0.0
    """Seconds that the event loop was late at the last look, or has been so far."""
    counters: Counter[str] = field(default_factory=Counter)
    """What its sweeps did, since its start."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A process that runs turns of an agent. `worker_id` is random for each start. One that serves several agents is one of these
    for each, which share all but the agent."""

    worker_id: str
    agent: Agent
    name: str = ONLY
    """Of the agent, among several."""
    storage: Storage
    queue: Queue
    watch: Watch
    keeper: Keeper
    settings: Settings
    end: Callable[[], None] = ask_to_end
    """Called when the process has too many handlers that are stuck."""
    deliver: Callable[[], None] = lambda: None
    """Called after a write of a turn, which may have put deliveries into the outbox. Returns at once."""
    duty: Duty = field(default_factory=Duty)
    unanswered: list[tuple[UUID, float]] = field(default_factory=list, init=False)
    """Tokens of its agent's claims of which nobody knows what they got, and when they were sent first, on the monotonic clock."""


async def ring(queue: Queue, rings: Sequence[Ring]) -> None:
    """After the commit that made them claimable; best effort, since the sweep finds what was not rung."""
    try:
        await queue.ring(rings)
    except QueueUnavailable as error:
        log.warning("ring.failed", tasks=len(rings), error=str(error))


async def announce(queue: Queue, notices: Sequence[Notice]) -> None:
    """After the commit; best effort, since whoever waits looks for himself every few seconds."""
    try:
        await queue.announce(notices)
    except QueueUnavailable as error:
        log.debug("announce.failed", tasks=len(notices), error=str(error))
