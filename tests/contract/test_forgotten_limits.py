"""Limits on the values of a member leave nothing behind: a counter goes when nothing counts against it and no task names it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from perdure.ids import new_task_id
from perdure.settings import StorageSettings
from perdure.storage import Storage
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres import caller_statements as sql
from perdure.storage.postgres.limits import FORGET_UNUSED, UNUSED
from perdure.storage.postgres.records import message_json
from perdure.storage.writes import complete
from perdure.tasks import TaskState
from tests.support.storages import Clock
from tests.support.stories import ME, claim, id_of, idle, says, settle, started, submit

ONE = {"tenant=a": 1}


async def test_what_is_used_no_more_is_forgotten(storage: Storage) -> None:
    ended = await started(storage, context="ended", limits={"tenant=ended": 1})
    asking = await started(storage, context="asking", limits={"tenant=asking": 1})
    await started(storage, context="running", limits={"tenant=running": 1})
    await submit(storage, context="waiting", limits={"tenant=waiting": 1})
    assert await storage.forget_limits() == 0
    await settle(storage, ended)
    await settle(storage, asking, TaskState.INPUT_REQUIRED)
    assert await storage.forget_limits() == 1
    assert await storage.forget_limits() == 0
    assert (await storage.task_line(id_of(ended))).limits == {}
    await storage.cancel_task(ME, id_of(asking))
    assert await storage.forget_limits() == 1


async def test_a_handler_that_goes_on_after_its_cancel_counts(storage: Storage) -> None:
    turn = await started(storage, context="canceled", limits=ONE)
    await storage.cancel_task(ME, id_of(turn))
    assert await storage.forget_limits() == 0
    await submit(storage, context="next", limits=ONE)
    assert await idle(storage)
    await storage.release_task(turn.claim, reason="canceled")
    await claim(storage)
    assert await idle(storage)


async def test_a_forgotten_limit_holds_again_for_the_next_task(storage: Storage, clock: Clock) -> None:
    for _ in range(2):
        turns = [await started(storage, context="first", limits=ONE)]
        await submit(storage, context="second", limits=ONE)
        assert await idle(storage)
        await settle(storage, turns[0])
        await settle(storage, await claim(storage))
        assert await storage.forget_limits() == 1


async def test_many_are_forgotten_some_at_a_time(storage: Storage) -> None:
    for number in range(7):
        turn = await started(storage, context="one", limits={f"tenant={number}": 1})
        if number != 3:
            await settle(storage, turn)
        else:
            await settle(storage, turn, TaskState.INPUT_REQUIRED)
            await storage.cancel_task(ME, id_of(turn))
    await submit(storage, context="open", limits={"tenant=5": 1})
    assert await storage.forget_limits(batch=2) == 6


# ---------------------------------------------------------------------- the race, in Postgres


@pytest.fixture
async def postgres(database_url: str) -> AsyncIterator[PostgresStorage]:
    storage = PostgresStorage(database_url, StorageSettings(run_migrations_on_startup=False))
    await storage.open()
    await settle(storage, await started(storage, context="before", limits=ONE))  # which leaves a counter
    yield storage
    await storage.close()


@pytest.fixture
async def other(database_url: str) -> AsyncIterator[Any]:
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_a_task_on_its_way_keeps_its_limit(postgres: PostgresStorage, other: Any) -> None:
    """It has found the counter, and is not seen yet."""
    transaction = other.transaction()
    await transaction.start()
    task_id = new_task_id()
    message = message_json(complete(says("hello"), "on its way", task_id))
    arguments = [task_id, ME, "on its way", "{}", message, "enqueue", 0, 0.0, None, None]
    await other.fetch(sql.SUBMIT, *arguments, list(ONE), list(ONE.values()), "", None)
    assert await postgres.forget_limits() == 0
    await transaction.commit()
    assert id_of(await claim(postgres)) == task_id


async def test_a_task_that_comes_while_its_limit_is_forgotten_makes_it_anew(
    postgres: PostgresStorage, other: Any
) -> None:
    transaction = other.transaction()
    await transaction.start()
    assert [row["limit_key"] for row in await other.fetch(UNUSED, "", 10)] == list(ONE)
    coming = asyncio.create_task(submit(postgres, context="coming", limits=ONE))
    waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
    await AsyncRetrying(
        retry=retry_if_result(lambda n: not n), wait=wait_fixed(0.005), stop=stop_after_delay(40)
    )(other.fetchval, waits)
    assert len(await other.fetch(FORGET_UNUSED, list(ONE))) == 1
    await transaction.commit()
    await coming
    await submit(postgres, context="second", limits=ONE)
    await claim(postgres)
    assert await idle(postgres)
