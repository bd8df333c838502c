"""The lease of a running turn: kept alive from the keeper's thread; when it is gone, the handler is stopped."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from enum import Enum
from typing import Any, TypeVar
from uuid import UUID

import structlog

from perdure import metrics
from perdure.errors import StorageUnavailable
from perdure.storage import Claim, Held, Keeper
from perdure.tasks import Notice, TaskState
from perdure.watch import Watch

log = structlog.get_logger(__name__)
T = TypeVar("T")

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0


class Stop(Enum):
    """Why a handler is stopped before its end."""

    CANCELED = "canceled"  # by its caller; ours until released
    LOST = "lost"  # somebody else has the task, or it is gone
    DEPLOY = "deploy"  # this process ends
    BROKEN = "broken"  # what it emitted cannot be stored
    TIMEOUT = "timeout"  # the turn took longer than it may
    DEADLINE = "deadline"  # the task is over its time


_OURS = (None, Stop.TIMEOUT, Stop.DEADLINE, Stop.BROKEN)
"""The turn's end is still ours to record, however long the storage is away."""


class Reins:
    """Stop one turn from outside. The first reason counts, but a timeout gives way to any other."""

    def __init__(self) -> None:
        self.why: Stop | None = None
        self.leaving = asyncio.Event()
        """The process ends: nothing is waited for long."""
        self.task_id: UUID | None = None
        """Which turn it is, once one is claimed."""
        self.react_by = math.inf
        """On the monotonic clock: by then the event loop has dealt with a turn that took too long, unless it is hung."""
        self.pulled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done once there is a reason."""

    def pull(self, why: Stop) -> None:
        """Call it on the event loop."""
        if self.why in (None, Stop.TIMEOUT):
            self.why = why
            if not self.pulled.done():
                self.pulled.set_result(None)
        if why is Stop.DEPLOY:
            self.leaving.set()

    async def _something(self, seconds: float) -> None:
        """Wait for the first reason to stop, or for the end of the process where there is one; for so long at most."""
        if self.why is None:
            await asyncio.wait((self.pulled,), timeout=seconds)
            return
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.leaving.wait()

    async def patiently(self, send: Callable[[], Awaitable[T]], *, only_running: bool = False) -> T:
        """Send a write again until the storage takes it. `StorageUnavailable` once the process ends or the task is not ours, with
        `only_running` once the handler is told to stop."""
        pause = _FIRST_PAUSE
        while True:
            try:
                return await send()
            except StorageUnavailable as error:
                if self.leaving.is_set() or self.why not in ((None,) if only_running else _OURS):
                    raise
                if pause == _FIRST_PAUSE:
                    log.warning("turn.write_waits", error=str(error))
            await self._something(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)


class kept:  # noqa: N801 -- reads as a statement
    """Keep the lease of `claim` while inside; pull the reins when a renewal or a notice says that the turn is over. After `limit`
    seconds it is kept no longer, unless the turn is settling."""

    def __init__(
        self, keeper: Keeper, watch: Watch, claim: Claim, reins: Reins, *, limit: float | None = None
    ) -> None:
        self._keeper, self._claim, self._reins, self._limit = keeper, claim, reins, limit
        self._followed = watch.follow(claim.task_id, self._heard)
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> None:
        self._keeper.keep(self._claim, self._refused, limit=self._limit)
        self._followed.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._followed.__exit__(*error)
        self._keeper.drop(self._claim)

    def _refused(self, held: Held) -> None:
        """On the keeper's thread."""
        why = Stop.CANCELED if held is Held.CANCELED else Stop.LOST
        if why is Stop.LOST:
            metrics.LOST_LEASES.inc()
        with suppress(RuntimeError):  # the loop is closed: nothing is left to stop
            self._loop.call_soon_threadsafe(self._reins.pull, why)

    def _heard(self, notice: Notice) -> None:
        if notice.state is TaskState.CANCELED:
            self._reins.pull(Stop.CANCELED)
        elif notice.state is None:
            self._reins.pull(Stop.LOST)
