"""A worker inside a process: `at_work` for any, `embedded` for the front door of QUEUE_TYPE=inline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import structlog

from perdure import metrics
from perdure.agent import Agent
from perdure.errors import StorageUnavailable
from perdure.ids import new_token
from perdure.queue import Queue
from perdure.queue.inline import InlineQueue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.watch import Watch

from .pulse import Pulse
from .push.deliveries import Deliveries
from .slots import Slots
from .sweep import beat, give_signs_of_life, sweep
from .worker import Worker, ask_to_end

log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded(
    agent: Agent, storage: Storage, queue: Queue, watch: Watch, settings: Settings
) -> AsyncIterator[Slots]:
    """Run turns in this process while inside; storage and queue are open, `watch` runs. Leaving takes up to `WORKER__GRACE`."""
    async with at_work(agent, storage, queue, watch, settings) as slots:
        if not isinstance(queue, InlineQueue):
            yield slots
            return
        detach = queue.attach(slots.rung)
        leave = queue.attach_deliveries(slots.worker.deliver)
        slots.look()  # what an earlier process left
        try:
            yield slots
        finally:
            detach()
            leave()


@asynccontextmanager
async def at_work(
    agent: Agent, storage: Storage, queue: Queue, watch: Watch, settings: Settings
) -> AsyncIterator[Slots]:
    """Turns, sweep and signs of life while inside. On leaving turns may finish within the grace, then they are released."""
    keeper = storage.keeper(lease=settings.worker.lease)

    def end() -> None:
        if not slots.stopping:  # a second signal would end the grace of the turns
            ask_to_end()

    deliveries = Deliveries(storage, settings)
    worker = Worker(
        worker_id=str(new_token()),
        agent=agent,
        storage=storage,
        queue=queue,
        watch=watch,
        keeper=keeper,
        settings=settings,
        end=end,
        deliver=deliveries.look,
    )
    slots = Slots(worker)
    metrics.SLOTS.set(slots.capacity)
    pulse = Pulse(slots)
    loops = [
        asyncio.create_task(loop)
        for loop in (
            slots.start_turns(),
            sweep(worker, slots),
            give_signs_of_life(worker, slots),
            deliveries.run(),
        )
    ]
    log.info("worker.started", worker=worker.worker_id, slots=slots.capacity)
    if (asked := agent.config.turn_timeout or 0) > settings.turns.timeout:
        log.warning("agent.turn_timeout_capped", asked=asked, seconds=settings.turns.timeout)
    grace = settings.worker.grace
    try:
        yield slots
    except asyncio.CancelledError:  # a second Ctrl-C while stopping
        grace = 0.0
        raise
    finally:
        try:
            await _leave(worker, slots, grace)
            await deliveries.stop(grace)
        finally:
            for loop in loops:
                loop.cancel()
            await asyncio.gather(*loops, return_exceptions=True)
            await asyncio.to_thread(pulse.close)
            await asyncio.to_thread(keeper.close)
            with suppress(StorageUnavailable):
                await storage.forget_worker(worker.worker_id)
            log.info("worker.stopped", worker=worker.worker_id)


async def _leave(worker: Worker, slots: Slots, grace: float) -> None:
    slots.stop()
    try:
        if slots.running:
            await beat(worker, slots)
        await slots.drain(grace)
    except asyncio.CancelledError:  # the grace is over
        await slots.drain(0)
        raise
