"""Checkpoints: what a step gave is stored at once, and a turn that is run again does not pay for it twice."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any
from uuid import UUID

import pytest
from tenacity import AsyncRetrying, stop_after_delay, wait_fixed

from perdure import Retry, Turn
from perdure.errors import LeaseLost, StorageUnavailable
from perdure.tasks import ANONYMOUS, TaskState
from perdure.testing import run, run_sync
from perdure.turns.perform import CRASHED
from worker.lease import Reins, Stop
from worker.turn import run_turn

from .conftest import Shop, meddled, turns


class Paid:
    """A call that costs money: counts how often it is made."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def plain(self, *args: Any, **kwargs: Any) -> Any:
        self.calls.append((args, kwargs))
        return {"hits": [1, 2.5, None, "ü"], "call": len(self.calls)}

    async def coroutine(self, *args: Any, **kwargs: Any) -> Any:
        return self.plain(*args, **kwargs)


RESULT = {"hits": [1, 2.5, None, "ü"], "call": 1}


@pytest.mark.parametrize("kind", ["plain", "coroutine", "lambda", "sync"])
async def test_a_rerun_gets_what_was_stored(any_shop: Shop, kind: str) -> None:
    paid, seen = Paid(), []

    async def handler(messages: Any, turn: Turn) -> str:
        if kind == "lambda":
            seen.append(await turn.step("search", lambda: paid.coroutine(1, key="v")))
        else:
            seen.append(await turn.step("search", getattr(paid, kind), 1, key="v"))
        if turn.attempt == 1:
            raise Retry(after=0)
        return "done"

    def plain_handler(messages: Any, turn: Turn) -> str:
        seen.append(turn.step_sync("search", paid.plain, 1, key="v"))
        if turn.attempt == 1:
            raise Retry(after=0)
        return "done"

    chosen = plain_handler if kind == "sync" else handler
    task = await any_shop.run(chosen)
    assert task.state is TaskState.SUBMITTED
    task = await any_shop.run(chosen, task.task_id)
    assert task.state is TaskState.COMPLETED
    assert paid.calls == [((1,), {"key": "v"})]
    assert seen == [RESULT, RESULT]


async def test_it_is_stored_before_the_handler_goes_on(any_shop: Shop) -> None:
    """Its worker dies: nothing was settled."""
    paid, entered = Paid(), asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> Any:
        found = await turn.step("search", paid.coroutine)
        if turn.attempt == 1:
            entered.set()
            await asyncio.Event().wait()
        return found

    task_id, reins = await any_shop.submit(), Reins()
    running = asyncio.create_task(run_turn(any_shop.worker(handler), reins))
    await entered.wait()
    taken = await steps_of(any_shop, task_id)
    reins.pull(Stop.LOST)
    await running
    assert taken == {("search", 1): RESULT}


async def steps_of(shop: Shop, task_id: UUID) -> Any:
    """What the next run would get, if the worker died now."""
    await shop.clock.expire_lease(task_id)
    await shop.storage.rescue_tasks(grace=0, max_crashes=3)
    turn = await shop.storage.claim_task("other", UUID(int=7), lease=60)
    assert turn
    return dict(turn.steps)


async def test_steps_are_told_apart_by_name_and_occurrence(shop: Shop) -> None:
    calls: list[str] = []

    def call(name: str) -> int:
        calls.append(name)
        return len(calls)

    async def handler(messages: Any, turn: Turn) -> Any:
        given = [await turn.step(name, call, name) for name in "aab"]
        if turn.attempt == 1:
            raise Retry(after=0)
        return given

    task = await shop.run(handler)
    task = await shop.run(handler, task.task_id)
    assert calls == ["a", "a", "b"]
    assert task.artifacts[0].parts[0].data == [1, 2, 3]  # type: ignore[union-attr]


async def test_a_step_that_raises_stores_nothing(shop: Shop) -> None:
    tries: list[int] = []

    def call() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise ConnectionError
        return "found"

    async def handler(messages: Any, turn: Turn) -> Any:
        return await turn.step("search", call)

    settings = turns(retry_base=0.001)
    task_id = await shop.submit()
    await run_turn(shop.worker(handler, settings=settings), Reins())
    await shop.clock.make_due(task_id)
    task = await shop.run(handler, task_id)
    assert (task.artifacts[0].text, len(tries)) == ("found", 2)


async def test_the_next_turn_starts_anew(shop: Shop) -> None:
    paid = Paid()

    async def handler(messages: Any, turn: Turn) -> str:
        await turn.step("search", paid.plain)
        return "done"

    for _ in range(2):
        await shop.run(handler, await shop.submit(context="c"))
    assert len(paid.calls) == 2


# ---------------------------------------------------------------------- refused, away, stopped


