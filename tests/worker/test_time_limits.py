"""How long a turn may take: whose word counts, what happens when it is over, and that nobody waits for it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure import Agent, Turn
from perdure.tasks import ANONYMOUS, StatusChange, TaskState
from worker.embedded import at_work
from worker.lease import Reins, Stop
from worker.limits import Limit, limit_of
from worker.turn import OVERDUE, claim_turn, run_turn

from .conftest import DeafKeeper, Shop, turns

SHORT = 0.1


def endless() -> tuple[Any, asyncio.Event]:
    """A coroutine that waits for ever, and the event that it has been cancelled."""
    cancelled = asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> str:
        turn.emit("half of an answer")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert turn.canceled
            cancelled.set()
            raise
        return "never"

    return handler, cancelled


# ---------------------------------------------------------------------- what happens


async def test_a_turn_that_takes_too_long_is_tried_again(any_shop: Shop) -> None:
    handler, cancelled = endless()
    task_id = await any_shop.submit()
    await run_turn(any_shop.worker(handler, settings=turns(timeout=SHORT)), Reins())
    task = await any_shop.load(task_id)
    assert cancelled.is_set()
    assert (task.state, task.failures, task.crashes, list(task.artifacts)) == (TaskState.SUBMITTED, 1, 0, [])
    body = (await any_shop.events(task_id))[-1].body
    assert isinstance(body, StatusChange)
    assert body.metadata["reason"] == "timeout"
    assert body.metadata["retry"]["note"] == "The agent was not done within 0.1 seconds."
    await any_shop.clock.make_due(task_id)
    assert (await any_shop.run(lambda messages: "done", task_id)).state is TaskState.COMPLETED


async def test_a_plain_function_is_told(shop: Shop) -> None:
    told = threading.Event()

    def handler(messages: Any, turn: Turn) -> str:
        while not turn.canceled:
            threading.Event().wait(0.005)
        told.set()
        return "dropped"

    task_id = await shop.submit()
    await run_turn(shop.worker(handler, settings=turns(timeout=SHORT)), Reins())
    assert told.is_set()
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED


async def test_it_fails_when_it_takes_too_long_each_time(shop: Shop) -> None:
    handler, _ = endless()
    settings, task_id = turns(timeout=SHORT, max_failures=1), await shop.submit()
    for _ in range(2):
        await run_turn(shop.worker(handler, settings=settings), Reins())
        await shop.clock.make_due(task_id)
    task = await shop.load(task_id)
    assert task.status_message
    assert (task.state, task.status_message.text) == (
        TaskState.FAILED,
        "The agent was not done within 0.1 seconds.",
    )
    assert (task.failures, task.crashes, task.metadata) == (1, 0, {})
    [group] = await shop.storage.failure_groups()
    assert (group.error_class, group.failures, group.failed) == ("timeout", 2, 1)


async def test_a_turn_that_passes_the_tasks_deadline_fails_at_once(any_shop: Shop) -> None:
    handler, cancelled = endless()
    following = await any_shop.submit(context="c", deadline=0.3)
    task_id, following = following, await any_shop.submit(context="c")
    await run_turn(any_shop.worker(handler), Reins())
    task = await any_shop.load(task_id)
    assert cancelled.is_set()
    assert task.status_message
    assert (task.state, task.status_message.text, task.failures) == (TaskState.FAILED, OVERDUE, 0)
    assert (await any_shop.run(lambda messages: "next", following)).state is TaskState.COMPLETED


async def test_a_turn_that_is_done_in_time_is_done(shop: Shop) -> None:
    task_id = await shop.submit(deadline=30, asks={"turnTimeout": 30})
    assert (await shop.run(lambda messages: "done", task_id)).state is TaskState.COMPLETED


async def test_a_cancel_while_the_handler_is_stopped_counts(shop: Shop) -> None:
    """The conversation's slot is freed, and the caller's word stands."""
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def handler(messages: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await go_on.wait()

    task_id, following = await shop.submit(context="c"), await shop.submit(context="c")
    reins = Reins()
    running = asyncio.create_task(run_turn(shop.worker(handler, settings=turns(timeout=SHORT)), reins))
    await stopping.wait()
    assert reins.why is Stop.TIMEOUT
    await shop.storage.cancel_task(ANONYMOUS, task_id)
    await shop.queue.announce(await shop.storage.notices([task_id]))
    go_on.set()
    await running
    assert (await shop.load(task_id)).state is TaskState.CANCELED
    assert (await shop.run(lambda messages: "next", following)).state is TaskState.COMPLETED


async def test_a_deploy_while_the_handler_is_stopped_costs_nothing(shop: Shop) -> None:
    stopping, go_on = asyncio.Event(), asyncio.Event()

    async def handler(messages: Any) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            stopping.set()
            await go_on.wait()

    task_id, reins = await shop.submit(), Reins()
    running = asyncio.create_task(run_turn(shop.worker(handler, settings=turns(timeout=SHORT)), reins))
    await stopping.wait()
    reins.pull(Stop.DEPLOY)
    go_on.set()
    await running
    task = await shop.load(task_id)
    assert (task.state, task.failures) == (TaskState.SUBMITTED, 0)
    assert (await shop.run(lambda messages: "again", task_id)).state is TaskState.COMPLETED


# ---------------------------------------------------------------------- whose word counts


@pytest.mark.parametrize(
    ("message", "agent", "setting", "seconds"),
    [
        (None, None, 100, 100),
        (None, 20, 100, 20),
        (5, 20, 100, 5),
        (50, 20, 100, 50),  # a message may ask for more than the agent says
        (500, 20, 100, 100),  # nobody gets more than the operator allows
        (None, 500, 100, 100),
    ],
)
async def test_the_narrowest_word_counts(
    shop: Shop, message: float | None, agent: float | None, setting: float, seconds: float
) -> None:
    await shop.submit(asks=None if message is None else {"turnTimeout": message})
    worker = shop.worker(lambda messages: "", settings=turns(timeout=setting), turn_timeout=agent)
    taken = await claim_turn(worker)
    assert taken
    assert limit_of(worker, taken.claimed) == Limit(seconds, Stop.TIMEOUT)
    assert limit_of(worker, replace(taken.claimed, deadline=1.0)) == Limit(1.0, Stop.DEADLINE)
    assert limit_of(worker, replace(taken.claimed, deadline=1e6)) == Limit(seconds, Stop.TIMEOUT)


async def test_an_agent_that_asks_for_more_than_there_is_is_told_so(shop: Shop) -> None:
    agent = Agent.of({"name": "test", "turn_timeout": 500}, lambda messages: "")
    with capture_logs() as said:
        async with at_work(agent, shop.storage, shop.queue, shop.watch, turns(timeout=100)):
            pass
    [capped] = [line for line in said if line["event"] == "agent.turn_timeout_capped"]
    assert (capped["asked"], capped["seconds"]) == (500, 100)


async def test_a_message_that_asks_for_nonsense_is_not_heard(shop: Shop) -> None:
    """The front door refuses it; an older one may have let it pass."""
    await shop.submit(asks={"turnTimeout": "soon"})
    worker = shop.worker(lambda messages: "", settings=turns(timeout=7))
    taken = await claim_turn(worker)
    assert taken
    assert limit_of(worker, taken.claimed).seconds == 7


# ---------------------------------------------------------------------- the keeper


async def test_the_keeper_learns_how_long_the_loop_may_take(shop: Shop) -> None:
    """A turn's limit, what its handler is given to end, and the grace of a lease."""
    task_id, keeper = await shop.submit(asks={"turnTimeout": 30}), DeafKeeper()
    worker = replace(shop.worker(lambda messages: "done", settings=turns(patience=4.0)), keeper=keeper)
    await run_turn(worker, Reins())
    [(claim, limit)] = keeper.limits.items()
    assert claim.task_id == task_id
    assert limit == 30 + 4 + worker.settings.worker.lease_grace
    assert keeper.settled == keeper.dropped == [claim]
