"""run_turn: every way a turn can go, over the real in-memory storage."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from perdure.agent import Turn
from perdure.errors import InputRequired, StorageUnavailable
from perdure.ids import artifact_id
from perdure.settings import Settings
from perdure.storage.memory import MemoryStorage
from perdure.tasks import (
    ANONYMOUS,
    Artifact,
    ArtifactChunk,
    DataPart,
    Event,
    Message,
    Role,
    StatusChange,
    TaskState,
    TextPart,
)
from perdure.turns.perform import BAD_OUTPUT, CRASHED
from perdure.turns.stuck import left_behind
from tests.support.storages import MemoryClock
from worker.lease import Reins, Stop
from worker.turn import claim_turn, run_turn, work_on

from .conftest import SETTINGS, Shop, meddled


def states(events: list[Event]) -> list[TaskState]:
    return [event.body.state for event in events if isinstance(event.body, StatusChange)]


def chunks(events: list[Event]) -> list[ArtifactChunk]:
    return [event.body for event in events if isinstance(event.body, ArtifactChunk)]


def texts(events: list[Event]) -> list[str]:
    return [chunk.artifact.text for chunk in chunks(events)]


# ---------------------------------------------------------------------- to its end


async def test_nothing_is_due(shop: Shop) -> None:
    assert await run_turn(shop.worker(lambda messages: "never"), Reins()) is False


async def test_a_plain_function(shop: Shop) -> None:
    task = await shop.run(lambda messages: messages[-1]["content"].upper())
    assert task.state is TaskState.COMPLETED
    assert task.artifacts == (Artifact(parts=(TextPart("HELLO"),), artifact_id=artifact_id(task.task_id, 0)),)
    assert states(await shop.events(task.task_id)) == [TaskState.WORKING, TaskState.COMPLETED]


async def test_a_coroutine_a_generator_and_an_async_generator(shop: Shop) -> None:
    async def coroutine(messages: Any) -> Any:
        return {"n": 1}

    def generator(messages: Any) -> Iterator[str]:
        yield from ("a", "b")

    async def async_generator(messages: Any) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    (artifact,) = (await shop.run(coroutine)).artifacts
    assert artifact.parts == (DataPart({"n": 1}),)
    for handler in (generator, async_generator):
        (artifact,) = (await shop.run(handler)).artifacts
        assert artifact.parts == (TextPart("ab"),)


async def test_what_the_handler_is_told(shop: Shop) -> None:
    seen: dict[str, Any] = {}

    def handler(messages: Any, turn: Turn) -> None:
        seen.update(id=turn.task_id, context=turn.context_id, attempt=turn.attempt, said=messages)

    task = await shop.run(handler)
    assert seen == {
        "id": str(task.task_id),
        "context": task.context_id,
        "attempt": 1,
        "said": [{"role": "user", "content": "hello"}],
    }


async def test_a_question_and_its_answer(shop: Shop) -> None:
    def handler(messages: Any) -> str:
        if len(messages) == 1:
            raise InputRequired("which city?")
        return f"weather in {messages[-1]['content']}"

    task = await shop.run(handler)
    assert task.state is TaskState.INPUT_REQUIRED
    assert task.status_message is not None
    assert task.status_message.text == "which city?"
    answer = Message(parts=(TextPart("Rome"),), role=Role.USER)
    await shop.storage.continue_task(ANONYMOUS, task.task_id, answer)
    task = await shop.run(handler, task.task_id)
    assert (task.state, task.artifacts[0].text) == (TaskState.COMPLETED, "weather in Rome")


async def test_a_second_turn_adds_artifacts_and_overwrites_none(shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> Any:
        turn.emit(f"turn {turn.attempt}")
        return InputRequired("more?") if turn.attempt == 1 else None

    task = await shop.run(handler)
    await shop.storage.continue_task(
        ANONYMOUS, task.task_id, Message(parts=(TextPart("go on"),), role=Role.USER)
    )
    task = await shop.run(handler, task.task_id)
    assert [artifact.text for artifact in task.artifacts] == ["turn 1", "turn 2"]


async def test_a_crash_tells_the_caller_nothing(shop: Shop) -> None:
    def handler(messages: Any) -> None:
        raise ValueError("password=secret")

    task = await shop.run(handler)
    assert task.state is TaskState.FAILED
    assert task.status_message is not None
    assert task.status_message.text == CRASHED
    assert "secret" not in repr(await shop.events(task.task_id))


async def test_the_next_turn_of_the_conversation_is_rung_for(shop: Shop) -> None:
    first, second = await shop.submit("1", context="c"), await shop.submit("2", context="c")

    def handler(messages: Any) -> str:
        return "|".join(message["content"] for message in messages)

    assert (await shop.run(handler, first)).artifacts[0].text == "1"
    assert shop.rings == 1
    assert (await shop.run(handler, second)).artifacts[0].text == "1|1|2"


async def test_turns_of_one_conversation_never_overlap(shop: Shop) -> None:
    first, second = await shop.submit("1", context="c"), await shop.submit("2", context="c")
    entered, leave = asyncio.Event(), asyncio.Event()

    async def handler(messages: Any) -> str:
        entered.set()
        await leave.wait()
        return "done"

    running = asyncio.create_task(run_turn(shop.worker(handler), Reins()))
    await entered.wait()
    assert await run_turn(shop.worker(handler), Reins()) is False
    leave.set()
    assert await running
    assert await run_turn(shop.worker(handler), Reins())
    for task_id in (first, second):
        assert (await shop.load(task_id)).state is TaskState.COMPLETED


async def test_a_message_that_came_in_meanwhile_is_for_the_next_turn(shop: Shop) -> None:
    async def handler(messages: Any, turn: Turn) -> str:
        if turn.attempt == 1:
            more = Message(parts=(TextPart("and this"),), role=Role.USER)
            await shop.storage.continue_task(ANONYMOUS, UUID(turn.task_id), more)
        return f"{len(messages)} messages"

    task = await shop.run(handler)
    assert (task.state, shop.rings) == (TaskState.SUBMITTED, 1)
    task = await shop.run(handler, task.task_id)
    assert task.state is TaskState.COMPLETED
    assert [artifact.text for artifact in task.artifacts] == ["1 messages", "3 messages"]


# ---------------------------------------------------------------------- on the way


async def test_the_first_chunk_is_written_at_once_and_the_rest_together(shop: Shop) -> None:
    settings = SETTINGS.model_copy(
        update={"turns": SETTINGS.turns.model_copy(update={"chunk_interval": 3600})}
    )
    go_on = asyncio.Event()
    task_id = await shop.submit()

    async def handler(messages: Any) -> AsyncIterator[str]:
        yield "a"
        await go_on.wait()
        for letter in "bcd":
            yield letter

    running = asyncio.create_task(run_turn(shop.worker(handler, settings=settings), Reins()))
    with shop.watch.waiter(task_id) as waiter:
        while texts(await shop.events(task_id)) != ["a"]:
            await waiter.beyond((await shop.load(task_id)).last_seq)
    go_on.set()
    await running
    written = chunks(await shop.events(task_id))
    assert [(chunk.artifact.text, chunk.append, chunk.last_chunk) for chunk in written] == [
        ("a", False, False),
        ("bcd", True, True),
    ]


async def test_a_streamed_answer_with_nothing_left_to_say_is_closed(shop: Shop) -> None:
    task_id = await shop.submit()

    async def handler(messages: Any) -> AsyncIterator[str]:
        yield "a"
        with shop.watch.waiter(task_id) as waiter:
            while not chunks(await shop.events(task_id)):
                await waiter.beyond((await shop.load(task_id)).last_seq)

    task = await shop.run(handler, task_id)
    last = chunks(await shop.events(task_id))[-1]
    assert (last.artifact.parts, last.append, last.last_chunk) == ((TextPart(""),), True, True)
    assert task.artifacts[0].parts == (TextPart("a"),)


async def test_progress_is_seen_and_the_newest_counts(shop: Shop) -> None:
    task_id = await shop.submit()
    go_on = asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> None:
        turn.progress(0.25, "a quarter")
        turn.progress(0.5, "half")
        await go_on.wait()

    running = asyncio.create_task(run_turn(shop.worker(handler), Reins()))
    with shop.watch.waiter(task_id) as waiter:
        while not (task := await shop.load(task_id)).metadata:
            await waiter.beyond(task.last_seq)
    assert task.metadata == {"progress": {"fraction": 0.5, "note": "half"}}
    go_on.set()
    await running
    changes = [event.body for event in await shop.events(task_id) if isinstance(event.body, StatusChange)]
    assert [(change.state, change.metadata) for change in changes] == [
        (TaskState.WORKING, {}),
        (TaskState.WORKING, {"progress": {"fraction": 0.5, "note": "half"}}),
        (TaskState.COMPLETED, {}),
    ]


async def test_ten_thousand_tokens_from_a_thread_arrive_in_order(shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> None:
        for number in range(10_000):
            turn.emit(f"{number} ")

    task = await shop.run(handler)
    assert task.artifacts[0].text == "".join(f"{number} " for number in range(10_000))
    assert len(await shop.events(task.task_id)) < 1000


async def test_emissions_after_the_end_are_dropped(shop: Shop) -> None:
    kept: list[Turn] = []

    def handler(messages: Any, turn: Turn) -> str:
        kept.append(turn)
        return "done"

    task = await shop.run(handler)
    kept[0].emit("too late")
    kept[0].progress(1.0)
    assert await shop.load(task.task_id) == task


# ---------------------------------------------------------------------- stopped


def entering() -> tuple[Callable[..., Any], asyncio.Event, asyncio.Event]:
    """A coroutine that waits for ever, the event that it has been entered, and the one that it was cancelled."""
    entered, cancelled = asyncio.Event(), asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> None:
        turn.emit("so far")
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            assert turn.canceled
            cancelled.set()
            raise

    return handler, entered, cancelled


async def cancel(shop: Shop, task_id: UUID) -> None:
    """As the front door does: change the state, announce it."""
    await shop.storage.cancel_task(ANONYMOUS, task_id)
    await shop.queue.announce(await shop.storage.notices([task_id]))


async def test_cancel_stops_a_coroutine_and_frees_its_conversation(shop: Shop) -> None:
    handler, entered, cancelled = entering()
    task_id, following = await shop.submit(context="c"), await shop.submit(context="c")
    running = asyncio.create_task(run_turn(shop.worker(handler), Reins()))
    await entered.wait()
    await cancel(shop, task_id)
    assert await running
    assert cancelled.is_set()
    assert (await shop.load(task_id)).state is TaskState.CANCELED
    assert shop.rings == 1
    assert (await shop.run(lambda messages: "next", following)).state is TaskState.COMPLETED


async def test_cancel_stops_a_function_that_looks(shop: Shop) -> None:
    entered, ended = threading.Event(), threading.Event()

    def handler(messages: Any, turn: Turn) -> str:
        entered.set()
        while not turn.canceled:
            turn.emit("more")
            threading.Event().wait(0.001)
        ended.set()
        return "dropped"

    task_id = await shop.submit()
    running = asyncio.create_task(run_turn(shop.worker(handler), Reins()))
    await asyncio.to_thread(entered.wait, 10)
    await cancel(shop, task_id)
    await running
    assert ended.is_set()
    task = await shop.load(task_id)
    assert task.state is TaskState.CANCELED
    assert "dropped" not in repr(await shop.events(task_id))


async def test_a_cancel_that_nobody_announced_is_found_by_a_write(shop: Shop) -> None:
    go_on = asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> None:
        await go_on.wait()
        turn.emit("refused")
        await asyncio.Event().wait()

    task_id = await shop.submit()
    running = asyncio.create_task(run_turn(shop.worker(handler), Reins()))
    await shop.reaches(task_id, TaskState.WORKING)
    await shop.storage.cancel_task(ANONYMOUS, task_id)
    go_on.set()
    await running
    assert texts(await shop.events(task_id)) == []


async def test_a_cancel_found_when_settling_drops_the_result_and_frees_the_conversation(shop: Shop) -> None:
    async def handler(messages: Any, turn: Turn) -> str:
        await shop.storage.cancel_task(ANONYMOUS, UUID(turn.task_id))
        return "too late"

    following = shop.submit(context="c")
    task_id = await shop.submit(context="c")
    await following
    task = await shop.run(handler, task_id)
    assert (task.state, list(task.artifacts)) == (TaskState.CANCELED, [])
    assert await run_turn(shop.worker(lambda messages: "next"), Reins())


async def test_a_lost_lease_stops_the_handler_and_drops_its_output(shop: Shop) -> None:
    handler, entered, cancelled = entering()
    task_id = await shop.submit()
    reins = Reins()
    running = asyncio.create_task(run_turn(shop.worker(handler), reins))
    await entered.wait()
    await shop.storage.clear_context(ANONYMOUS, str(task_id))
    await shop.queue.announce(await shop.storage.notices([task_id]))
    await running
    assert cancelled.is_set()
    assert reins.why is Stop.LOST


async def test_a_stale_claim_writes_nothing(shop: Shop) -> None:
    """The zombie: its lease lapsed, another worker took the task and finished it, and then it settles."""
    entered, go_on = asyncio.Event(), asyncio.Event()

    async def zombie(messages: Any, turn: Turn) -> str:
        turn.emit("of the zombie")
        entered.set()
        await go_on.wait()
        return "of the zombie as well"

    task_id = await shop.submit()
    running = asyncio.create_task(run_turn(shop.worker(zombie), Reins()))
    await entered.wait()
    assert isinstance(shop.storage, MemoryStorage)
    await MemoryClock(shop.storage).expire_lease(task_id)
    await shop.storage.rescue_tasks(grace=0, max_crashes=3)
    task = await shop.run(lambda messages: "of the other", task_id)
    go_on.set()
    await running
    assert await shop.load(task_id) == task
    assert (task.state, task.crashes, [each.text for each in task.artifacts]) == (
        TaskState.COMPLETED,
        1,
        ["of the other"],
    )


async def test_a_renewal_that_finds_the_lease_gone_stops_the_handler(shop: Shop) -> None:
    """Told by the keeper's thread; nobody announces anything."""
    handler, entered, cancelled = entering()
    worker = shop.worker(handler, settings=with_lease(1.0))
    keeper = shop.storage.keeper(lease=1.0)
    try:
        task_id = await shop.submit()
        reins = Reins()
        running = asyncio.create_task(run_turn(replace(worker, keeper=keeper), reins))
        await entered.wait()
        await shop.storage.clear_context(ANONYMOUS, str(task_id))
        await running
    finally:
        await asyncio.to_thread(keeper.close)
    assert cancelled.is_set()
    assert reins.why is Stop.LOST