@pytest.mark.parametrize("how", [Stop.CANCELED, Stop.LOST])
async def test_a_refused_commit_raises_and_stops_the_handler(any_shop: Shop, how: Stop) -> None:
    raised: list[bool] = []
    stopped_for: list[Stop | None] = []
    after, reins = asyncio.Event(), Reins()

    async def handler(messages: Any, turn: Turn) -> str:
        if how is Stop.CANCELED:
            await any_shop.storage.cancel_task(ANONYMOUS, UUID(turn.task_id))
        else:
            await any_shop.storage.clear_context(ANONYMOUS, turn.context_id)
        try:
            await turn.step("search", lambda: 1)
        except LeaseLost as lost:  # a handler that catches everything is stopped all the same
            raised.append(lost.canceled)
            stopped_for.append(reins.why)  # at once: nobody had to tell us
        try:
            await asyncio.Event().wait()
        finally:
            after.set()
        return "never"

    await any_shop.submit()
    await run_turn(any_shop.worker(handler), reins)
    assert raised == [how is Stop.CANCELED]
    assert stopped_for == [how]
    assert after.is_set()


async def test_a_cancel_goes_before_the_error_of_a_step(shop: Shop) -> None:
    """A handler that tries a step again when it fails is stopped all the same."""
    entered, go_on, calls = threading.Event(), threading.Event(), []
    reins = Reins()

    def fails() -> None:
        calls.append(1)
        entered.set()
        assert go_on.wait(10)
        raise RuntimeError("no")

    async def handler(messages: Any, turn: Turn) -> str:
        for _ in range(3):
            try:
                await turn.step("pay", fails)
            except Exception:  # noqa: S112 -- as people write it
                continue
        return "never"

    task_id = await shop.submit()
    running = asyncio.create_task(run_turn(shop.worker(handler), reins))
    await asyncio.to_thread(entered.wait)
    await shop.storage.cancel_task(ANONYMOUS, task_id)
    reins.pull(Stop.CANCELED)
    async for attempt in AsyncRetrying(stop=stop_after_delay(10), wait=wait_fixed(0.01)):
        with attempt:
            assert any(task.cancelling() for task in asyncio.all_tasks())
    go_on.set()
    await running
    assert calls == [1]


async def test_an_outage_is_waited_for(shop: Shop) -> None:
    tries = 0

    async def away(real: Any, *args: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise StorageUnavailable("gone")
        return await real(*args)

    async def handler(messages: Any, turn: Turn) -> Any:
        return await turn.step("search", lambda: "found")

    task_id = await shop.submit()
    await run_turn(shop.worker(handler, storage=meddled(shop.storage, store_step=away)), Reins())
    assert ((await shop.load(task_id)).artifacts[0].text, tries) == ("found", 4)


@pytest.mark.parametrize("why", [Stop.DEPLOY, Stop.TIMEOUT])
async def test_an_outage_is_not_waited_for_once_the_turn_is_stopped(shop: Shop, why: Stop) -> None:
    """Or the handler would be taken for stuck."""
    tried = asyncio.Event()

    async def gone(real: Any, *args: Any) -> Any:
        tried.set()
        raise StorageUnavailable("gone")

    async def handler(messages: Any, turn: Turn) -> Any:
        return await turn.step("search", lambda: "found")

    task_id, reins = await shop.submit(), Reins()
    storage = meddled(shop.storage, store_step=gone)
    running = asyncio.create_task(run_turn(shop.worker(handler, storage=storage), reins))
    await tried.wait()
    reins.pull(why)
    await running
    task = await shop.load(task_id)
    assert (task.state, task.failures) == (TaskState.SUBMITTED, int(why is Stop.TIMEOUT))


@pytest.mark.parametrize("sync", [False, True])
async def test_what_was_under_way_at_a_deploy_is_stored(any_shop: Shop, sync: bool) -> None:
    """A thread cannot be interrupted: what it paid for is not thrown away."""
    paid, entered, go_on = Paid(), asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def slow() -> Any:
        loop.call_soon_threadsafe(entered.set)
        assert go_on.wait(30)
        return paid.plain()

    async def handler(messages: Any, turn: Turn) -> Any:
        return await turn.step("search", slow)

    def plain_handler(messages: Any, turn: Turn) -> Any:
        return turn.step_sync("search", slow)

    chosen: Any = plain_handler if sync else handler
    task_id, reins = await any_shop.submit(), Reins()
    running = asyncio.create_task(run_turn(any_shop.worker(chosen), reins))
    await entered.wait()
    reins.pull(Stop.DEPLOY)
    await asyncio.sleep(0)
    go_on.set()
    await running
    task = await any_shop.run(chosen, task_id)
    assert (task.state, len(paid.calls)) == (TaskState.COMPLETED, 1)


async def test_a_turn_that_was_told_to_stop_begins_no_step(shop: Shop) -> None:
    paid, entered = Paid(), asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            with pytest.raises(LeaseLost):
                await turn.step("search", paid.plain)
            raise

    await shop.submit()
    reins = Reins()
    running = asyncio.create_task(run_turn(shop.worker(handler), reins))
    await entered.wait()
    reins.pull(Stop.DEPLOY)
    await running
    assert paid.calls == []


# ---------------------------------------------------------------------- what authors see


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (object(), "is no JSON value (object)"),
        ({"a": {1, 2}}, "(a) is no JSON value (set)"),
        ({1: 2}, "name cannot be kept"),
        (float("nan"), "is not a finite number"),
        ("\x00", "NUL"),
    ],
)
@pytest.mark.parametrize("sync", [False, True])
def test_what_is_no_json_is_an_error_that_names_the_step(result: Any, why: str, sync: bool) -> None:
    async def handler(messages: Any, turn: Turn) -> Any:
        await turn.step("search", lambda: result)

    def plain_handler(messages: Any, turn: Turn) -> Any:
        turn.step_sync("search", lambda: result)

    done = run_sync(plain_handler if sync else handler, "go")
    assert isinstance(done.error, TypeError)
    assert "step 'search'" in str(done.error)
    assert why in str(done.error)
    assert done.status == CRASHED
    assert done.steps == {}


