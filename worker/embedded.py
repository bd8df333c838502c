"""A worker inside a process: `at_work` for any, `embedded` for the front door of QUEUE_TYPE=inline."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace

import structlog

from perdure import metrics
from perdure.agent import Agent
from perdure.agents import Agents, by_name
from perdure.errors import StorageUnavailable
from perdure.ids import new_token
from perdure.queue import Queue
from perdure.queue.inline import InlineQueue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.watch import Watch

from .pulse import Pulse
from .push.deliveries import Deliveries
from .slots import AllSlots, Slots
from .sweep import beat, give_signs_of_life, sweep
from .worker import Worker, ask_to_end

log = structlog.get_logger(__name__)


@asynccontextmanager
async def embedded(
    agents: Agents | Agent, storage: Storage, queue: Queue, watch: Watch, settings: Settings
) -> AsyncIterator[AllSlots]:
    """Run turns in this process while inside; storage and queue are open, `watch` runs. Leaving takes up to `WORKER__GRACE`."""
    async with at_work(agents, storage, queue, watch, settings) as slots:
        if not isinstance(queue, InlineQueue):
            yield slots
            return
        detach = [queue.attach(each.rung, each.worker.name) for each in slots.each]
        detach.append(queue.attach_deliveries(slots.worker.deliver))
        for each in slots.each:
            each.look()  # what an earlier process left
        try:
            yield slots
        finally:
            for leave in detach:
                leave()


@asynccontextmanager
async def at_work(
    agents: Agents | Agent, storage: Storage, queue: Queue, watch: Watch, settings: Settings
) -> AsyncIterator[AllSlots]:
    """Turns, sweep and signs of life while inside. On leaving turns may finish within the grace, then they are released."""
    keeper = storage.keeper(lease=settings.worker.lease)

    def end() -> None:
        if not slots.stopping:  # a second signal would end the grace of the turns
            ask_to_end()

    deliveries = Deliveries(storage, settings)
    served = by_name(agents)
    first = next(iter(served))
    worker = Worker(
        worker_id=str(new_token()),
        agent=served[first],
        name=first,
        storage=storage,
        queue=queue,
        watch=watch,
        keeper=keeper,
        settings=settings,
        end=end,
        deliver=deliveries.look,
    )
    slots = AllSlots([Slots(replace(worker, agent=agent, name=name)) for name, agent in served.items()])
    metrics.SLOTS.set(slots.capacity)
    pulse = Pulse(slots)
    loops = [
        asyncio.create_task(loop)
        for loop in (
            *(each.start_turns() for each in slots.each),
            sweep(worker, slots),
            give_signs_of_life(worker, slots),
            deliveries.run(),
        )
    ]
    names = {"agents": list(served)} if first else {}
    log.info("worker.started", worker=worker.worker_id, slots=slots.capacity, **names)
    for agent in served.values():
        _say_what_is_capped(agent, settings)
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


def _say_what_is_capped(agent: Agent, settings: Settings) -> None:
    if (asked := agent.config.turn_timeout or 0) > settings.turns.timeout:
        log.warning(
            "agent.turn_timeout_capped", of=agent.config.name, asked=asked, seconds=settings.turns.timeout
        )
    if (wanted := agent.config.slots or 0) > settings.worker.slots:
        log.warning("agent.slots_capped", of=agent.config.name, asked=wanted, slots=settings.worker.slots)


async def _leave(worker: Worker, slots: AllSlots, grace: float) -> None:
    slots.stop()
    try:
        if slots.running:
            await beat(worker, slots)
        await slots.drain(grace)
    except asyncio.CancelledError:  # the grace is over
        await slots.drain(0)
        raise
