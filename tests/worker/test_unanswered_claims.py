"""A claim that took a task, whose answer was lost: its worker asks again, and the task neither waits for the end of its lease nor
counts a crash."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from perdure.agent import Turn
from perdure.errors import StorageUnavailable
from perdure.queue.inline import InlineQueue
from perdure.settings import StorageSettings
from perdure.storage.postgres import PostgresStorage, claims
from perdure.tasks import TaskState
from tests.support.proxy import proxied
from tests.support.storages import opened_postgres
from worker.lease import Reins
from worker.slots import Slots
from worker.turn import run_turn
from worker.worker import Worker

from .conftest import SETTINGS, Shop, meddled, shop_over


class Done:
    """A handler that remembers which attempts ran."""

    def __init__(self) -> None:
        self.attempts: list[int] = []

    def __call__(self, messages: Any, turn: Turn) -> str:
        self.attempts.append(turn.attempt)
        return "done"


def losing_one() -> Callable[..., Awaitable[Any]]:
    """The first answer is lost."""
    lost: list[Any] = []

    async def claimed(claim: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any) -> Any:
        found = await claim(*arguments, **named)
        if not lost:
            lost.append(found)
            raise StorageUnavailable("its answer was lost")
        return found

    return claimed


def deaf(shop: Shop, handler: Any) -> Worker:
    return shop.worker(handler, storage=meddled(shop.storage, claim_task=losing_one()))


async def completed(shop: Shop, task_id: UUID) -> None:
    """And nothing was counted."""
    task = await shop.load(task_id)
    assert (task.state, task.crashes, task.failures) == (TaskState.COMPLETED, 0, 0)


async def test_its_turn_runs_as_the_attempt_that_it_was(any_shop: Shop) -> None:
    handler, task_id = Done(), await any_shop.submit()
    worker = deaf(any_shop, handler)
    with pytest.raises(StorageUnavailable):
        await run_turn(worker, Reins())
    assert await run_turn(worker, Reins())
    assert (handler.attempts, worker.unanswered) == ([1], [])
    await completed(any_shop, task_id)


async def test_one_of_which_too_much_is_over_is_given_back_at_once(any_shop: Shop) -> None:
    """It was sent half a lease ago: its keeper might come too late."""
    handler, task_id = Done(), await any_shop.submit()
    worker = deaf(any_shop, handler)
    with pytest.raises(StorageUnavailable):
        await run_turn(worker, Reins())
    [(token, sent)] = worker.unanswered
    worker.unanswered[:] = [(token, sent - SETTINGS.worker.lease)]
    assert await run_turn(worker, Reins())
    assert (handler.attempts, any_shop.rings) == ([], 1)
    assert await run_turn(worker, Reins())
    assert handler.attempts == [2]
    await completed(any_shop, task_id)


async def test_one_that_took_nothing_takes_what_is_due_now(any_shop: Shop) -> None:
    """However long ago it was asked first: the whole lease is ahead."""
    handler = Done()
    worker = deaf(any_shop, handler)
    with pytest.raises(StorageUnavailable):
        await run_turn(worker, Reins())
    [(token, sent)] = worker.unanswered
    worker.unanswered[:] = [(token, sent - SETTINGS.worker.lease)]
    task_id = await any_shop.submit()
    assert await run_turn(worker, Reins())
    assert handler.attempts == [1]
    await completed(any_shop, task_id)


class Shared(InlineQueue):
    """One that other processes ring as well: a worker waits for rings."""

    shared = True


async def test_a_worker_looks_for_it_as_soon_as_the_storage_answers(shop: Shop) -> None:
    """Not only after a long silence of the bell."""
    task_id, handler = await shop.submit(), Done()
    slots = Slots(replace(deaf(shop, handler), queue=Shared()))
    looking = asyncio.create_task(slots.start_turns())
    await slots.run_one()
    assert len(slots.worker.unanswered) == 1
    slots.look_after(3600)
    await shop.reaches(task_id, TaskState.COMPLETED)
    looking.cancel()
    await slots.drain(5)


async def test_it_is_found_after_a_cut_between_the_claim_and_what_its_turn_reads(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postgres has committed the claim then."""
    with proxied(database_url) as network:
        read = claims._continued

        async def cut_off(*arguments: Any) -> Any:
            network.close()
            return await read(*arguments)

        settings = StorageSettings(run_migrations_on_startup=False, retry_timeout=0)
        cut = PostgresStorage(network.url(database_url), settings)
        async with opened_postgres(database_url) as opened, shop_over(opened) as shop:
            handler = Done()
            worker = shop.worker(handler, storage=cut)
            await cut.open()
            await shop.run(handler, await shop.submit(context="talk"))
            task_id = await shop.submit(context="talk")
            monkeypatch.setattr(claims, "_continued", cut_off)
            with pytest.raises(StorageUnavailable):
                await run_turn(worker, Reins())
            monkeypatch.setattr(claims, "_continued", read)
            assert (await shop.load(task_id)).state is TaskState.WORKING
            network.heal()
            assert await run_turn(worker, Reins())
            assert handler.attempts == [1, 1]
            await completed(shop, task_id)
            await cut.close()
