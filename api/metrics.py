"""`/metrics`: this process for Prometheus, and how the fleet's tasks and workers stand. Needs the scope `operate`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from starlette.requests import Request
from starlette.responses import Response

from perdure import metrics
from perdure.errors import QueueUnavailable, SchemaMismatch, StorageUnavailable
from perdure.owners import ONLY
from perdure.queue import Queue
from perdure.retention.pruning import Rules
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.tasks import TaskState

from .auth import OPERATE, require
from .health import MISSED_BEATS
from .ops.desk import sees_one_owner

FRESH = 2.0
"""Seconds that a look at the storage is good for: several scrapers cost one."""


class Metrics:
    """The endpoint."""

    def __init__(self, storage: Storage, queue: Queue, settings: Settings, agents: Sequence[str]) -> None:
        """`agents`: the names of several."""
        self._storage = storage
        self._queue = queue
        self._agents = agents
        self._alive = settings.worker.beat_interval * MISSED_BEATS
        self._walled = sees_one_owner(settings)
        self._retains = bool(Rules.of(settings.retention))
        self._looked_at = float("-inf")

    async def __call__(self, request: Request) -> Response:
        """Answers also when the storage does not: that is when it is looked at."""
        require(request, OPERATE)
        if time.monotonic() - self._looked_at > FRESH:
            self._looked_at = time.monotonic()
            await self._look_at_storage()
            await self._look_at_queue()
        return Response(metrics.exposed(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _look_at_storage(self) -> None:
        """With row security on it would see nobody's tasks, and say that none wait: then nothing is said."""
        if self._walled:
            return
        try:
            counts, oldest = await self._storage.waiting()
            named = await self._storage.open_by_agent() if self._agents else {}
            workers = await self._storage.list_workers()
            endpoints = await self._storage.list_endpoints()
            pruned = await self._storage.retention_age()
            now = await self._storage.check()
        except (StorageUnavailable, SchemaMismatch):
            metrics.STORAGE_UP.set(0)
            return
        metrics.STORAGE_UP.set(1)
        self._tell_tasks(counts, named)
        metrics.OLDEST_WAITING.set(oldest or 0.0)
        metrics.RETENTION_AGE.set((self._retains and pruned) or 0.0)
        metrics.WEBHOOKS_WAITING.set(sum(each.waiting for each in endpoints))
        waiting = [each.oldest for each in endpoints if each.oldest]
        metrics.OLDEST_DELIVERY.set((now - min(waiting)).total_seconds() if waiting else 0.0)
        alive = [worker.beat for worker in workers if worker.silent <= self._alive]
        for draining in (False, True):
            count = sum(beat.draining is draining for beat in alive)
            metrics.WORKERS.labels(str(draining).lower()).set(count)
        metrics.BLOCKED_WORKERS.set(sum(worker.is_blocked(self._alive) for worker in workers))
        used = sum(beat.running for beat in alive)
        metrics.WORKER_SLOTS.labels("true").set(used)
        metrics.WORKER_SLOTS.labels("false").set(sum(beat.slots for beat in alive) - used)

    def _tell_tasks(
        self, counts: Mapping[TaskState, int], named: Mapping[tuple[str, TaskState], int]
    ) -> None:
        """What is no named agent's is an only one's: looked at a moment earlier, so that it may be off by as much."""
        agents = {*self._agents, *(agent for agent, _ in named)}
        for state in metrics.OPEN_STATES:
            of_named = {agent: named.get((agent, state), 0) for agent in agents}
            rest = max(counts.get(state, 0) - sum(of_named.values()), 0)
            for agent, count in {ONLY: rest, **of_named}.items():
                metrics.TASKS.labels(state.value, agent).set(count)

    async def _look_at_queue(self) -> None:
        try:
            await self._queue.check()
        except QueueUnavailable:
            metrics.QUEUE_UP.set(0)
        else:
            metrics.QUEUE_UP.set(1)
