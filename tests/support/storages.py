"""Both storages, opened, each with hands on its clock: tests force the time, they never wait for it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Protocol
from uuid import UUID

import asyncpg

from perdure.storage import Storage
from perdure.storage.memory import MemoryStorage

DAY = 86_400.0


class Clock(Protocol):
    """What only time could do otherwise. Seconds."""

    async def expire_lease(self, task_id: UUID, ago: float = DAY) -> None:
        """Its lease ended `ago` seconds ago."""

    async def lease_left(self, task_id: UUID) -> float:
        """How long its lease still is."""

    async def make_due(self, task_id: UUID) -> None:
        """Its due time is now."""

    async def pass_times(self, task_id: UUID) -> None:
        """Its expiry and its deadline, if it has them, have just passed."""

    async def age_ring(self, task_id: UUID, ago: float) -> None:
        """It became due and was rung for `ago` seconds ago."""

    async def age_key(self, key_id: str, by: float) -> None:
        """Everything about an API key was so many seconds earlier."""

    async def age_worker(self, worker_id: str, by: float) -> None:
        """Its last sign of life was so many seconds earlier."""

    async def set_status_time(self, task_ids: Collection[UUID], time: datetime) -> None:
        """They all took their status at `time`."""

    async def pass_webhooks(self, task_id: UUID, seconds: float) -> None:
        """So much time passes for all its webhooks: their due times, leases, failures and ends, and all breakers."""

    async def expire_claim(self, task_id: UUID) -> None:
        """Whoever delivers for it has given no sign for too long."""


@dataclass
class Opened:
    """A storage and its clock."""

    storage: Storage
    clock: Clock


@asynccontextmanager
async def opened_memory(**options: Any) -> AsyncIterator[Opened]:
    """A MemoryStorage."""
    storage = MemoryStorage(**options)
    await storage.open()
    yield Opened(storage, MemoryClock(storage))
    await storage.close()


@asynccontextmanager
async def opened_postgres(
    database_url: str, *, front_url: str | None = None, workers_url: str | None = None
) -> AsyncIterator[Opened]:
    """A PostgresStorage on a migrated database, which it finds empty. With row security, `front_url` and `workers_url` are those
    of the two roles, and `database_url` that of a superuser."""
    from perdure.security.vault import Vault, new_key
    from perdure.settings import StorageSettings
    from perdure.storage.postgres import PostgresStorage

    settings = StorageSettings(run_migrations_on_startup=False, row_security=front_url is not None)
    storage = PostgresStorage(
        front_url or database_url, settings, workers_url=workers_url, vault=Vault([new_key()])
    )
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute(
            "DELETE FROM contexts; DELETE FROM workers; DELETE FROM concurrency_limits; DELETE FROM api_keys; "
            "DELETE FROM operator_actions; DELETE FROM webhook_endpoints; DELETE FROM retention_runs"
        )
        await storage.open()
        yield Opened(storage, PostgresClock(connection))
    finally:
        await connection.close()
        await storage.close()


class MemoryClock:
    """Reaches into the rows."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._ledger = storage._ledger
        self._keys = storage._keys
        self._workers = storage._workers

    async def expire_lease(self, task_id: UUID, ago: float = DAY) -> None:
        row = self._ledger.tasks[task_id]
        assert row.lease_until is not None
        row.lease_until = self._ledger.now() - timedelta(seconds=ago)

    async def lease_left(self, task_id: UUID) -> float:
        lease_until = self._ledger.tasks[task_id].lease_until
        assert lease_until is not None
        return (lease_until - self._ledger.now()).total_seconds()

    async def make_due(self, task_id: UUID) -> None:
        await self._due(task_id, self._ledger.now())

    async def pass_times(self, task_id: UUID) -> None:
        row, now = self._ledger.tasks[task_id], self._ledger.now()
        row.expires_at, row.deadline_at = row.expires_at and now, row.deadline_at and now

    async def age_ring(self, task_id: UUID, ago: float) -> None:
        time = self._ledger.now() - timedelta(seconds=ago)
        self._ledger.tasks[task_id].dispatched_at = time
        await self._due(task_id, time)

    async def _due(self, task_id: UUID, time: datetime) -> None:
        row = self._ledger.tasks[task_id]
        row.due_at = time
        self._ledger.offer(row)

    async def age_key(self, key_id: str, by: float) -> None:
        row = self._keys[key_id]
        for name in ("created_at", "expires_at", "revoked_at", "overlap_until", "last_used_at"):
            if (time := getattr(row, name)) is not None:
                setattr(row, name, time - timedelta(seconds=by))

    async def age_worker(self, worker_id: str, by: float) -> None:
        sign = self._workers[worker_id]
        self._workers[worker_id] = replace(sign, time=sign.time - timedelta(seconds=by))

    async def set_status_time(self, task_ids: Collection[UUID], time: datetime) -> None:
        for task_id in task_ids:
            row = self._ledger.tasks[task_id]
            row.status_timestamp, row.dispatched_at = time, min(row.dispatched_at, time)

    async def pass_webhooks(self, task_id: UUID, seconds: float) -> None:
        passed, outbox = timedelta(seconds=seconds), self._ledger.outbox
        for line in self._ledger.tasks[task_id].webhooks.values():
            line.due_at = line.due_at and line.due_at - passed
            line.lease_until = line.lease_until and line.lease_until - passed
            line.failing_since = line.failing_since and line.failing_since - passed
            for parcel in line.parcels:
                parcel.ended_at = parcel.ended_at and parcel.ended_at - passed
        for failing in outbox.failing.values():
            failing.open_until = failing.open_until and failing.open_until - passed

    async def expire_claim(self, task_id: UUID) -> None:
        for line in self._ledger.tasks[task_id].webhooks.values():
            line.lease_until = line.lease_until and self._ledger.now()


