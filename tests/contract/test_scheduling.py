"""Which task is claimed next, and which must wait: priorities, fair shares, times, limits, and what a conversation allows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.errors import ContextBusy, LeaseLost
from perdure.ids import new_task_id, new_token
from perdure.storage import Accepted, ClaimedTurn, Held, NewTask, Policy, Storage, Swept, TaskQuery
from perdure.tasks import Notice, StatusChange, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    INTERRUPTIONS,
    ME,
    claim,
    ended,
    id_of,
    idle,
    load,
    log,
    race,
    says,
    settle,
    started,
    submit,
    texts,
)

ROUNDS = range(5)
both_orders = pytest.mark.parametrize("last_first", [False, True], ids=["first-first", "last-first"])


async def said_by(storage: Storage, count: int) -> list[str]:
    """What the next `count` tasks to be claimed say; each is settled before the next is claimed."""
    said = []
    for _ in range(count):
        turn = await claim(storage)
        said.append(turn.task.history[0].text)
        await settle(storage, turn)
    return said


# ---------------------------------------------------------------------- priority and fair share


async def test_higher_priorities_go_first(storage: Storage) -> None:
    for priority in (0, 5, -3, 100):
        await submit(storage, str(priority), context=str(priority), priority=priority)
    assert await said_by(storage, 4) == ["100", "5", "0", "-3"]


async def test_a_conversation_keeps_its_order_whatever_its_priorities(storage: Storage) -> None:
    await submit(storage, "first", priority=0)
    await submit(storage, "second", priority=9)
    await submit(storage, "elsewhere", context="other", priority=5)
    assert await said_by(storage, 3) == ["elsewhere", "first", "second"]


async def test_owners_take_turns(storage: Storage) -> None:
    for number in range(4):
        await submit(storage, f"many {number}", owner="many", context=str(number))
    await submit(storage, "few 0", owner="few", context="a")
    await submit(storage, "few 1", owner="few", context="b")
    assert await said_by(storage, 6) == ["many 0", "few 0", "many 1", "few 1", "many 2", "many 3"]


async def test_one_owners_backlog_does_not_keep_another_waiting(storage: Storage) -> None:
    for number in range(200):
        await submit(storage, "backlog", owner="many", context=str(number))
    assert await said_by(storage, 20) == ["backlog"] * 20
    await submit(storage, "mine")
    assert "mine" in await said_by(storage, 2)


async def test_an_owner_without_a_backlog_gains_nothing_from_the_past(storage: Storage) -> None:
    """Shares are of what waits now: whoever was away does not get all turns when it comes back."""
    for number in range(20):
        await submit(storage, "steady", owner="steady", context=str(number))
    await said_by(storage, 10)
    for number in range(10):
        await submit(storage, "back", owner="back", context=str(number))
    said = await said_by(storage, 10)
    assert 4 <= said.count("steady") <= 6


# ---------------------------------------------------------------------- times


async def test_a_task_is_not_due_before_its_time(storage: Storage, clock: Clock) -> None:
    accepted = await submit(storage, delay=3600.0)
    assert accepted.ring is None
    assert await idle(storage)
    await clock.make_due(id_of(accepted))
    assert id_of(await claim(storage)) == id_of(accepted)


async def test_a_task_that_waits_for_its_time_keeps_its_place(storage: Storage) -> None:
    await submit(storage, "later", delay=3600.0)
    assert (await submit(storage, "behind")).ring is None
    assert await idle(storage)


@pytest.mark.parametrize("times", [{"expires": 0.0}, {"deadline": 0.0}], ids=["expires", "deadline"])
async def test_what_was_not_begun_in_time_fails(storage: Storage, times: dict[str, Any]) -> None:
    late = await submit(storage, **times)
    waiting = await submit(storage)
    assert await idle(storage)
    notices = await storage.expire_tasks()
    task = await load(storage, late)
    assert list(notices) == [Notice(id_of(late), task.last_seq, TaskState.FAILED)]
    assert task.state is TaskState.FAILED
    assert task.status_message is not None
    assert "in time" in task.status_message.text
    assert (await log(storage, late))[-1].attempt == 0
    assert await storage.expire_tasks() == []
    # The next of the conversation can run, and the sweep rings for it.
    assert [ring.task_id for ring in await storage.stranded(idle=0.0)] == [id_of(waiting)]
    assert id_of(await claim(storage)) == id_of(waiting)


async def test_an_expiry_takes_no_more_than_its_limit(storage: Storage) -> None:
    for number in range(5):
        await submit(storage, context=str(number), expires=0.0)
    assert [len(await storage.expire_tasks(limit=2)) for _ in range(4)] == [2, 2, 1, 0]


async def test_several_of_a_conversation_expire_at_once(storage: Storage) -> None:
    for _ in range(3):
        await submit(storage, expires=0.0)
    last = await submit(storage, "last")
    assert len(await storage.expire_tasks()) == 3
    assert id_of(await claim(storage)) == id_of(last)


async def test_what_has_begun_does_not_expire(storage: Storage, clock: Clock) -> None:
    turn = await started(storage, expires=3600.0)
    await storage.release_task(turn.claim, reason="deploy")
    await clock.pass_times(id_of(turn))
    assert await storage.expire_tasks() == []
    assert id_of(await claim(storage)) == id_of(turn)


async def test_a_task_past_its_deadline_fails_even_if_it_had_begun(storage: Storage, clock: Clock) -> None:
    turn = await started(storage, deadline=3600.0)
    assert turn.deadline == pytest.approx(3600.0, abs=60.0)
    await clock.pass_times(id_of(turn))
    assert await storage.expire_tasks() == []  # its worker ends it, who knows the deadline
    await storage.release_task(turn.claim, reason="deploy")
    assert await idle(storage)
    assert [notice.state for notice in await storage.expire_tasks()] == [TaskState.FAILED]


async def test_a_turn_without_a_deadline_has_none(storage: Storage) -> None:
    assert (await started(storage)).deadline is None


# ---------------------------------------------------------------------- limits


async def test_no_more_run_than_a_limit_allows(storage: Storage) -> None:
    for number in range(4):
        await submit(storage, context=str(number), limits={"all": 2})
    turns = [await claim(storage), await claim(storage)]
    assert await idle(storage)
    written = await settle(storage, turns[0])
    assert len(written.rings) == 1
    await claim(storage)
    assert await idle(storage)


async def test_a_key_limits_only_its_own(storage: Storage) -> None:
    for tenant in ("a", "a", "b", "b"):
        await submit(storage, tenant, context=str(new_token()), limits={f"tenant={tenant}": 1, "all": 3})
    turns = [await claim(storage), await claim(storage)]
    assert sorted(turn.task.history[0].text for turn in turns) == ["a", "b"]
    assert await idle(storage)
    await submit(storage, "free", context="free")
    assert (await claim(storage)).task.history[0].text == "free"


async def test_every_limit_of_a_task_counts(storage: Storage) -> None:
    await submit(storage, context="1", limits={"all": 1, "tenant=a": 5})
    await submit(storage, context="2", limits={"all": 1, "tenant=b": 5})
    turn = await claim(storage)
    assert await idle(storage)
    await settle(storage, turn)
    await claim(storage)


ENDS_OF_TURNS = ["completed", "input-required", "released", "canceled", "crashed", "poison", "cleared"]


@pytest.mark.parametrize("end", ENDS_OF_TURNS)
async def test_every_end_of_a_turn_frees_its_limits(storage: Storage, clock: Clock, end: str) -> None:
    turn = await started(storage, context="first", limits={"all": 1}, priority=-1)
    waiting = await submit(storage, context="second", limits={"all": 1})
    assert await idle(storage)
    rings = await end_turn(storage, clock, turn, end)
    if end != "cleared":  # whose next one the sweep finds
        assert rings
        assert waiting.ring not in rings  # which may have been heard already
    second = await claim(storage)
    assert id_of(second) == id_of(waiting)
    assert await idle(storage)
    await settle(storage, second)
    if end in ("released", "crashed"):
        assert id_of(await claim(storage)) == id_of(turn)


async def end_turn(storage: Storage, clock: Clock, turn: ClaimedTurn, end: str) -> Any:
    """End it in this way; the rings."""
    match end:
        case "completed" | "input-required":
            return (await settle(storage, turn, TaskState(end))).rings
        case "released":
            return await storage.release_task(turn.claim, reason="deploy")
        case "canceled":
            await storage.cancel_task(ME, id_of(turn))
            assert await idle(storage)  # until the handler has ended
            return await storage.release_task(turn.claim, reason="canceled")
        case "crashed" | "poison":
            await clock.expire_lease(id_of(turn))
            return (await storage.rescue_tasks(grace=0.0, max_crashes=1 if end == "poison" else 3)).rings
        case _:
            return await storage.clear_context(ME, turn.claim.context_id)


async def test_a_new_number_counts_at_once(storage: Storage) -> None:
    for number in range(3):
        await submit(storage, context=str(number), limits={"all": 1})
    await claim(storage)
    assert await idle(storage)
    await submit(storage, context="more", limits={"all": 3})
    await claim(storage)
    await claim(storage)
    assert await idle(storage)


async def test_many_at_once_stay_within_their_limits(storage: Storage) -> None:
    for number in range(30):
        await submit(storage, context=str(number), limits={"all": 4, f"tenant={number % 2}": 3})
    running, most, done = 0, 0, 0

    async def worker() -> None:
        nonlocal running, most, done
        while done < 30:
            turn = await storage.claim_task("worker", new_token(), lease=60.0)
            if turn is None:
                await asyncio.sleep(0)
                continue
            running += 1
            most = max(most, running)
            await asyncio.sleep(0)
            running -= 1
            await settle(storage, turn)
            done += 1

    async with asyncio.timeout(60):
        await asyncio.gather(*(worker() for _ in range(8)))
    assert most <= 4


# ---------------------------------------------------------------------- conversations


async def test_reject_refuses_while_one_waits_or_runs(storage: Storage) -> None:
    accepted = await submit(storage, policy=Policy.REJECT)
    with pytest.raises(ContextBusy, match="talk"):
        await submit(storage, policy=Policy.REJECT)
    turn = await claim(storage)
    with pytest.raises(ContextBusy):
        await submit(storage, policy=Policy.REJECT)
    await settle(storage, turn)
    again = await submit(storage, policy=Policy.REJECT)
    assert [task.task_id for task in await listed(storage)] == [id_of(again), id_of(accepted)]


async def test_reject_knows_its_own_task_again(storage: Storage) -> None:
    new = NewTask(
        task_id=new_task_id(), owner=ME, context_id="talk", message=says("hello"), policy=Policy.REJECT
    )
    first = await storage.submit_task(new)
    assert (await storage.submit_task(new)).task == first.task


@pytest.mark.parametrize("state", INTERRUPTIONS)
async def test_a_conversation_that_waits_for_its_caller_is_not_busy(
    storage: Storage, state: TaskState
) -> None:
    await ended(storage, state)
    await submit(storage, policy=Policy.REJECT)


async def test_reject_waits_for_a_canceled_handler(storage: Storage) -> None:
    turn = await started(storage)
    await storage.cancel_task(ME, id_of(turn))
    with pytest.raises(ContextBusy):
        await submit(storage, policy=Policy.REJECT)


@both_orders
async def test_of_two_that_would_be_first_one_is_rejected(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        answers = await race(
            *(submit(storage, context=f"talk {number}", policy=Policy.REJECT) for _ in range(2)),
            last_first=last_first,
        )
        assert sorted(type(answer) is ContextBusy for answer in answers) == [False, True]


async def test_interrupt_cancels_what_runs_and_what_waits(storage: Storage) -> None:
    running = await started(storage, "running")
    waiting = await submit(storage, "waiting")
    new = await submit(storage, "new", policy=Policy.INTERRUPT)
    assert {notice.task_id for notice in new.canceled} == {id_of(running), id_of(waiting)}
    for task in (running, waiting):
        found = await load(storage, task)
        assert found.state is TaskState.CANCELED
        assert (await log(storage, task))[-1].body == StatusChange(
            TaskState.CANCELED, metadata={"reason": "interrupted"}
        )
    with pytest.raises(LeaseLost):
        await settle(storage, running)
    assert (await storage.renew_claims([running.claim], 60.0))[running.claim] is Held.CANCELED
    assert new.ring is None
    assert await idle(storage)  # the interrupted handler may still act
    rings = await storage.release_task(running.claim, reason="canceled")
    assert [ring.task_id for ring in rings] == [id_of(new)]
    assert id_of(await claim(storage)) == id_of(new)


async def test_interrupt_starts_at_once_where_nothing_runs(storage: Storage) -> None:
    await submit(storage, "waiting")
    new = await submit(storage, "new", policy=Policy.INTERRUPT)
    assert new.ring is not None
    assert id_of(await claim(storage)) == id_of(new)
    assert await idle(storage)


async def test_interrupt_leaves_other_conversations_and_other_owners_alone(storage: Storage) -> None:
    elsewhere = await started(storage, context="elsewhere")
    theirs = await submit(storage, owner="them")
    new = await submit(storage, policy=Policy.INTERRUPT)
    assert list(new.canceled) == []
    assert (await load(storage, elsewhere)).state is TaskState.WORKING
    assert (await storage.load_task("them", id_of(theirs))).state is TaskState.SUBMITTED


@both_orders
async def test_interrupt_and_settle(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        context = f"talk {number}"
        turn = await started(storage, context=context)
        new, written = await race(
            submit(storage, context=context, policy=Policy.INTERRUPT),
            settle(storage, turn),
            last_first=last_first,
        )
        assert isinstance(new, Accepted)
        if isinstance(written, LeaseLost):
            assert [notice.task_id for notice in new.canceled] == [id_of(turn)]
            await storage.release_task(turn.claim, reason="canceled")
        else:
            assert not new.canceled
        await settle(storage, await claim(storage))
    assert await idle(storage)


@both_orders
async def test_interrupt_and_claim(storage: Storage, last_first: bool) -> None:
    for number in ROUNDS:
        context = f"talk {number}"
        old = await submit(storage, context=context)
        new, turn = await race(
            submit(storage, context=context, policy=Policy.INTERRUPT),
            storage.claim_task("worker", new_token(), lease=60.0),
            last_first=last_first,
        )
        assert [notice.task_id for notice in new.canceled] == [id_of(old)]
        if turn is not None and id_of(turn) == id_of(old):
            with pytest.raises(LeaseLost):
                await settle(storage, turn)
            await storage.release_task(turn.claim, reason="canceled")
            turn = None
        await settle(storage, turn or await claim(storage))
    assert await idle(storage)


async def test_interrupts_at_once_leave_one(storage: Storage) -> None:
    await asyncio.gather(*(submit(storage, str(number), policy=Policy.INTERRUPT) for number in range(6)))
    states = [task.state for task in await listed(storage)]
    assert sorted(states) == [TaskState.CANCELED] * 5 + [TaskState.SUBMITTED]
    await settle(storage, await claim(storage))
    assert await idle(storage)


async def test_parallel_tasks_run_beside_each_other(storage: Storage) -> None:
    accepted = [await submit(storage, str(number), policy=Policy.PARALLEL) for number in range(3)]
    assert all(each.ring for each in accepted)
    turns = [await claim(storage) for _ in range(3)]
    assert {id_of(turn) for turn in turns} == {id_of(each) for each in accepted}
    for turn in turns:
        await settle(storage, turn)
    assert await idle(storage)


async def test_parallel_tasks_neither_wait_for_the_line_nor_hold_it(storage: Storage) -> None:
    await submit(storage, "line 1")
    await submit(storage, "line 2")
    await submit(storage, "beside", policy=Policy.PARALLEL)
    turns = [await claim(storage), await claim(storage)]
    assert sorted(texts(turn.task.history[:1])[0] for turn in turns) == ["beside", "line 1"]
    assert await idle(storage)
    for turn in turns:
        await settle(storage, turn)
    assert (await claim(storage)).task.history[0].text == "line 2"


async def test_a_parallel_task_that_asks_goes_on_beside_the_others(storage: Storage) -> None:
    asking = await ended(storage, TaskState.INPUT_REQUIRED, policy=Policy.PARALLEL)
    running = await started(storage)
    accepted = await storage.continue_task(ME, id_of(asking), says("more"))
    assert accepted.ring is not None
    assert id_of(await claim(storage)) == id_of(asking)
    await settle(storage, running)


async def test_nothing_is_rescued_where_nothing_lapsed(storage: Storage) -> None:
    await started(storage, limits={"all": 1})
    assert await storage.rescue_tasks(grace=0.0, max_crashes=3) == Swept()


async def listed(storage: Storage) -> Any:
    """My tasks, newest first."""
    return (await storage.list_tasks(TaskQuery(owner=ME))).tasks
