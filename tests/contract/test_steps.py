"""Checkpoints: what a turn has stored is there when it runs again, and gone when it has settled."""

from __future__ import annotations

import pytest

from perdure.errors import LeaseLost
from perdure.storage import Storage
from perdure.tasks import TaskState
from tests.support.storages import Clock
from tests.support.stories import ME, claim, id_of, says, settle, started, submit


async def test_a_first_run_has_none(storage: Storage) -> None:
    assert dict((await started(storage)).steps) == {}


@pytest.mark.parametrize("end", ["released", "crashed"])
async def test_the_next_run_of_the_turn_gets_them(storage: Storage, clock: Clock, end: str) -> None:
    turn = await started(storage)
    await storage.store_step(turn.claim, "search", 1, {"hits": [1, 2.5, None, "ü"]})
    await storage.store_step(turn.claim, "search", 2, None)
    await storage.store_step(turn.claim, "sum", 1, 3)
    if end == "released":
        await storage.release_task(turn.claim, reason="deploy")
    else:
        await clock.expire_lease(id_of(turn))
        await storage.rescue_tasks(grace=0.0, max_crashes=3)
    again = await claim(storage)
    assert dict(again.steps) == {
        ("search", 1): {"hits": [1, 2.5, None, "ü"]},
        ("search", 2): None,
        ("sum", 1): 3,
    }


async def test_a_result_comes_back_as_it_was(storage: Storage) -> None:
    """The order of members too: a handler that goes through them takes the same steps again."""
    turn = await started(storage)
    result = {"zz": 1, "a": {"y": 1e16, "x": 2}, "b": 0.1}
    await storage.store_step(turn.claim, "one", 1, result)
    await storage.release_task(turn.claim, reason="deploy")
    again = (await claim(storage)).steps["one", 1]
    assert repr(again) == repr(result)


async def test_every_run_adds_to_them(storage: Storage) -> None:
    turn = await started(storage)
    await storage.store_step(turn.claim, "one", 1, 1)
    await storage.release_task(turn.claim, reason="deploy")
    turn = await claim(storage)
    await storage.store_step(turn.claim, "two", 1, 2)
    await storage.release_task(turn.claim, reason="deploy")
    assert dict((await claim(storage)).steps) == {("one", 1): 1, ("two", 1): 2}


async def test_what_is_there_stays(storage: Storage) -> None:
    turn = await started(storage)
    await storage.store_step(turn.claim, "one", 1, "first")
    await storage.store_step(turn.claim, "one", 1, "second")
    await storage.release_task(turn.claim, reason="deploy")
    assert dict((await claim(storage)).steps) == {("one", 1): "first"}


async def test_the_next_turn_starts_anew(storage: Storage) -> None:
    turn = await started(storage)
    await storage.store_step(turn.claim, "one", 1, 1)
    await settle(storage, turn, TaskState.INPUT_REQUIRED)
    await storage.continue_task(ME, id_of(turn), says("more"))
    assert dict((await claim(storage)).steps) == {}


async def test_a_lost_turn_stores_nothing(storage: Storage, clock: Clock) -> None:
    turn = await started(storage)
    await clock.expire_lease(id_of(turn))
    await storage.rescue_tasks(grace=0.0, max_crashes=3)
    with pytest.raises(LeaseLost) as lost:
        await storage.store_step(turn.claim, "one", 1, 1)
    assert not lost.value.canceled
    again = await claim(storage)
    assert dict(again.steps) == {}
    with pytest.raises(LeaseLost):
        await storage.store_step(turn.claim, "one", 1, 1)


async def test_a_canceled_turn_stores_nothing(storage: Storage) -> None:
    turn = await started(storage)
    await storage.cancel_task(ME, id_of(turn))
    with pytest.raises(LeaseLost) as lost:
        await storage.store_step(turn.claim, "one", 1, 1)
    assert lost.value.canceled


async def test_what_cannot_be_stored_is_refused(storage: Storage) -> None:
    turn = await started(storage)
    with pytest.raises(ValueError, match="NUL"):
        await storage.store_step(turn.claim, "one", 1, {"text": "a\x00b"})
    await submit(storage, context="other")
