"""Handlers that do not end when they are told to, and event loops that do not turn."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import Queue
from typing import Any

import pytest
from structlog.testing import capture_logs

from perdure import Agent, Turn
from perdure.tasks import ANONYMOUS, TaskState
from perdure.turns.stuck import left_behind, stack_of
from tests.support.processes import ROOT
from worker import embedded as embedded_module
from worker import pulse as pulse_module
from worker.embedded import at_work
from worker.lease import Reins, Stop
from worker.pulse import Pulse
from worker.slots import Slots
from worker.turn import run_turn

from .conftest import SETTINGS, DeafKeeper, Shop, turns

QUICK = turns(timeout=0.05, patience=0.05)


class Stubborn:
    """Handlers that go on until `let_go`, whatever they are told."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.entered: Queue[int] = Queue()

    async def coroutine(self, messages: Any, turn: Turn) -> str:
        self.entered.put(turn.attempt)
        while not self.over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                turn.emit("still here")
        return "never recorded"

    async def generator(self, messages: Any, turn: Turn) -> AsyncIterator[str]:
        self.entered.put(turn.attempt)
        while not self.over.is_set():
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                yield "still here"

    def function(self, messages: Any, turn: Turn) -> str:
        self.entered.put(turn.attempt)
        assert self.over.wait(60)  # it never looks at turn.canceled
        return "never recorded"

    async def let_go(self) -> None:
        self.over.set()
        await asyncio.gather(*left_behind, return_exceptions=True)
        assert not left_behind


@pytest.fixture
async def stubborn() -> AsyncIterator[Stubborn]:
    stubborn = Stubborn()
    yield stubborn
    await stubborn.let_go()


# ---------------------------------------------------------------------- a handler that goes on


@pytest.mark.parametrize("kind", ["coroutine", "generator", "function"])
async def test_a_stuck_turn_is_fenced_and_runs_again_once_its_lease_is_over(
    any_shop: Shop, stubborn: Stubborn, kind: str
) -> None:
    """Neither released nor renewed: its handler may still act, so that its conversation waits as if its worker were dead."""
    task_id, following = await any_shop.submit(context="c"), await any_shop.submit(context="c")
    handler = getattr(stubborn, kind)
    with capture_logs() as said:
        await run_turn(any_shop.worker(handler, settings=QUICK), Reins())
    [stuck] = [line for line in said if line["event"] == "turn.stuck"]
    assert f"in {kind}" in stuck["stack"]
    assert (await any_shop.load(task_id)).state is TaskState.WORKING
    assert not await run_turn(any_shop.worker(lambda messages: "never"), Reins())
    await any_shop.clock.expire_lease(task_id)
    await any_shop.storage.rescue_tasks(grace=0, max_crashes=3)
    task = await any_shop.run(lambda messages: "of the other", task_id)
    assert (task.state, task.failures, task.crashes) == (TaskState.COMPLETED, 0, 1)
    await stubborn.let_go()
    assert await any_shop.load(task_id) == task
    assert (await any_shop.run(lambda messages: "next", following)).state is TaskState.COMPLETED


async def test_one_that_emitted_what_cannot_be_stored_too(shop: Shop, stubborn: Stubborn) -> None:
    task_id, _ = await shop.submit(context="c"), await shop.submit(context="c")
    reins = Reins()
    running = asyncio.create_task(
        run_turn(shop.worker(stubborn.coroutine, settings=turns(patience=0.05)), reins)
    )
    await asyncio.to_thread(stubborn.entered.get)
    reins.pull(Stop.BROKEN)
    await running
    assert (await shop.load(task_id)).state is TaskState.WORKING
    assert not await run_turn(shop.worker(lambda messages: "never"), Reins())


async def test_a_stuck_turn_is_renewed_no_more(shop: Shop, stubborn: Stubborn) -> None:
    task_id, keeper = await shop.submit(), DeafKeeper()
    await run_turn(replace(shop.worker(stubborn.coroutine, settings=QUICK), keeper=keeper), Reins())
    assert [claim.task_id for claim in keeper.dropped] == [task_id]


