"""The storage of a `Harness`: the one in memory, on its clock, which can let the worker die at a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal
from uuid import UUID

import orjson

from perdure.agent import Progress
from perdure.errors import LeaseLost
from perdure.storage import Claim, Held
from perdure.storage.memory import MemoryStorage
from perdure.tasks import Event, StatusChange, Task

from .clock import Clock
from .result import Happening, Result

_EVERYTHING = 1_000_000_000


@dataclass(frozen=True)
class Crash:
    """A death that is yet to come: when the n-th call of a step was made, `before` its result is stored or `after`."""

    step: str
    occurrence: int
    when: Literal["before", "after"]


class HarnessStorage(MemoryStorage):
    """`die` is called where a crash is to come."""

    def __init__(self, clock: Clock, die: Callable[[], None]) -> None:
        super().__init__(clock=clock.now)
        self.crashes: list[Crash] = []
        self._die = die

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: object) -> None:
        crash = next(
            (each for each in self.crashes if (each.step, each.occurrence) == (name, occurrence)), None
        )
        if crash is None or crash.when == "after":
            await super().store_step(claim, name, occurrence, result)
        if crash is not None:
            self.crashes.remove(crash)
            self._die()
            raise LeaseLost(canceled=False)

    def next_time(self) -> datetime | None:
        """When, at the earliest, time alone changes something."""
        with self._lock:
            return self._ledger.next_time()

    def holds(self, task_id: UUID | None) -> bool:
        """Whether a turn of the task has a claim, be it dead or alive."""
        with self._lock:
            return task_id in self._ledger.held

    async def result(self, task: Task) -> Result:
        """How a task stands."""
        row = self._ledger.tasks[task.task_id]
        events = await self.events_since(task.owner, task.task_id, 0, limit=_EVERYTHING)
        happened = [(event.attempt, _happening(event)) for event in events]
        trouble = row.troubles.get(max(row.troubles, default=0))
        return Result(
            state=task.state,
            task_id=str(task.task_id),
            context_id=task.context_id,
            artifacts=task.artifacts,
            status_message=task.status_message,
            metadata=task.metadata,
            history=task.history,
            events=tuple(event for _, event in happened),
            pieces=tuple(
                event
                for attempt, event in happened
                if attempt and attempt not in row.lost_attempts and not isinstance(event, StatusChange)
            ),
            attempts=task.attempt,
            failures=task.failures,
            crashes=task.crashes,
            traceback=(trouble.traceback or f"{trouble.error_class}: {trouble.message}") if trouble else "",
            steps={step: orjson.loads(result) for step, result in row.steps.items()},
        )


def _happening(event: Event) -> Happening:
    """Progress is stored as a status that changes nothing."""
    match event.body:
        case StatusChange(metadata={"progress": {"fraction": fraction, "note": note}}):
            return Progress(fraction, note)
    return event.body


class HarnessKeeper:
    """Knows which claims are held; renews them when it is asked to, since time passes in jumps."""

    def __init__(self) -> None:
        self.claims: list[Claim] = []

    def keep(self, claim: Claim, lost: Callable[[Held], None], *, limit: float | None = None) -> None:
        self.claims.append(claim)

    def settling(self, claim: Claim) -> None: ...

    def drop(self, claim: Claim) -> None:
        if claim in self.claims:
            self.claims.remove(claim)

    def close(self) -> None: ...
