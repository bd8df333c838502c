"""The keeper renews from its own thread, tells each loss once, and outlives every failure."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing
from queue import Queue
from uuid import UUID

import pytest

from perdure.ids import new_task_id, new_token
from perdure.settings import StorageSettings
from perdure.storage import Claim, Held
from perdure.storage.keeper import Renew, ThreadKeeper
from perdure.storage.postgres import PostgresStorage
from tests.support.proxy import proxied
from tests.support.storages import opened_memory, opened_postgres
from tests.support.stories import ME, id_of, load, started

LEASE = 0.06
PATIENCE = 10.0
"""Longer than any wait here: a machine that is busy must not fail a test."""


def a_claim() -> Claim:
    return Claim(task_id=new_task_id(), owner=ME, context_id="talk", attempt=1, token=new_token())


class Database:
    """Answers renewals as told, and lets a test wait for each."""

    def __init__(self) -> None:
        self.answers: dict[UUID, Held | None] = {}
        self.renewals: Queue[Sequence[Claim]] = Queue()
        self.connections: Queue[int] = Queue()
        self.refuse_connections = 0
        self.fail_renewals = 0
        self.hang = False

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Renew]:
        self.connections.put(threading.get_ident())
        if self.refuse_connections:
            self.refuse_connections -= 1
            raise OSError("no route to host")
        yield self._renew

    async def _renew(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        if self.hang:
            self.hang = False
            await asyncio.Event().wait()
        if self.fail_renewals:
            self.fail_renewals -= 1
            raise ConnectionResetError("the server closed the connection")
        assert lease == LEASE
        self.renewals.put(claims)
        found = {claim: self.answers.get(claim.task_id, Held.YES) for claim in claims}
        return {claim: held for claim, held in found.items() if held is not None}

    def next_with(self, *claims: Claim) -> None:
        """Wait for a renewal of exactly these."""
        while set(self.renewals.get(timeout=PATIENCE)) != set(claims):
            pass

    def rounds(self, number: int) -> None:
        """Wait until so many more renewals have begun; all but the last have then been told."""
        while not self.renewals.empty():
            self.renewals.get()
        for _ in range(number):
            self.renewals.get(timeout=PATIENCE)


@pytest.fixture
def database() -> Database:
    return Database()


@pytest.fixture
def keeper(database: Database) -> Iterator[ThreadKeeper]:
    keeper = ThreadKeeper(database.connect, lease=LEASE)
    yield keeper
    keeper.close()
    assert not keeper._thread.is_alive()


def test_one_call_renews_all_claims_from_a_thread_of_its_own(
    keeper: ThreadKeeper, database: Database
) -> None:
    claims = [a_claim() for _ in range(3)]
    for claim in claims:
        keeper.keep(claim, lambda held: None)
    database.next_with(*claims)
    database.next_with(*claims)
    assert database.connections.get(timeout=PATIENCE) != threading.get_ident()


def test_without_claims_nothing_is_asked(keeper: ThreadKeeper, database: Database) -> None:
    claim = a_claim()
    keeper.keep(claim, lambda held: None)
    database.next_with(claim)
    keeper.drop(claim)
    other = a_claim()
    keeper.keep(other, lambda held: None)
    database.next_with(other)
    assert all(database.renewals.get_nowait() for _ in range(database.renewals.qsize()))


def test_a_lost_claim_is_told_once_and_dropped(keeper: ThreadKeeper, database: Database) -> None:
    lost, kept, told = a_claim(), a_claim(), Queue[Held]()
    database.answers[lost.task_id] = Held.LOST
    keeper.keep(lost, told.put)
    keeper.keep(kept, told.put)
    assert told.get(timeout=PATIENCE) is Held.LOST
    database.next_with(kept)
    database.rounds(3)
    assert told.empty()


def test_a_canceled_claim_is_told_once_and_still_renewed_until_it_is_lost(
    keeper: ThreadKeeper, database: Database
) -> None:
    claim, told = a_claim(), Queue[Held]()
    database.answers[claim.task_id] = Held.CANCELED
    keeper.keep(claim, told.put)
    assert told.get(timeout=PATIENCE) is Held.CANCELED
    database.rounds(3)
    assert told.empty()
    database.answers[claim.task_id] = Held.LOST
    assert told.get(timeout=PATIENCE) is Held.LOST


@pytest.mark.parametrize("held", [Held.CANCELED, Held.LOST])
def test_a_settling_claim_hears_nothing(keeper: ThreadKeeper, database: Database, held: Held) -> None:
    settling, witness, told = a_claim(), a_claim(), Queue[Held]()
    keeper.keep(settling, told.put)
    keeper.settling(settling)
    database.answers[settling.task_id] = held
    keeper.keep(witness, lambda held: None)
    database.rounds(3)
    assert told.empty()
    keeper.settling(a_claim())  # unknown ones are ignored


def test_a_claim_that_is_missing_in_the_answer_is_asked_for_again(
    keeper: ThreadKeeper, database: Database
) -> None:
    claim, told = a_claim(), Queue[Held]()
    database.answers[claim.task_id] = None
    keeper.keep(claim, told.put)
    database.next_with(claim)
    database.next_with(claim)
    assert told.empty()


def test_a_claim_whose_loop_has_not_reacted_by_its_limit_is_renewed_no_more(
    keeper: ThreadKeeper, database: Database
) -> None:
    hung, settling, kept, told = a_claim(), a_claim(), a_claim(), Queue[Held]()
    keeper.keep(kept, told.put)
    keeper.keep(settling, told.put, limit=LEASE)
    keeper.settling(settling)
    keeper.keep(hung, told.put, limit=LEASE)
    database.rounds(2)  # the second has begun with all three
    database.next_with(settling, kept)
    database.rounds(5)
    database.next_with(settling, kept)
    assert told.empty()


def test_unknown_claims_can_be_dropped(keeper: ThreadKeeper) -> None:
    keeper.drop(a_claim())


def _refuse_twice(database: Database) -> None:
    database.refuse_connections = 2
    database.fail_renewals = 1


def _fail_thrice(database: Database) -> None:
    database.fail_renewals = 3


def _hang(database: Database) -> None:
    database.hang = True


@pytest.mark.parametrize("fail", [_refuse_twice, _fail_thrice, _hang])
def test_a_failure_is_tried_again_over_a_new_connection(
    keeper: ThreadKeeper, database: Database, fail: Callable[[Database], None]
) -> None:
    claim, told = a_claim(), Queue[Held]()
    keeper.keep(claim, told.put)
    database.next_with(claim)
    database.connections.get(timeout=PATIENCE)
    fail(database)
    database.connections.get(timeout=PATIENCE)
    database.rounds(2)
    assert told.empty()


def test_a_keeper_starts_without_a_database(database: Database) -> None:
    database.refuse_connections = 3
    keeper = ThreadKeeper(database.connect, lease=LEASE)
    claim = a_claim()
    keeper.keep(claim, lambda held: None)
    database.next_with(claim)
    keeper.close()


def test_a_callback_that_fails_does_not_stop_the_renewals(keeper: ThreadKeeper, database: Database) -> None:
    bad, kept = a_claim(), a_claim()
    database.answers[bad.task_id] = Held.LOST

    def fail(held: Held) -> None:
        raise RuntimeError("a bug in the worker")

    keeper.keep(bad, fail)
    keeper.keep(kept, lambda held: None)
    database.next_with(kept)


def test_a_callback_may_drop_and_close(database: Database) -> None:
    keeper, claim, told = ThreadKeeper(database.connect, lease=LEASE), a_claim(), threading.Event()
    database.answers[claim.task_id] = Held.CANCELED

    def lost(held: Held) -> None:
        keeper.drop(claim)
        keeper.close()
        told.set()

    keeper.keep(claim, lost)
    assert told.wait(PATIENCE)
    keeper.close()
    assert not keeper._thread.is_alive()


def test_closing_ends_a_renewal_that_hangs_and_leaves_the_connection(database: Database) -> None:
    left, entered = threading.Event(), threading.Event()

    @asynccontextmanager
    async def connect() -> AsyncIterator[Renew]:
        async def hang(claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
            entered.set()
            await asyncio.Event().wait()
            return {}

        try:
            yield hang
        finally:
            left.set()

    keeper = ThreadKeeper(connect, lease=PATIENCE / 10)
    keeper.keep(a_claim(), lambda held: None)
    assert entered.wait(PATIENCE)
    keeper.close()
    keeper.close()
    assert left.is_set()
    assert not keeper._thread.is_alive()


def test_a_keeper_closes_right_after_it_was_made() -> None:
    def connect() -> AbstractAsyncContextManager[Renew]:
        return Database().connect()

    for _ in range(20):
        keeper = ThreadKeeper(connect, lease=PATIENCE)
        keeper.close()
        assert not keeper._thread.is_alive()


async def test_the_keeper_of_a_storage_keeps_a_task_while_the_event_loop_is_blocked() -> None:
    async with opened_memory() as opened:
        turn = await started(opened.storage)
        await opened.clock.expire_lease(id_of(turn))
        keeper = opened.storage.keeper(lease=LEASE)
        canceled = threading.Event()
        keeper.keep(turn.claim, lambda held: canceled.set())
        while await opened.clock.lease_left(id_of(turn)) < 0:
            threading.Event().wait(0.001)  # never yields to the event loop
        await opened.storage.cancel_task(ME, id_of(turn))
        assert canceled.wait(PATIENCE)  # nor does this
        keeper.close()
        assert (await load(opened.storage, turn)).state == "canceled"


async def test_a_frozen_network_of_half_a_lease_loses_no_lease(database_url: str) -> None:
    """A break that no sweep notices, right before a renewal is due: the keeper neither waits for an answer that does not come nor
    says goodbye to who does not hear it."""
    lease = 2.4
    with proxied(database_url) as network:
        async with opened_postgres(database_url) as direct:
            turn = await started(direct.storage)
            storage = PostgresStorage(network.url(database_url), StorageSettings())
            with closing(storage.keeper(lease=lease)) as keeper:
                keeper.keep(turn.claim, lambda held: None)

                async def left() -> float:
                    return await direct.clock.lease_left(id_of(turn))

                while not lease * 0.9 < await left() <= lease:
                    pass
                while await left() > lease * 0.68:
                    pass
                network.hold()
                thawing = threading.Timer(lease / 2, network.heal, kwargs={"forgetting": True})
                thawing.start()
                least = lease
                while thawing.is_alive() or await left() < lease * 0.9:
                    least = min(least, await left())
                assert least > 0