@pytest.mark.parametrize("kind", ["coroutine", "function"])
async def test_a_canceled_one_too(shop: Shop, stubborn: Stubborn, kind: str) -> None:
    settings = turns(patience=0.05)
    task_id, following = await shop.submit(context="c"), await shop.submit(context="c")
    running = asyncio.create_task(run_turn(shop.worker(getattr(stubborn, kind), settings=settings), Reins()))
    await asyncio.to_thread(stubborn.entered.get, timeout=30)
    await shop.storage.cancel_task(ANONYMOUS, task_id)
    await shop.queue.announce(await shop.storage.notices([task_id]))
    await running
    assert len(left_behind) == 1
    assert not await run_turn(shop.worker(lambda messages: "never"), Reins())  # its conversation waits
    await shop.clock.expire_lease(task_id)
    await shop.storage.rescue_tasks(grace=0, max_crashes=3)
    assert (await shop.load(task_id)).state is TaskState.CANCELED
    assert (await shop.run(lambda messages: "next", following)).state is TaskState.COMPLETED


async def test_its_slot_is_replaced_up_to_a_bound_and_then_the_process_ends(
    shop: Shop, stubborn: Stubborn
) -> None:
    ended: list[int] = []
    base = shop.worker(stubborn.function, settings=QUICK)
    settings = base.settings.model_copy(
        update={"worker": base.settings.worker.model_copy(update={"slots": 1, "max_stuck": 3})}
    )
    worker = replace(base, settings=settings, end=lambda: ended.append(len(left_behind)))
    slots = Slots(worker)
    with capture_logs() as said:
        for number in range(1, 5):
            await shop.submit()
            await slots.run_one()
            assert (slots.running, slots.free, len(left_behind)) == (0, 1, number)
            assert ended == [3] * (number >= 3)
    [many] = [line for line in said if line["event"] == "worker.too_many_stuck"]
    assert len(many["stacks"]) == 3
    assert all("in function" in stack for stack in many["stacks"].values())


async def test_one_that_ends_late_counts_no_more(shop: Shop) -> None:
    ended: list[int] = []
    for _ in range(3):
        stubborn = Stubborn()
        worker = replace(shop.worker(stubborn.coroutine, settings=QUICK), end=lambda: ended.append(1))
        settings = worker.settings.model_copy(
            update={"worker": worker.settings.worker.model_copy(update={"max_stuck": 2})}
        )
        await shop.submit()
        await run_turn(replace(worker, settings=settings), Reins())
        await stubborn.let_go()
    assert ended == []


async def test_a_deploy_waits_for_a_stuck_one_only_a_moment(shop: Shop, stubborn: Stubborn) -> None:
    """Also where it was told to stop before, for another reason: the process has no ten seconds."""
    settings = turns(timeout=0.05, patience=3600.0)
    task_id, reins = await shop.submit(), Reins()
    running = asyncio.create_task(run_turn(shop.worker(stubborn.coroutine, settings=settings), reins))
    await reins.pulled
    assert reins.why is Stop.TIMEOUT
    reins.pull(Stop.DEPLOY)
    await running
    task = await shop.load(task_id)
    assert (task.state, task.failures, task.crashes) == (TaskState.SUBMITTED, 0, 0)


