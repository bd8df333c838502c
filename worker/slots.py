"""Slots: the turns that run in this process, whoever asked for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any
from uuid import UUID

import structlog

from perdure.errors import StorageUnavailable

from .lease import Reins, Stop
from .turn import PATIENCE_AT_EXIT, claim_turn, run_turn, work_on
from .worker import Worker

log = structlog.get_logger(__name__)

EXIT_SECONDS = PATIENCE_AT_EXIT + 5.0
"""How long turns that were told to stop for a deploy may take to be released."""


class Slots:
    """At most `settings.worker.slots` turns at once, for the jobs of arq and for what is claimed unasked."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.capacity = worker.settings.worker.slots
        self.stopping = False
        self._places = asyncio.Semaphore(self.capacity)
        self._turns: dict[asyncio.Task[None], Reins] = {}
        self._claiming = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._stopped_at = 0.0
        self._rung_at = time.monotonic()

    @property
    def running(self) -> int:
        """Turns that run or are about to."""
        return len(self._turns)

    @property
    def free(self) -> int:
        """How many more may start."""
        return 0 if self.stopping or self.worker.duty.draining else max(self.capacity - self.running, 0)

    @property
    def silence(self) -> float:
        """Seconds since the bell rang."""
        return time.monotonic() - self._rung_at

    def task_ids(self) -> list[UUID]:
        """The tasks whose turns run. From any thread."""
        return [reins.task_id for reins in list(self._turns.values()) if reins.task_id]

    def react_by(self) -> float:
        """When the first of them is so far over its time that the event loop must have dealt with it (monotonic clock)."""
        return min((reins.react_by for reins in list(self._turns.values())), default=math.inf)

    def rung(self) -> None:
        """The bell rang: start turns while any is due and a slot is free."""
        self._rung_at = time.monotonic()
        self.look()

    def look(self) -> None:
        """The same without a bell."""
        self._wanted.set()

    async def run_one(self) -> None:
        """The bell rang for one turn: run it to its end, in the first slot that is free. Cancelled, this leaves the turn running:
        `drain` ends it."""
        self._rung_at = time.monotonic()
        reins = Reins()
        await asyncio.shield(self._begin(self._in_a_place(reins), reins))

    async def start_turns(self) -> None:
        """For ever: whenever the bell rang, start turns until nothing is due."""
        while not self.stopping:
            await self._wanted.wait()
            self._wanted.clear()
            try:
                while await self._started_one():
                    pass
            except StorageUnavailable as error:
                log.warning("claim.failed", error=str(error))  # the sweep looks again
            except Exception:
                log.exception("claim.failed")

    def stop(self) -> None:
        """Claim nothing more. The grace of the running turns starts now."""
        if not self.stopping:
            self.stopping, self._stopped_at = True, time.monotonic()
            self._wanted.set()
            log.info("worker.draining", turns=self.running, seconds=self.worker.settings.worker.grace)

    async def drain(self, grace: float) -> None:
        """Stop; let turns finish within `grace` seconds of the first stop; then release what is left."""
        self.stop()
        with suppress(TimeoutError):
            async with asyncio.timeout(EXIT_SECONDS), self._claiming:
                pass  # what was being claimed has become a turn
        await self._ended(grace - (time.monotonic() - self._stopped_at))
        for reins in self._turns.values():
            reins.pull(Stop.DEPLOY)
        await self._ended(EXIT_SECONDS)
        if self._turns:
            log.error("turns.abandoned", turns=self.running)

    async def _ended(self, timeout: float) -> None:
        if self._turns and timeout > 0:
            await asyncio.wait(tuple(self._turns), timeout=timeout)

    async def _in_a_place(self, reins: Reins) -> None:
        async with self._places:
            if not self.stopping:
                await run_turn(self.worker, reins)

    async def _started_one(self) -> bool:
        """Claim a turn and start it, as soon as a slot is free. False when nothing is due."""
        await self._places.acquire()
        started = False
        try:
            async with self._claiming:
                started = await self._claim_and_start()
        finally:
            if not started:
                self._places.release()
        return started

    async def _claim_and_start(self) -> bool:
        taken = None if self.stopping else await claim_turn(self.worker)
        if taken is None:
            return False
        reins = Reins()
        if self.stopping:
            reins.pull(Stop.DEPLOY)
        turn = self._begin(work_on(self.worker, taken, reins), reins)
        turn.add_done_callback(lambda _: self._places.release())
        return True

    def _begin(self, work: Coroutine[Any, Any, None], reins: Reins) -> asyncio.Task[None]:
        turn = asyncio.create_task(_guarded(work))
        self._turns[turn] = reins
        turn.add_done_callback(self._turns.pop)
        return turn


async def _guarded(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except StorageUnavailable as error:
        log.warning("claim.failed", error=str(error))
    except Exception:  # its lease lapses, and the sweep counts a crash
        log.exception("turn.broken")
