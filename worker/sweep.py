"""The loops beside the turns: whose holder died, what the bell forgot, and a sign of life."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime

import structlog
from prometheus_client import Counter

from perdure import __version__, metrics
from perdure.errors import QueueUnavailable, SchemaMismatch, StorageUnavailable
from perdure.storage.operators import WorkerBeat

from .retention import pruned
from .slots import AnySlots, Slots
from .worker import Worker, announce, ring

log = structlog.get_logger(__name__)

_DEGRADED_INTERVAL = 1.0
"""Seconds between two looks at the storage while the bell is broken."""
_FORGET_LIMITS_INTERVAL = 3600.0
_TICKS_PER_LEASE = 4
_LONGEST_GAP = 0.5
"""In leases: no longer break goes unnoticed. Before it the last renewal may have been a third of a lease ago, so a sixth of a
lease and the grace are left for the next one. A keeper tries again within a sixth."""


class Contact:
    """Since when this process has been in contact with the storage without a break: who was cut off must not judge leases."""

    def __init__(
        self, *, steady_after: float, gap: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._steady_after = steady_after
        self._gap = gap
        self._clock = clock
        self._since: float | None = None
        self._last = 0.0

    def made(self) -> None:
        """The storage answered."""
        now = self._clock()
        if self._since is None or now - self._last > self._gap:
            self._since = now
        self._last = now

    def lost(self) -> None:
        """It did not."""
        self._since = None

    @property
    def steady(self) -> bool:
        """Whether it lasted long enough for every living holder to have renewed."""
        now = self._clock()
        return (
            self._since is not None
            and now - self._last <= self._gap
            and now - self._since >= self._steady_after
        )


async def sweep(worker: Worker, slots: AnySlots) -> None:
    """For ever: look after leases and claim unasked; and, apart from that, since a Redis that hangs and a long log must hold up
    nothing else, after what the bell forgot; fold what was streamed, forget limits that nobody counts against, and delete what is
    old."""
    lease = worker.settings.worker.lease
    contact = Contact(steady_after=lease, gap=lease * _LONGEST_GAP)

    async def look_after_leases() -> None:
        try:
            await swept(worker, slots, contact)
        except StorageUnavailable:
            contact.lost()
            worker.duty.storage_answers = False
            raise

    await asyncio.gather(
        _for_ever(look_after_leases, lambda: min(_interval(worker), lease / _TICKS_PER_LEASE)),
        _for_ever(lambda: rung_again(worker, slots), lambda: worker.settings.worker.sweep_interval),
        _for_ever(lambda: folded(worker), lambda: worker.settings.worker.sweep_interval),
        _for_ever(lambda: limits_forgotten(worker), lambda: _FORGET_LIMITS_INTERVAL),
        _for_ever(lambda: pruned(worker), lambda: worker.settings.retention.interval),
    )


async def _for_ever(tick: Callable[[], Awaitable[None]], pause: Callable[[], float]) -> None:
    away = False
    while True:
        try:
            await tick()
            away = False
        except (StorageUnavailable, SchemaMismatch) as error:
            if not away:
                log.warning("sweep.waits", error=str(error))
            away = True
        except Exception:
            log.exception("sweep.failed")
        await asyncio.sleep(pause())


def _interval(worker: Worker) -> float:
    """Seconds after which a silent bell is no longer waited for."""
    interval = worker.settings.worker.sweep_interval
    return min(interval, _DEGRADED_INTERVAL) if worker.watch.degraded else interval


async def swept(worker: Worker, slots: AnySlots, contact: Contact) -> None:
    """One tick."""
    now = await worker.storage.check()
    contact.made()
    worker.duty.storage_answers = True
    _count(worker, "sweeps", 1, metrics.SWEEPS)
    if contact.steady:
        await _rescue(worker, now, [each.worker.name for each in slots.each])
    await _expire(worker)
    for each in slots.each:
        each.look_after(_interval(worker))
    await worker.storage.drop_finished(worker.settings.storage.finished_tasks)
    contact.made()


async def _rescue(worker: Worker, now: datetime, agents: Sequence[str]) -> None:
    """As of `now`: should this very statement be held up by an outage, whoever could not renew meanwhile keeps his task. Those of
    other agents are put back into their line as well, but not given up."""
    rescued = await worker.storage.rescue_tasks(
        grace=worker.settings.worker.lease_grace,
        max_crashes=worker.settings.turns.max_crashes,
        as_of=now,
        up_for=worker.settings.worker.lease,
        agents=agents,
    )
    _count(worker, "rescued", len(rescued.notices), metrics.RESCUES)
    if rescued.notices:
        log.warning("sweep.rescued", tasks=[str(notice.task_id) for notice in rescued.notices])
    await ring(worker.queue, rescued.rings)
    await announce(worker.queue, rescued.notices)


async def _expire(worker: Worker) -> None:
    """What nobody began or ended in time; and the idempotency keys that are over."""
    late = await worker.storage.expire_tasks()
    _count(worker, "expired", len(late), metrics.EXPIRED)
    if late:
        log.info("sweep.expired", tasks=[str(notice.task_id) for notice in late])
        await announce(worker.queue, late)
    await worker.storage.forget_keys(older_than=worker.settings.server.idempotency_ttl)


def _count(worker: Worker, name: str, how_many: int, counter: Counter) -> None:
    """For Prometheus, and for the operators' page, which knows no Prometheus."""
    worker.duty.counters[name] += how_many
    counter.inc(how_many)