def with_lease(seconds: float) -> Settings:
    return SETTINGS.model_copy(update={"worker": SETTINGS.worker.model_copy(update={"lease": seconds})})


async def test_a_deploy_gives_the_task_back_at_once(shop: Shop) -> None:
    handler, entered, cancelled = entering()
    task_id = await shop.submit()
    reins = Reins()
    running = asyncio.create_task(run_turn(shop.worker(handler), reins))
    await entered.wait()
    reins.pull(Stop.DEPLOY)
    await running
    task = await shop.load(task_id)
    assert cancelled.is_set()
    assert (task.state, task.failures, task.crashes, shop.rings) == (TaskState.SUBMITTED, 0, 0, 1)
    assert list(task.artifacts) == []
    assert (await shop.run(lambda messages: "again", task_id)).artifacts[0].text == "again"


async def test_a_handler_that_ignores_its_end_is_left_behind(shop: Shop) -> None:
    settings = SETTINGS.model_copy(update={"turns": SETTINGS.turns.model_copy(update={"patience": 0.01})})
    entered, never = asyncio.Event(), asyncio.Event()

    async def handler(messages: Any, turn: Turn) -> str:
        entered.set()
        while not never.is_set():
            try:
                await never.wait()
            except asyncio.CancelledError:
                turn.emit("still here")
        return "never recorded"

    task_id = await shop.submit()
    running = asyncio.create_task(run_turn(shop.worker(handler, settings=settings), Reins()))
    await entered.wait()
    await cancel(shop, task_id)
    await running
    assert (await shop.load(task_id)).state is TaskState.CANCELED
    never.set()
    await asyncio.gather(*left_behind, return_exceptions=True)
    assert "never recorded" not in repr(await shop.events(task_id))