async def test_a_process_that_stops_already_is_not_asked_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second signal would end the grace of its turns."""
    asked: list[bool] = []
    monkeypatch.setattr(embedded_module, "ask_to_end", lambda: asked.append(True))
    settings = SETTINGS.model_copy(
        update={"worker": SETTINGS.worker.model_copy(update={"max_stuck": 1, "grace": 0.0})}
    )
    agent = Agent.of({"name": "test"}, lambda messages: "done")
    async with at_work(agent, shop.storage, shop.queue, shop.watch, settings) as slots:
        slots.worker.end()
        assert asked == [True]
        slots.stop()
        slots.worker.end()
        assert asked == [True]


async def test_where_a_suspended_handler_stands() -> None:
    entered = asyncio.Event()

    async def innermost() -> None:
        entered.set()
        await asyncio.Event().wait()

    async def chunks() -> AsyncIterator[str]:
        await innermost()
        yield "never"

    async def outer() -> None:
        async for _ in chunks():
            pass

    task = asyncio.create_task(outer())
    await entered.wait()
    stack = stack_of(task)
    assert [name for name in ("in outer", "in chunks", "in innermost") if name in stack] == [
        "in outer",
        "in chunks",
        "in innermost",
    ]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# ---------------------------------------------------------------------- a loop that does not turn


@contextmanager
def pulse_of(slots: Slots, monkeypatch: pytest.MonkeyPatch, **options: Any) -> Iterator[Pulse]:
    monkeypatch.setattr(pulse_module, "WORTH_A_WARNING", 0.05)
    monkeypatch.setattr(pulse_module, "_INTERVAL", 0.02)
    pulse = Pulse(slots, **options)
    try:
        yield pulse
    finally:
        pulse.close()


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Queue[dict[str, Any]]:
    """What the pulse logs, as it does."""
    lines: Queue[dict[str, Any]] = Queue()

    class Log:
        def __getattr__(self, level: str) -> Any:
            return lambda event, **members: lines.put({"event": event, "level": level, **members})

    monkeypatch.setattr(pulse_module, "log", Log())
    return lines


async def test_a_blocked_loop_is_said_once_with_the_tasks_and_where_it_stands(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, said: Queue[dict[str, Any]]
) -> None:
    seen: list[dict[str, Any]] = []

    async def handler(messages: Any) -> str:
        seen.append(said.get(timeout=30))  # never yields to the event loop
        time.sleep(0.2)  # noqa: ASYNC251 -- the pulse beats ten times meanwhile, and says nothing
        return "done"

    task_id = await shop.submit()
    slots = Slots(shop.worker(handler))
    with pulse_of(slots, monkeypatch):
        await slots.run_one()
        over = await asyncio.to_thread(said.get, timeout=30)
    assert said.empty()
    [blocked] = seen
    assert (blocked["event"], blocked["level"], blocked["tasks"]) == (
        "loop.blocked",
        "warning",
        [str(task_id)],
    )
    assert "in handler" in blocked["stack"]
    assert over["event"] == "loop.unblocked"
    assert over["seconds"] >= 0.1
    assert (await shop.load(task_id)).state is TaskState.COMPLETED


async def test_a_loop_that_is_hung_beyond_a_turns_limit_is_given_up(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, said: Queue[dict[str, Any]]
) -> None:
    given_up = threading.Event()

    async def handler(messages: Any) -> str:
        assert given_up.wait(30)  # never yields to the event loop
        return "done"

    base = shop.worker(handler, settings=turns(timeout=0.05, patience=0.05))
    settings = base.settings.model_copy(
        update={"worker": base.settings.worker.model_copy(update={"lease_grace": 0.05})}
    )
    await shop.submit()
    slots = Slots(replace(base, settings=settings))
    with pulse_of(slots, monkeypatch, hung=given_up.set):
        await slots.run_one()
    events = [line["event"] for line in said.queue]
    assert events[:2] == ["loop.blocked", "loop.hung"]


async def test_a_blocked_loop_within_the_limits_is_left_alone(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, said: Queue[dict[str, Any]]
) -> None:
    async def handler(messages: Any) -> str:
        said.get(timeout=30)
        time.sleep(0.5)  # noqa: ASYNC251 -- many times what a turn is given beyond its limit
        return "done"

    base = shop.worker(handler, settings=turns(timeout=3600, patience=0.05))
    settings = base.settings.model_copy(
        update={"worker": base.settings.worker.model_copy(update={"lease_grace": 0.05})}
    )
    task_id = await shop.submit()
    slots = Slots(replace(base, settings=settings))
    with pulse_of(slots, monkeypatch, hung=lambda: pytest.fail("it was given up")):
        await slots.run_one()
    assert (await shop.load(task_id)).state is TaskState.COMPLETED


# ---------------------------------------------------------------------- the end of a process

ENDS = """
import asyncio, sys
from perdure.launch import run
from perdure.turns.stuck import ending_for_sure, fail_at_the_end, leave_behind

async def stubborn():
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            pass

async def main():
    leave_behind(asyncio.create_task(stubborn()))
    asyncio.get_running_loop().run_in_executor(None, __import__("time").sleep, 3600)
    await asyncio.sleep(0)
    {too_many}
    print("said")
    return {code}

with ending_for_sure():
    sys.exit(run(main()))
"""


@pytest.mark.parametrize(
    ("too_many", "code", "ends_with"), [("", 0, 0), ("", 130, 130), ("fail_at_the_end()", 0, 1)]
)
def test_a_process_with_stuck_handlers_ends(too_many: str, code: int, ends_with: int) -> None:
    """Closing the loop would wait for the coroutine, the interpreter for the thread."""
    script = ENDS.format(too_many=too_many, code=code)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (ends_with, "said\n", "")
