"""Slots: the turns of an agent that run in this process, whoever asked for them."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from uuid import UUID

import structlog

from perdure.errors import StorageUnavailable

from .lease import Reins, Stop
from .turn import PATIENCE_AT_EXIT, run_turn
from .worker import Worker

log = structlog.get_logger(__name__)

EXIT_SECONDS = PATIENCE_AT_EXIT + 5.0
"""How long turns that were told to stop for a deploy may take to be released."""


class Slots:
    """At most so many turns at once, for the bell, for the jobs of arq and for what is claimed unasked: as many as the agent
    says, but never more than `settings.worker.slots`."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        most = worker.settings.worker.slots
        self.capacity = min(worker.agent.config.slots or most, most)
        self.stopped = asyncio.Event()
        self._places = asyncio.Semaphore(self.capacity)
        self._turns: dict[asyncio.Task[None], Reins] = {}
        self.worked = False
        """Whether there has ever been something to claim."""
        self._wanted = asyncio.Event()
        self._vacated = asyncio.Event()
        self._stopped_at = 0.0
        self._rung_at = time.monotonic()

    @property
    def stopping(self) -> bool:
        """Nothing is claimed any more."""
        return self.stopped.is_set()

    @property
    def running(self) -> int:
        """Turns that run or are about to."""
        return len(self._turns)

    @property
    def free(self) -> int:
        """How many more may start."""
        return 0 if self.stopping or self.worker.duty.draining else max(self.capacity - self.running, 0)

    @property
    def each(self) -> Sequence[Slots]:
        """Those of each agent: these."""
        return (self,)

    def look_after(self, silence: float) -> None:
        """Look if a slot is free and the bell has not rung for so many seconds; at once where other processes ring no bell, or a
        claim that got no answer may have taken a task."""
        silent = time.monotonic() - self._rung_at >= silence
        if self.free and (silent or not self.worker.queue.shared or self.worker.unanswered):
            self.look()

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

    def resume(self) -> None:
        """An operator lets it begin turns again: whoever waits for a free slot looks anew."""
        self._vacated.set()
        self.look()

    async def vacancy(self) -> int:
        """Wait until a slot is free; how many are. 0 once the process stops."""
        while not self.free and not self.stopping:
            self._vacated.clear()
            await self._vacated.wait()
        return self.free

    def start(self, turns: int) -> None:
        """The bell rang for so many turns: run each to its end, in the first slot that is free."""
        self._rung_at = time.monotonic()
        for _ in range(turns):
            self._begin()

    async def run_one(self) -> None:
        """The same for one turn, and wait for its end. Cancelled, this leaves the turn running: `drain` ends it."""
        self._rung_at = time.monotonic()
        turn, _ = self._begin()
        await asyncio.shield(turn)

    async def start_turns(self) -> None:
        """For ever: whenever the bell rang, start turns until nothing is due. Twice as many at once as before while each of them
        finds something: one look costs one claim, a backlog few round trips."""
        while not self.stopping:
            await self._wanted.wait()
            self._wanted.clear()
            wave = 1
            while free := await self.vacancy():
                claims = [self._begin()[1] for _ in range(min(wave, free))]
                if not all(await asyncio.gather(*claims)):
                    break
                wave *= 2

    def stop(self) -> None:
        """Claim nothing more. The grace of the running turns starts now."""
        if not self.stopping:
            self._stopped_at = time.monotonic()
            for waited_for in (self.stopped, self._wanted, self._vacated):
                waited_for.set()
            log.info("worker.draining", turns=self.running, seconds=self.worker.settings.worker.grace)

    async def drain(self, grace: float) -> None:
        """Stop; let turns finish within `grace` seconds of the first stop; then release what is left."""
        self.stop()
        await self._ended(grace - (time.monotonic() - self._stopped_at))
        for reins in self._turns.values():
            reins.pull(Stop.DEPLOY)
        await self._ended(EXIT_SECONDS)
        if self._turns:
            log.error("turns.abandoned", turns=self.running)

    async def _ended(self, timeout: float) -> None:
        if self._turns and timeout > 0:
            await asyncio.wait(tuple(self._turns), timeout=timeout)

    def _begin(self) -> tuple[asyncio.Task[None], asyncio.Future[bool]]:
        """A turn, from its claim on; and whether there was something to claim, once that is known."""
        reins, claimed = Reins(), asyncio.get_running_loop().create_future()
        turn = asyncio.create_task(self._turn(reins, claimed))
        self._turns[turn] = reins
        turn.add_done_callback(self._ended_one)
        return turn, claimed

    def _ended_one(self, turn: asyncio.Task[None]) -> None:
        del self._turns[turn]
        self._vacated.set()

    async def _turn(self, reins: Reins, claimed: asyncio.Future[bool]) -> None:
        def told(found: bool) -> None:
            if not claimed.done():  # whoever wanted to know may have been told to end
                claimed.set_result(found)
            self.worked |= found
            if self.stopping:
                reins.pull(Stop.DEPLOY)

        try:
            async with self._places:
                if not self.stopping:
                    await run_turn(self.worker, reins, told)
        except StorageUnavailable as error:
            log.warning("claim.failed", error=str(error))  # the sweep looks again
        except Exception:  # its lease lapses, and the sweep counts a crash
            log.exception("turn.broken")
        finally:
            if not claimed.done():
                claimed.set_result(False)


class AllSlots:
    """The slots of every agent that this process serves. Each agent has its own: a slow one takes none from another."""

    def __init__(self, each: Sequence[Slots]) -> None:
        self.each = each
        self.worker = each[0].worker
        """For what all of them share."""

    @property
    def capacity(self) -> int:
        """As of `Slots`, in all."""
        return sum(slots.capacity for slots in self.each)

    @property
    def running(self) -> int:
        """As of `Slots`, in all."""
        return sum(slots.running for slots in self.each)

    @property
    def stopping(self) -> bool:
        """As of `Slots`: they stop together."""
        return self.each[0].stopping

    def task_ids(self) -> list[UUID]:
        """As of `Slots`, in all. From any thread."""
        return [task_id for slots in self.each for task_id in slots.task_ids()]

    def react_by(self) -> float:
        """As of `Slots`, the first of all."""
        return min(slots.react_by() for slots in self.each)

    def resume(self) -> None:
        """As of `Slots`, all."""
        for slots in self.each:
            slots.resume()

    def stop(self) -> None:
        """As of `Slots`, all."""
        for slots in self.each:
            slots.stop()

    async def drain(self, grace: float) -> None:
        """As of `Slots`, all at the same time."""
        self.stop()
        await asyncio.gather(*(slots.drain(grace) for slots in self.each))


AnySlots = Slots | AllSlots