class PostgresClock:
    """Writes the columns."""

    def __init__(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        self._connection = connection

    async def expire_lease(self, task_id: UUID, ago: float = DAY) -> None:
        await self._set("lease_until = clock_timestamp() - make_interval(secs => $2)", task_id, ago)

    async def lease_left(self, task_id: UUID) -> float:
        left = await self._connection.fetchval(
            "SELECT extract(epoch FROM lease_until - clock_timestamp()) FROM tasks WHERE task_id = $1",
            task_id,
        )
        return float(left)

    async def make_due(self, task_id: UUID) -> None:
        await self._set("due_at = clock_timestamp()", task_id)

    async def pass_times(self, task_id: UUID) -> None:
        await self._set(
            "expires_at = CASE WHEN expires_at IS NOT NULL THEN clock_timestamp() END, "
            "deadline_at = CASE WHEN deadline_at IS NOT NULL THEN clock_timestamp() END",
            task_id,
        )

    async def age_ring(self, task_id: UUID, ago: float) -> None:
        past = "clock_timestamp() - make_interval(secs => $2)"
        await self._set(f"due_at = {past}, dispatched_at = {past}", task_id, ago)

    async def age_key(self, key_id: str, by: float) -> None:
        names = ("created_at", "expires_at", "revoked_at", "overlap_until", "last_used_at")
        change = ", ".join(f"{name} = {name} - make_interval(secs => $2)" for name in names)
        await self._connection.execute(f"UPDATE api_keys SET {change} WHERE key_id = $1", key_id, by)

    async def age_worker(self, worker_id: str, by: float) -> None:
        change = "beat_at = beat_at - make_interval(secs => $2)"
        await self._connection.execute(f"UPDATE workers SET {change} WHERE worker_id = $1", worker_id, by)

    async def set_status_time(self, task_ids: Collection[UUID], time: datetime) -> None:
        for task_id in task_ids:
            await self._set("status_timestamp = $2, dispatched_at = LEAST(dispatched_at, $2)", task_id, time)

    async def pass_webhooks(self, task_id: UUID, seconds: float) -> None:
        passed = "- make_interval(secs => $2)"
        await self._connection.execute(
            f"UPDATE webhook_configs SET due_at = due_at {passed}, lease_until = lease_until {passed}, "
            f"failing_since = failing_since {passed} WHERE task_id = $1",
            task_id,
            seconds,
        )
        await self._connection.execute(
            f"UPDATE webhook_deliveries SET ended_at = ended_at {passed} WHERE task_id = $1", task_id, seconds
        )
        await self._connection.execute(
            "UPDATE webhook_endpoints SET open_until = open_until - make_interval(secs => $1)", seconds
        )

    async def expire_claim(self, task_id: UUID) -> None:
        await self._connection.execute(
            "UPDATE webhook_configs SET lease_until = clock_timestamp() WHERE task_id = $1 AND lease_until IS NOT NULL",
            task_id,
        )

    async def _set(self, change: str, *values: object) -> None:
        await self._connection.execute(f"UPDATE tasks SET {change} WHERE task_id = $1", *values)
