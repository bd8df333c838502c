"""Two that want the same at once: every order has one winner, and nothing is lost.

`last_first` starts them the other way round. In memory a method is atomic, so that the two orders are all there are; in Postgres
each race is run several times over two connections that start at a barrier.
"""

from __future__ import annotations

import asyncio

import pytest

from perdure.errors import LeaseLost, TaskNotCancelable, TaskNotFound, UnsupportedOperation
from perdure.ids import new_task_id, new_token
from perdure.storage import Accepted, ClaimedTurn, Held, Storage, Swept, Written
from perdure.tasks import TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ME,
    answers,
    claim,
    id_of,
    idle,
    load,
    log,
    numbers,
    race,
    says,
    settle,
    started,
    submit,
    texts,
    told,
)

ROUNDS = range(5)

both_orders = pytest.mark.parametrize("last_first", [False, True], ids=["first-first", "last-first"])


async def test_many_writers_number_one_log_without_gaps(storage: Storage) -> None:
    turn = await started(storage)

    async def worker() -> None:
        for write_no in range(1, 21):
            await storage.update_task(turn.claim, write_no, new_messages=[answers(f"turn {write_no}")])

    async def caller(name: int) -> None:
        for number in range(5):
            await storage.continue_task(ME, id_of(turn), says(f"caller {name}.{number}"))

    await asyncio.gather(worker(), *(caller(name) for name in range(8)))
    events = await log(storage, turn)
    assert numbers(events) == list(range(1, 63))
    assert len(set(told(events))) == 62
    order = told(events)
    for name in range(8):
        places = [order.index(f"caller {name}.{number}") for number in range(5)]
        assert places == sorted(places)
    assert (await settle(storage, turn, write_no=21)).state is TaskState.SUBMITTED


async def test_a_task_is_claimed_by_one_of_many(storage: Storage) -> None:
    tasks = {id_of(await submit(storage, context=f"talk {number}")) for number in range(10)}
    claims = [storage.claim_task("w", new_token(), lease=60.0) for _ in range(25)]
    turns = [turn for turn in await asyncio.gather(*claims) if turn is not None]
    while (turn := await storage.claim_task("w", new_token(), lease=60.0)) is not None:
        turns.append(turn)  # one that was locked by a claim that then took another
    taken = [id_of(turn) for turn in turns]
    assert len(taken) == len(set(taken)) == 10
    assert set(taken) == tasks


async def test_a_context_has_one_turn_at_a_time_whoever_claims(storage: Storage) -> None:
    tasks = [id_of(await submit(storage)) for _ in range(5)]
    taken = []
    for _ in tasks:
        claims = [storage.claim_task("w", new_token(), lease=60.0) for _ in range(8)]
        turns = [turn for turn in await asyncio.gather(*claims) if turn is not None]
        if not turns:
            turns = [await claim(storage)]
        (turn,) = turns
        taken.append(id_of(turn))
        await settle(storage, turn)
    assert taken == tasks


async def test_one_task_submitted_many_times_at_once(storage: Storage) -> None:
    task_id = new_task_id()
    answers_ = await asyncio.gather(*(submit(storage, task_id=task_id) for _ in range(6)))
    assert {accepted.task.task_id for accepted in answers_} == {task_id}
    assert numbers(await log(storage, task_id)) == [1]
    assert list((await storage.load_context(ME, "talk")).task_ids) == [task_id]


async def test_one_context_made_by_many_at_once(storage: Storage) -> None:
    accepted = await asyncio.gather(*(submit(storage, str(number)) for number in range(8)))
    assert sum(one.ring is not None for one in accepted) >= 1
    order = list((await storage.load_context(ME, "talk")).task_ids)
    assert sorted(order) == sorted(id_of(one) for one in accepted)
    for task_id in order:
        turn = await claim(storage)
        assert id_of(turn) == task_id
        await settle(storage, turn)


