"""A statement that takes too long: 503, soon, and nothing is held any longer. Over a real Postgres whose tables are locked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from perdure.settings import StorageSettings
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres.counts import COUNT_OWN, COUNT_WAITING
from tests.api.front import Front, at_once, opened_front

Connection = Any
SECONDS = 0.3
BUSY = """
SELECT count(*) FROM pg_stat_activity
 WHERE application_name = 'perdure' AND datname = current_database() AND state <> 'idle'
"""


@pytest.fixture
async def operator(database_url: str) -> AsyncIterator[Connection]:
    """A connection beside the front door's."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture
async def slow(database_url: str) -> AsyncIterator[Front]:
    """With one connection to the database, which whoever keeps it takes from all."""
    settings = StorageSettings(
        run_migrations_on_startup=False,
        pool_size=1,
        statement_timeout=SECONDS,
        pool_timeout=5,
        lock_timeout=60,
    )
    storage = PostgresStorage(database_url, settings=settings)
    await storage.open()
    async with opened_front(storage=storage) as front:
        yield front
    await storage.close()


async def requests(front: Front, task: dict[str, Any]) -> AsyncIterator[Any]:
    """Everything that reads, and a send."""
    yield await front.post("GetTask", {"id": task["id"]})
    yield await front.post("ListTasks")
    yield await front.post("SubscribeToTask", {"id": task["id"]})
    yield await front.post("contexts/get", {"contextId": task["contextId"]})
    yield await front.post("SendMessage", at_once())
    yield await front.http.get(f"/tasks/{task['id']}")
    yield await front.http.get(f"/v1/tasks/{task['id']}")
    yield await front.http.post(f"/tasks/{task['id']}:cancel")


async def test_a_statement_that_takes_too_long_is_503_and_holds_nothing(
    slow: Front, operator: Connection
) -> None:
    task = (await slow.call("SendMessage", at_once()))["task"]
    loop = asyncio.get_running_loop()
    async with operator.transaction():
        await operator.execute("LOCK TABLE tasks, contexts IN ACCESS EXCLUSIVE MODE")
        began = loop.time()
        async for response in requests(slow, task):
            assert response.status_code == 503, response.text
            assert int(response.headers["Retry-After"]) >= 1
            assert SECONDS * 0.9 < loop.time() - began < 5
            assert await operator.fetchval(BUSY) == 0
            began = loop.time()
    assert (await slow.call("GetTask", {"id": task["id"]}))["id"] == task["id"]
    assert (await slow.call("ListTasks"))["totalSize"] == 1  # the send that was refused has left nothing


@pytest.mark.parametrize(("statement", "arguments"), [(COUNT_OWN, ("me", 100)), (COUNT_WAITING, (100,))])
async def test_counting_reads_indexes_alone(
    operator: Connection, statement: str, arguments: tuple[Any, ...]
) -> None:
    """So that a count costs what is counted, whatever else there is."""
    await operator.execute("SET enable_seqscan = off; SET enable_bitmapscan = off")
    plan = "\n".join(row[0] for row in await operator.fetch(f"EXPLAIN {statement}", *arguments))
    assert "Seq Scan" not in plan
    assert plan.count("Index Only Scan") == len(arguments)