@pytest.mark.parametrize("name", ["", "x" * 201, "a\x00b"])
def test_a_name_that_cannot_be_kept(name: str) -> None:
    async def handler(messages: Any, turn: Turn) -> Any:
        await turn.step(name, lambda: 1)

    assert isinstance(run_sync(handler, "go").error, ValueError)


def test_a_first_run_gets_what_a_rerun_would() -> None:
    """Otherwise code that works the first time would break when it is run again."""

    async def handler(messages: Any, turn: Turn) -> Any:
        return [await turn.step("pair", lambda: (1, ("a",)))]

    first = run_sync(handler, "go")
    second = run_sync(handler, "go", steps=first.steps, attempt=2)
    assert first.steps == second.steps == {("pair", 1): [1, ["a"]]}
    assert first.artifacts[0].parts == second.artifacts[0].parts


def test_steps_can_be_given_by_name() -> None:
    async def handler(messages: Any, turn: Turn) -> Any:
        return f"{await turn.step('a', lambda: 'called')} {await turn.step('a', lambda: 'called')}"

    assert run_sync(handler, "go", steps={"a": "given"}).text == "given called"
    assert run_sync(handler, "go", steps={("a", 2): "given"}).text == "called given"


def test_plain_functions_do_not_block_the_loop_and_see_the_context() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def handler(messages: Any, turn: Turn) -> Any:
        variable.set("seen")
        here = threading.get_ident()
        return await turn.step("s", lambda: [threading.get_ident() != here, variable.get()])

    (artifact,) = run_sync(handler, "go").artifacts
    assert artifact.parts[0].data == [True, "seen"]  # type: ignore[union-attr]


def test_generators_of_both_kinds() -> None:
    def generator(messages: Any, turn: Turn) -> Iterator[str]:
        yield turn.step_sync("a", lambda: "a")
        yield turn.step_sync("b", lambda: "b")

    async def async_generator(messages: Any, turn: Turn) -> AsyncIterator[str]:
        yield await turn.step("a", lambda: "a")
        yield await turn.step("b", lambda: "b")

    for handler in (generator, async_generator):
        assert run_sync(handler, "go").text == "ab"


async def test_the_wrong_one_of_the_two_says_so() -> None:
    async def handler(messages: Any, turn: Turn) -> Any:
        turn.step_sync("a", lambda: 1)

    async def something() -> int:
        return 1

    def plain_handler(messages: Any, turn: Turn) -> Any:
        _ = turn.step_sync("a", something)

    error = (await run(handler, "go")).error
    assert isinstance(error, RuntimeError)
    assert "await turn.step" in str(error)
    error = (await run(plain_handler, "go")).error
    assert isinstance(error, TypeError)
    assert "not coroutines" in str(error)


async def test_steps_beside_each_other(shop: Shop) -> None:
    """`asyncio.gather`: the order of the calls counts, not that of the ends."""
    first_may_end = asyncio.Event()

    async def search(what: str) -> str:
        if what == "first":
            await first_may_end.wait()
        else:
            first_may_end.set()
        return what

    async def handler(messages: Any, turn: Turn) -> Any:
        given = await asyncio.gather(*(turn.step("s", search, what) for what in ("first", "second")))
        if turn.attempt == 1:
            raise Retry(after=0)
        return " ".join(given)

    task = await shop.run(handler)
    assert (await shop.run(handler, task.task_id)).artifacts[0].text == "first second"
