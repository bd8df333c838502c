"""The outbox in Postgres: the trigger and whoever ends a delivery meet at the line's row, in both orders."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import asyncpg

from perdure.ids import new_task_id, new_token
from perdure.storage import NewTask, Storage, WebhookConfig
from perdure.storage.webhooks import Breaker, ClaimedDelivery, Delivered, DeliveryAttempt
from tests.support.storages import opened_postgres
from tests.support.stories import ME, claim, says, settle

WRITE = """
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
VALUES ($1, $2, $2, 'status', 1, '{"status": {"state": "TASK_STATE_COMPLETED"}}')
"""


async def hooked(storage: Storage) -> None:
    task_id = new_task_id()
    hook = WebhookConfig(config_id="c", task_id=task_id, url="https://hook.test")
    await storage.submit_task(
        NewTask(task_id=task_id, owner=ME, context_id="talk", message=says("hi"), webhooks=[hook])
    )


async def due(storage: Storage) -> list[ClaimedDelivery]:
    return list(
        await storage.claim_deliveries(new_token(), lease=60, limit=10, per_endpoint=10, breaker=Breaker())
    )


async def ended(storage: Storage, claimed: ClaimedDelivery) -> None:
    attempt = DeliveryAttempt(attempt=1, started_at=datetime.now(UTC), seconds=0.1, status=200)
    await storage.settle_delivery(claimed, attempt, Delivered(), breaker=Breaker(), blame=False)


async def somebody_waits(connection: Any) -> None:
    """Until a statement waits for a lock."""
    while not await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
        pass


async def test_an_event_that_is_being_written_is_seen_by_who_ends_the_last_delivery(
    database_url: str,
) -> None:
    """It waits for the writer, and then looks: else the new delivery would stay without a due time."""
    async with opened_postgres(database_url) as opened:
        storage = opened.storage
        await hooked(storage)
        turn = await claim(storage)
        [first] = await due(storage)
        writer, watcher = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
        transaction = writer.transaction()
        await transaction.start()
        await writer.execute(WRITE, turn.claim.task_id, 99)
        ending = asyncio.create_task(ended(storage, first))
        await somebody_waits(watcher)
        await transaction.commit()
        await ending
        [second] = await due(storage)
        assert second.seq == 99
        await writer.close()
        await watcher.close()


async def test_an_event_that_comes_while_the_last_delivery_ends_is_due(database_url: str) -> None:
    """The other way round: the writer waits, and finds an empty line."""
    async with opened_postgres(database_url) as opened:
        storage = opened.storage
        await hooked(storage)
        turn = await claim(storage)
        [first] = await due(storage)
        holder, watcher = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
        transaction = holder.transaction()
        await transaction.start()
        await holder.execute("SELECT FROM webhook_configs FOR NO KEY UPDATE")
        ending = asyncio.create_task(ended(storage, first))
        await somebody_waits(watcher)
        writing = asyncio.create_task(settle(storage, turn))
        await transaction.commit()
        await asyncio.gather(ending, writing)
        [second] = await due(storage)
        assert second.seq > first.seq
        await holder.close()
        await watcher.close()
