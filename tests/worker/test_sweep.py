"""One tick of the sweep, and when a process may judge the leases of others."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from perdure.errors import QueueUnavailable
from perdure.queue.inline import InlineQueue
from perdure.storage import Storage
from perdure.storage.memory import MemoryStorage
from perdure.tasks import Ring, TaskState
from tests.support.storages import MemoryClock
from worker.lease import Reins
from worker.slots import Slots
from worker.sweep import Contact, rung_again, swept
from worker.turn import claim_turn, run_turn
from worker.worker import Worker

from .conftest import SETTINGS, Shop, meddled

STEADY = SETTINGS.worker.lease


class Hands:
    """A clock that the test moves."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class SharedQueue(InlineQueue):
    """Remembers what was rung, as Redis does."""

    shared = True

    def __init__(self) -> None:
        super().__init__()
        self.known: list[Ring] = []
        self.away = False

    async def ring(self, rings: Sequence[Ring]) -> None:
        if self.away:
            raise QueueUnavailable("away")
        self.known += rings

    async def missing(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        if self.away:
            raise QueueUnavailable("away")
        return [ring for ring in rings if ring not in self.known]


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
def steady(hands: Hands) -> Contact:
    """A contact that has lasted."""
    contact = Contact(steady_after=STEADY, gap=STEADY, clock=hands)
    contact.made()
    hands.now += STEADY
    contact.made()
    return contact


@pytest.fixture
def shared() -> SharedQueue:
    return SharedQueue()


def worker_of(shop: Shop, queue: InlineQueue | None = None) -> Worker:
    worker = shop.worker(lambda messages: "done")
    return Worker(
        worker_id=worker.worker_id,
        agent=worker.agent,
        storage=worker.storage,
        queue=queue or worker.queue,
        watch=worker.watch,
        keeper=worker.keeper,
        settings=worker.settings,
    )


def clock_of(storage: Storage) -> MemoryClock:
    assert isinstance(storage, MemoryStorage)
    return MemoryClock(storage)


def test_contact_is_steady_after_one_lease_without_a_break(hands: Hands) -> None:
    contact = Contact(steady_after=15, gap=5, clock=hands)
    seen = []
    for _ in range(4):
        contact.made()
        seen.append(contact.steady)
        hands.now += 5
    contact.lost()
    seen.append(contact.steady)
    contact.made()
    assert [*seen, contact.steady] == [False, False, False, True, False, False]


def test_a_long_silence_is_a_break(hands: Hands) -> None:
    contact = Contact(steady_after=15, gap=5, clock=hands)
    for _ in range(4):
        contact.made()
        hands.now += 5
    seen = [contact.steady]
    hands.now += 1
    seen.append(contact.steady)
    contact.made()
    assert [*seen, contact.steady] == [True, False, False]


async def test_a_dead_workers_task_runs_again(shop: Shop, steady: Contact) -> None:
    worker = worker_of(shop)
    task_id = await shop.submit()
    assert await claim_turn(worker)  # and then it dies
    await clock_of(shop.storage).expire_lease(task_id)
    await swept(worker, Slots(worker), steady)
    task = await shop.load(task_id)
    assert (task.state, task.crashes, shop.rings) == (TaskState.SUBMITTED, 1, 1)
    assert await run_turn(worker, Reins())
    assert (await shop.load(task_id)).state is TaskState.COMPLETED


async def test_who_was_cut_off_does_not_judge(shop: Shop, steady: Contact) -> None:
    worker = worker_of(shop)
    task_id = await shop.submit()
    await claim_turn(worker)
    await clock_of(shop.storage).expire_lease(task_id)
    steady.lost()
    await swept(worker, Slots(worker), steady)
    assert (await shop.load(task_id)).state is TaskState.WORKING


async def test_a_rescue_that_is_held_up_judges_by_the_time_before(shop: Shop, steady: Contact) -> None:
    """The outage comes between the look at the storage and the rescue: leases ran out meanwhile."""
    worker_settings = SETTINGS.worker.model_copy(update={"lease_grace": 0.0})
    shop.settings = SETTINGS.model_copy(update={"worker": worker_settings})
    storage, clock, task_id = shop.storage, clock_of(shop.storage), await shop.submit()

    async def held_up(rescue: Any, **arguments: Any) -> Any:
        await clock.expire_lease(task_id, ago=0)
        return await rescue(**arguments)

    shop.storage = meddled(storage, rescue_tasks=held_up)
    worker = worker_of(shop)
    await claim_turn(worker)
    await swept(worker, Slots(worker), steady)
    assert (await shop.load(task_id)).state is TaskState.WORKING
    shop.storage = storage
    await swept(worker_of(shop), Slots(worker), steady)
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED


async def test_what_the_bell_forgot_is_rung_again_once(shop: Shop, shared: SharedQueue) -> None:
    worker = worker_of(shop, shared)
    task_id = await shop.submit()
    await rung_again(worker, Slots(worker))
    assert shared.known == []  # it was dispatched a moment ago
    await clock_of(shop.storage).age_ring(task_id, 3601)
    for _ in range(3):
        await rung_again(worker, Slots(worker))
    (rung,) = shared.known
    assert rung.task_id == task_id
    await clock_of(shop.storage).age_ring(task_id, 2 * 3600 + 1)
    await rung_again(worker, Slots(worker))
    assert shared.known == [rung]  # it is old, but the bell still knows it
    shared.known.clear()
    await rung_again(worker, Slots(worker))
    assert [ring.dispatch for ring in shared.known] == [rung.dispatch + 1]


async def test_who_finds_that_the_bell_forgot_something_works_off_all_that_is_due(
    shop: Shop, shared: SharedQueue
) -> None:
    worker = worker_of(shop, shared)
    slots = Slots(worker)
    forgotten, known = await shop.submit(), await shop.submit()
    await clock_of(shop.storage).age_ring(forgotten, 3601)
    working = asyncio.create_task(slots.start_turns())
    await rung_again(worker, slots)
    for task_id in (forgotten, known):
        await shop.reaches(task_id, TaskState.COMPLETED)
    working.cancel()


async def test_without_a_bell_nothing_is_dispatched(shop: Shop, shared: SharedQueue) -> None:
    worker = worker_of(shop, shared)
    task_id = await shop.submit()
    await clock_of(shop.storage).age_ring(task_id, 3601)
    shared.away = True
    await rung_again(worker, Slots(worker))
    shared.away = False
    await rung_again(worker, Slots(worker))
    assert len(shared.known) == 1


async def test_finished_tasks_beyond_the_limit_go(shop: Shop, steady: Contact) -> None:
    tasks: list[Any] = [await shop.run(lambda messages: "done") for _ in range(3)]
    storage = SETTINGS.storage.model_copy(update={"finished_tasks": 1})
    shop.settings = SETTINGS.model_copy(update={"storage": storage})
    worker = worker_of(shop)
    await swept(worker, Slots(worker), steady)
    notices = await shop.storage.notices([task.task_id for task in tasks])
    assert [notice.state for notice in notices] == [None, None, TaskState.COMPLETED]