async def test_a_claim_whose_answer_came_too_late_is_given_back(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    task_id = await shop.submit()
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now)

    async def slow(real: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal now
        now += SETTINGS.worker.lease / 2
        return await real(*args, **kwargs)

    def handler(messages: Any) -> None:
        pytest.fail("it was started")

    await run_turn(shop.worker(handler, storage=meddled(shop.storage, claim_task=slow)), Reins())
    task = await shop.load(task_id)
    assert (task.state, task.failures, task.crashes, shop.rings) == (TaskState.SUBMITTED, 0, 0, 1)
    released = (await shop.events(task_id))[-1].body
    assert isinstance(released, StatusChange)
    assert released.metadata == {"reason": "late"}


async def test_a_turn_that_was_claimed_while_stopping_is_given_back(shop: Shop) -> None:
    task_id = await shop.submit()
    worker = shop.worker(lambda messages: pytest.fail("it was started"))
    taken = await claim_turn(worker)
    assert taken is not None
    reins = Reins()
    reins.pull(Stop.DEPLOY)
    await work_on(worker, taken, reins)
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED


# ---------------------------------------------------------------------- a storage that is away


def away(times: int, *, applied: bool) -> Callable[..., Any]:
    """The first writes fail, before they were applied or after (an unknown end)."""
    left = times

    async def change(real: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal left
        if left:
            left -= 1
            if applied:
                await real(*args, **kwargs)
            raise StorageUnavailable("gone")
        return await real(*args, **kwargs)

    return change


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("handler_streams", [False, True])
async def test_a_write_is_sent_again_and_applied_once(
    shop: Shop, applied: bool, handler_streams: bool
) -> None:
    async def handler(messages: Any) -> AsyncIterator[str]:
        yield "a"
        yield "b"

    task_id = await shop.submit()
    storage = meddled(shop.storage, update_task=away(2, applied=applied))
    chosen: Callable[..., Any] = handler if handler_streams else lambda messages: "ab"
    await run_turn(shop.worker(chosen, storage=storage), Reins())
    task = await shop.load(task_id)
    assert (task.state, task.artifacts[0].text) == (TaskState.COMPLETED, "ab")


async def test_a_deploy_while_the_storage_is_away_ends(shop: Shop) -> None:
    tried = asyncio.Event()

    async def gone(real: Any, *args: Any, **kwargs: Any) -> Any:
        tried.set()
        raise StorageUnavailable("gone")

    task_id = await shop.submit()
    storage = meddled(shop.storage, update_task=gone, release_task=gone)
    reins = Reins()
    running = asyncio.create_task(run_turn(shop.worker(lambda messages: "x", storage=storage), reins))
    await tried.wait()
    reins.pull(Stop.DEPLOY)
    await running
    assert (await shop.load(task_id)).state is TaskState.WORKING  # until its lease is over


@pytest.mark.parametrize("when", ["on the way", "at the end"])
async def test_what_the_storage_does_not_take_fails_the_task(shop: Shop, when: str) -> None:
    async def refuses(real: Any, claim: Any, write_no: int, **write: Any) -> Any:
        if any("poison" in repr(artifact) for artifact in write["new_artifacts"]):
            raise ValueError("not this one")
        return await real(claim, write_no, **write)

    async def handler(messages: Any, turn: Turn) -> str | None:
        if when == "at the end":
            return "poison"
        turn.emit("poison")
        await asyncio.Event().wait()
        return None

    task_id = await shop.submit()
    await run_turn(shop.worker(handler, storage=meddled(shop.storage, update_task=refuses)), Reins())
    task = await shop.load(task_id)
    assert task.state is TaskState.FAILED
    assert task.status_message is not None
    assert task.status_message.text == BAD_OUTPUT


@pytest.mark.parametrize("told", [True, False])
async def test_deliveries_are_looked_for_where_an_agent_has_webhooks(shop: Shop, told: bool) -> None:
    looks: list[None] = []
    plain = shop.worker(lambda messages: "done", capabilities={"push_notifications": told})
    await shop.submit()
    await run_turn(replace(plain, deliver=lambda: looks.append(None)), Reins())
    assert bool(looks) is told
