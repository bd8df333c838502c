"""ThreadKeeper: renews leases from a thread of its own, so that a handler that blocks the event loop keeps its task.

One round every third of a lease renews all kept claims with one call, so two rounds may fail before a lease is in danger.
Whatever goes wrong in a round (no connection, a renewal that hangs) is logged and tried again within the lease: the thread
ends only with `close`. A claim whose event loop has not reacted by its limit is renewed no more.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import structlog

from perdure.storage.claims import Claim, Held

Renew = Callable[[Sequence[Claim], float], Awaitable[Mapping[Claim, Held]]]
"""`Storage.renew_claims` over some connection."""

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 1.0
_CLOSE_PATIENCE = 5.0
_SUSPICIOUS = 6
"""So many failures in a row are told once more, with the traceback."""

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class _Kept:
    lost: Callable[[Held], None]
    until: float = math.inf  # on the monotonic clock
    settling: bool = False
    told: set[Held] = field(default_factory=set)


class ThreadKeeper:
    """A `Keeper`. `connect` is entered in the keeper's own thread and loop, and again after every failure; what it yields renews.

    `lease` is in seconds. `lost` must be quick and must not wait for another thread: it runs under the keeper's lock, so that
    nothing is told once `settling` or `drop` has returned.
    """

    def __init__(self, connect: Callable[[], AbstractAsyncContextManager[Renew]], *, lease: float) -> None:
        self._connect = connect
        self._lease = lease
        self._kept: dict[Claim, _Kept] = {}
        self._lock = threading.RLock()  # re-entrant: `lost` may call `drop`
        self._closing = False
        self._loop = asyncio.new_event_loop()
        self._work: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._run, name="perdure-keeper", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------------ any thread

    def keep(self, claim: Claim, lost: Callable[[Held], None], *, limit: float | None = None) -> None:
        """See `Keeper`."""
        until = math.inf if limit is None else time.monotonic() + limit
        with self._lock:
            self._kept[claim] = _Kept(lost, until)

    def settling(self, claim: Claim) -> None:
        """See `Keeper`."""
        with self._lock:
            if kept := self._kept.get(claim):
                kept.settling = True

    def drop(self, claim: Claim) -> None:
        """See `Keeper`."""
        with self._lock:
            self._kept.pop(claim, None)

    def close(self) -> None:
        """End the thread; again is harmless."""
        with self._lock:
            if not self._closing:
                self._closing = True
                self._loop.call_soon_threadsafe(self._stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(_CLOSE_PATIENCE)

    # ------------------------------------------------------------------ the keeper's thread

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._rounds())
            except asyncio.CancelledError:
                log.debug("keeper.closed")

    def _stop(self) -> None:
        if self._work is not None:
            self._work.cancel()

    async def _rounds(self) -> None:
        self._work = asyncio.current_task()
        failures = 0
        while not self._closing:
            try:
                async with asyncio.timeout(self._lease / 3) as patience, self._connect() as renew:
                    patience.reschedule(None)  # it was for connecting
                    while True:
                        next_round = self._loop.time() + self._lease / 3
                        await self._round(renew)
                        if failures:
                            log.info("keeper.recovered", claims=len(self._kept))
                        failures = 0
                        await asyncio.sleep(max(next_round - self._loop.time(), 0))
            except Exception as error:  # whatever it is: a keeper that ends loses every turn of its worker
                self._tell_failure(error, failures)
            await asyncio.sleep(min(_FIRST_PAUSE * 2**failures, _LONGEST_PAUSE, self._lease / 6))
            failures = min(failures + 1, 10)

    def _tell_failure(self, error: Exception, before: int) -> None:
        """Once an outage, in short: a traceback takes a second to write on a busy machine, which a short lease does not have.
        Once more where it goes on: it may be a mistake of ours."""
        said = log.warning if before in (0, _SUSPICIOUS) else log.debug
        said(
            "keeper.renewal_failed",
            claims=len(self._kept),
            error=repr(error),
            exc_info=before == _SUSPICIOUS,
        )

    async def _round(self, renew: Renew) -> None:
        with self._lock:
            self._drop_overdue()
            claims = list(self._kept)
        if not claims:
            return
        async with asyncio.timeout(self._lease / 3):
            answer = await renew(claims, self._lease)
        for claim, held in answer.items():
            self._heard(claim, held)

    def _drop_overdue(self) -> None:
        now = time.monotonic()
        for claim, kept in list(self._kept.items()):
            if kept.until <= now and not kept.settling:
                del self._kept[claim]
                log.error("keeper.overdue", task_id=str(claim.task_id), attempt=claim.attempt)

    def _heard(self, claim: Claim, held: Held) -> None:
        if held is Held.YES:
            return
        with self._lock:
            kept = self._kept.get(claim)
            if kept is None:
                return
            if held is Held.LOST:
                del self._kept[claim]
            if not kept.settling and held not in kept.told:
                kept.told.add(held)
                self._tell(claim, kept, held)

    def _tell(self, claim: Claim, kept: _Kept, held: Held) -> None:
        try:
            kept.lost(held)
        except Exception:
            log.exception("keeper.lost_failed", task_id=str(claim.task_id), held=held.value)
