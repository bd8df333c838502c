"""The lease of a running turn: kept alive from the keeper's thread; when it is gone, the handler is stopped."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

from perdure.storage import Claim, Held, Keeper
from perdure.tasks import Notice, TaskState
from perdure.watch import Watch


class Stop(Enum):
    """Why a handler is stopped before its end."""

    CANCELED = "canceled"  # by its caller; ours until released
    LOST = "lost"  # somebody else has the task, or it is gone
    DEPLOY = "deploy"  # this process ends
    BROKEN = "broken"  # what it emitted cannot be stored


class Reins:
    """Stop one turn from outside. The first reason counts."""

    def __init__(self) -> None:
        self.why: Stop | None = None
        self._pulled = asyncio.Event()

    def pull(self, why: Stop) -> None:
        """Call it on the event loop."""
        if self.why is None:
            self.why = why
            self._pulled.set()

    async def pulled(self, timeout: float | None = None) -> None:
        """Return once they are pulled, at the latest after `timeout` seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._pulled.wait()


@contextmanager
def kept(keeper: Keeper, watch: Watch, claim: Claim, reins: Reins) -> Iterator[None]:
    """Keep the lease of `claim` while inside; pull the reins when a renewal or a notice says that the turn is over."""
    loop = asyncio.get_running_loop()

    def refused(held: Held) -> None:
        why = Stop.CANCELED if held is Held.CANCELED else Stop.LOST
        with suppress(RuntimeError):  # the loop is closed: nothing is left to stop
            loop.call_soon_threadsafe(reins.pull, why)

    def heard(notice: Notice) -> None:
        if notice.state is TaskState.CANCELED:
            reins.pull(Stop.CANCELED)
        elif notice.state is None:
            reins.pull(Stop.LOST)

    keeper.keep(claim, refused)
    try:
        with watch.follow(claim.task_id, heard):
            yield
    finally:
        keeper.drop(claim)