async def rung_again(worker: Worker, slots: AnySlots) -> None:
    """Ring for tasks of the own agents that the bell has forgotten: at most 100 of each a tick, each ever more rarely
    (`Storage.stranded`; DESIGN 4.9).

    Where it forgot one it forgot more, and a hundred rings a tick would be all that a fleet with many free slots does: who
    finds it out claims what is due unasked.
    """
    if not worker.queue.shared:
        return
    for each in slots.each:
        await _rung_again(each)


async def _rung_again(slots: Slots) -> None:
    worker = slots.worker
    waiting = await worker.storage.stranded(idle=worker.settings.worker.sweep_interval, agent=worker.name)
    try:
        forgotten = await worker.queue.missing(waiting)
    except QueueUnavailable:
        return  # meanwhile turns are claimed unasked
    if forgotten:
        rings = await worker.storage.redispatch(forgotten)
        _count(worker, "rung_again", len(rings), metrics.RUNG_AGAIN)
        log.info("sweep.rung_again", tasks=len(rings))
        slots.look()
        await ring(worker.queue, rings)


async def folded(worker: Worker) -> None:
    """Fold the streamed artifacts of tasks that ended a while ago."""
    await worker.storage.fold_tasks(ended_for=worker.settings.worker.fold_after)


async def limits_forgotten(worker: Worker) -> None:
    """Limits on each value of a member have a row for each: those of values that come no more would stay for ever."""
    await worker.storage.forget_limits()


async def give_signs_of_life(worker: Worker, slots: AnySlots) -> None:
    """For ever: a beat every `beat_interval` seconds."""
    while True:
        await beat(worker, slots)
        await asyncio.sleep(worker.settings.worker.beat_interval)


async def beat(worker: Worker, slots: AnySlots) -> None:
    """One sign of life, which an operator may answer: begin no more turns, or some again. Best effort."""
    try:
        asked_to_drain = await worker.storage.beat(
            WorkerBeat(
                worker_id=worker.worker_id,
                slots=slots.capacity,
                running=slots.running,
                version=__version__,
                draining=slots.stopping or worker.duty.draining,
                name=f"{socket.gethostname()}:{os.getpid()}",
                loop_lag=worker.duty.loop_lag,
                counters=worker.duty.counters,
                agents=[each.worker.name for each in slots.each if each.worker.name],
            )
        )
        _drain_or_resume(worker, slots, asked_to_drain)
    except StorageUnavailable as error:
        log.debug("beat.failed", error=str(error))
    except Exception:
        log.exception("beat.failed")


def _drain_or_resume(worker: Worker, slots: AnySlots, drain: bool) -> None:
    if drain is worker.duty.draining:
        return
    worker.duty.draining = drain
    log.info("worker.drained_by_operator" if drain else "worker.resumed_by_operator", turns=slots.running)
    if not drain:
        slots.resume()