@both_orders
async def test_settle_and_cancel(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        written, canceled = await race(
            settle(storage, turn, new_messages=[answers("done")]),
            storage.cancel_task(ME, id_of(turn)),
            last_first=last_first,
        )
        task = await load(storage, turn)
        if isinstance(written, Written):
            assert isinstance(canceled, TaskNotCancelable)
            assert (task.state, texts(task.history)) == (TaskState.COMPLETED, ["hello", "done"])
        else:
            assert isinstance(written, LeaseLost)
            assert written.canceled
            assert isinstance(canceled, Accepted)
            assert (task.state, texts(task.history)) == (TaskState.CANCELED, ["hello"])
            await storage.release_task(turn.claim, reason="canceled")
        assert numbers(await log(storage, turn)) == list(range(1, task.last_seq + 1))


@both_orders
async def test_settle_and_another_message(storage: Storage, last_first: bool) -> None:
    """No acknowledged message is left without a turn."""
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        written, more = await race(
            settle(storage, turn),
            storage.continue_task(ME, id_of(turn), says("more")),
            last_first=last_first,
        )
        assert isinstance(written, Written)
        if isinstance(more, UnsupportedOperation):
            assert (written.state, list(written.rings)) == (TaskState.COMPLETED, [])
        else:
            assert isinstance(more, Accepted)
            assert (written.state, len(written.rings)) == (TaskState.SUBMITTED, 1)
            again = await claim(storage)
            assert texts(again.conversation) == ["hello", "more"]
            await settle(storage, again)


@both_orders
async def test_a_question_and_another_message(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        written, more = await race(
            settle(storage, turn, TaskState.INPUT_REQUIRED, status_message=answers("which?")),
            storage.continue_task(ME, id_of(turn), says("more")),
            last_first=last_first,
        )
        assert isinstance(written, Written)
        assert isinstance(more, Accepted)
        assert written.rings or more.ring
        assert (await load(storage, turn)).state is TaskState.SUBMITTED
        again = await claim(storage)
        assert sorted(texts(again.conversation)) == ["hello", "more", "which?"]
        await settle(storage, again)


@both_orders
async def test_no_wake_up_is_lost_between_an_end_and_a_new_task(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        written, accepted = await race(
            settle(storage, turn), submit(storage, context=f"talk {number}"), last_first=last_first
        )
        assert isinstance(written, Written)
        assert isinstance(accepted, Accepted)
        assert written.rings or accepted.ring
        await settle(storage, await claim(storage))


@both_orders
async def test_no_wake_up_is_lost_between_a_release_and_a_cancel(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        second = await submit(storage, context=f"talk {number}")
        rings, canceled = await race(
            storage.release_task(turn.claim, reason="deploy"),
            storage.cancel_task(ME, id_of(turn)),
            last_first=last_first,
        )
        assert isinstance(canceled, Accepted)
        assert rings or canceled.ring
        again = await claim(storage)
        assert id_of(again) == id_of(second)
        await settle(storage, again)


@both_orders
async def test_claim_and_cancel(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        first = await submit(storage, context=f"talk {number}")
        second = await submit(storage, context=f"talk {number}")
        turn, canceled = await race(
            storage.claim_task("w", new_token(), lease=60.0),
            storage.cancel_task(ME, id_of(first)),
            last_first=last_first,
        )
        assert isinstance(canceled, Accepted)
        assert (await load(storage, first)).state is TaskState.CANCELED
        if isinstance(turn, ClaimedTurn) and id_of(turn) == id_of(first):
            assert await idle(storage)
            assert await storage.renew_claims([turn.claim], 60.0) == {turn.claim: Held.CANCELED}
            assert list(await storage.release_task(turn.claim, reason="canceled"))
            turn = None
        assert turn is None or id_of(turn) == id_of(second)
        await settle(storage, turn or await claim(storage))


@both_orders
async def test_claim_and_clear(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        await submit(storage, context=f"talk {number}")
        turn, _ = await race(
            storage.claim_task("w", new_token(), lease=60.0),
            storage.clear_context(ME, f"talk {number}"),
            last_first=last_first,
        )
        assert turn is None or isinstance(turn, ClaimedTurn)
        if turn is not None:
            with pytest.raises(LeaseLost):
                await settle(storage, turn)
        assert await idle(storage)


@both_orders
async def test_settle_and_rescue(storage: Storage, clock: Clock, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        await clock.expire_lease(id_of(turn))
        written, swept = await race(
            settle(storage, turn), storage.rescue_tasks(grace=0.0, max_crashes=3), last_first=last_first
        )
        task = await load(storage, turn)
        if isinstance(written, Written):
            assert (task.state, task.crashes, swept) == (TaskState.COMPLETED, 0, Swept())
        else:
            assert isinstance(written, LeaseLost)
            assert (task.state, task.crashes, len(swept.rings)) == (TaskState.SUBMITTED, 1, 1)
            await settle(storage, await claim(storage))


@both_orders
async def test_renew_and_rescue(storage: Storage, clock: Clock, last_first: bool) -> None:
    for number in ROUNDS:
        turn = await started(storage, context=f"talk {number}")
        await clock.expire_lease(id_of(turn))
        found, swept = await race(
            storage.renew_claims([turn.claim], 60.0),
            storage.rescue_tasks(grace=0.0, max_crashes=3),
            last_first=last_first,
        )
        # Absent: it was locked, which is to be asked again.
        held = found.get(turn.claim) or (await storage.renew_claims([turn.claim], 60.0))[turn.claim]
        rings = swept.rings or (await storage.rescue_tasks(grace=0.0, max_crashes=3)).rings
        assert (held, len(rings)) in [(Held.YES, 0), (Held.LOST, 1)]
        if held is Held.LOST:
            turn = await claim(storage)
        await settle(storage, turn)


async def test_rescues_at_once_count_one_crash(storage: Storage, clock: Clock) -> None:
    turns = [await started(storage, context=f"talk {number}") for number in range(5)]
    for turn in turns:
        await clock.expire_lease(id_of(turn))
    sweeps = [storage.rescue_tasks(grace=0.0, max_crashes=3) for _ in range(4)]
    rings = [ring for swept in await asyncio.gather(*sweeps) for ring in swept.rings]
    rings += (await storage.rescue_tasks(grace=0.0, max_crashes=3)).rings
    assert sorted(ring.task_id for ring in rings) == sorted(id_of(turn) for turn in turns)
    assert [(await load(storage, turn)).crashes for turn in turns] == [1] * 5


@both_orders
async def test_submit_and_clear(storage: Storage, last_first: bool) -> None:
    """A task that was accepted after the clearing is there; one that was cleared is gone: no half."""
    for number in ROUNDS:
        context = f"talk {number}"
        await submit(storage, context=context)
        accepted, notices = await race(
            submit(storage, context=context), storage.clear_context(ME, context), last_first=last_first
        )
        assert isinstance(accepted, Accepted)
        if id_of(accepted) in {notice.task_id for notice in notices}:
            with pytest.raises(TaskNotFound):
                await load(storage, accepted)
        else:
            await settle(storage, await claim(storage))
            assert (await load(storage, accepted)).state is TaskState.COMPLETED


async def test_a_ring_is_raised_once_by_sweeps_at_once(storage: Storage, clock: Clock) -> None:
    accepted = await submit(storage)
    await clock.age_ring(id_of(accepted), 100.0)
    stranded = await storage.stranded(idle=50.0)
    raised = await asyncio.gather(*(storage.redispatch(stranded) for _ in range(6)))
    assert sum(len(rings) for rings in raised) == 1
