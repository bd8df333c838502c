"""perdure.testing.Harness: conversations, time, deaths and deploys, as a test of an author sees them.

None of these tests waits: where an hour passes, it passes on the harness's clock.
"""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from perdure import InputRequired, Message, Rejected, Retry, TaskState, TextPart, Turn
from perdure.errors import CallerError, InvalidParams, TaskNotCancelable
from perdure.storage.memory import MemoryStorage
from perdure.testing import Harness

Said = list[dict[str, str]]
NEW_YEAR = datetime(2030, 1, 1, tzinfo=UTC)


def weather(messages: Said) -> str:
    if len(messages) == 1:
        raise InputRequired("Which city?")
    return f"sunny in {messages[-1]['content']}"


def harness_of(handler: Any, **config: Any) -> Harness:
    from perdure import Agent

    return Harness(Agent.of({"name": "test", **config}, handler))


# ---------------------------------------------------------------------- conversations


def test_a_question_its_answer_and_the_next_task_of_the_conversation() -> None:
    with Harness(weather) as harness:
        asked = harness.send("weather?")
        assert (asked.state, asked.status) == (TaskState.INPUT_REQUIRED, "Which city?")
        done = harness.send("Lisbon", after=asked)
        assert (done.task_id, done.text) == (asked.task_id, "sunny in Lisbon")
        assert [said.text for said in done.history] == ["weather?", "Which city?", "Lisbon"]
        after = harness.send("Porto", after=done)
        assert after.task_id != done.task_id
        assert after.context_id == done.context_id
        assert after.text == "sunny in Porto"
        assert harness.send("weather?").state is TaskState.INPUT_REQUIRED


def test_what_is_streamed_is_seen_in_order() -> None:
    async def handler(_: Said, turn: Turn) -> AsyncIterator[str]:
        turn.progress(0.5, "half")
        await asyncio.sleep(1)
        yield "one "
        await asyncio.sleep(1)
        turn.emit(Message(parts=[TextPart("by the way")]))
        await asyncio.sleep(1)
        yield "two"

    with Harness(handler) as harness:
        done = harness.send("go", metadata={"a": 1})
    assert (done.text, done.chunks) == ("one two", ("one ", "two"))
    assert [(each.fraction, each.note) for each in done.progress] == [(0.5, "half")]
    assert [said.text for said in done.messages] == ["by the way"]
    assert done.states == (TaskState.WORKING, TaskState.COMPLETED)
    assert done.metadata["a"] == 1
    kinds = [type(event).__name__ for event in done.events]
    assert kinds[:4] == ["Message", "StatusChange", "Progress", "ArtifactChunk"]


def test_what_a_caller_does_wrong_is_what_a_caller_gets() -> None:
    with Harness(weather) as harness:
        with pytest.raises(InvalidParams, match="deadline"):
            harness.send("weather?", metadata={"perdure": {"deadline": -1}})
        done = harness.send("Lisbon", after=harness.send("weather?"))
        with pytest.raises(TaskNotCancelable):
            harness.cancel(done)
        asked = harness.send("weather?")
        with pytest.raises(CallerError, match="turnTimeout"):
            harness.send("Lisbon", after=asked, metadata={"perdure": {"priority": 1}})


def test_a_message_to_a_task_that_works_is_seen_by_its_next_turn() -> None:
    async def handler(messages: Said) -> str:
        await asyncio.sleep(60)
        return " and ".join(said["content"] for said in messages if said["role"] == "user")

    with Harness(handler) as harness:
        task = harness.start("one")
        harness.start("two", after=task)
        done = harness.wait(task)
    assert ([each.text for each in done.artifacts], done.attempts) == (["one", "one and two"], 2)


def test_the_policy_of_the_conversation_holds() -> None:
    async def handler(messages: Said) -> str:
        await asyncio.sleep(60)
        return messages[-1]["content"]

    with harness_of(handler, conversation_policy="interrupt") as harness:
        first = harness.start("one")
        asked = Message(parts=[TextPart("two")], context_id=first.context_id)
        assert harness.send(asked).text == "two"
        assert harness.look(first).state is TaskState.CANCELED


def test_cancel_stops_a_coroutine() -> None:
    ended = []

    async def handler(_: Said) -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(True)

    with Harness(handler) as harness:
        task = harness.start("go")
        assert (task.state, ended) == (TaskState.WORKING, [])
        assert harness.cancel(task).state is TaskState.CANCELED
        assert ended == [True]


# ---------------------------------------------------------------------- time


def test_a_pause_takes_no_time() -> None:
    async def handler(_: Said) -> str:
        await asyncio.sleep(7 * 86_400)
        return "a week later"

    started = time.monotonic()
    with Harness(handler, start=NEW_YEAR, turns={"timeout": 30 * 86_400}) as harness:
        assert harness.send("go").text == "a week later"
        assert timedelta(days=7) <= harness.now() - NEW_YEAR < timedelta(days=7, seconds=1)
    assert time.monotonic() - started < 86_400  # or pytest's own limit would have ended it long ago


def test_a_retry_comes_when_it_is_due_and_not_before() -> None:
    def handler(_: Said, turn: Turn) -> str:
        if turn.attempt < 3:
            raise Retry(after=3600, reason="The bank is closed.")
        return "open"

    with Harness(handler) as harness:
        task = harness.start("go")
        assert (task.state, task.failures) == (TaskState.SUBMITTED, 1)
        assert task.metadata["retry"]["note"] == "The bank is closed."
        harness.advance(3599)
        assert harness.look(task).attempts == 1
        harness.advance(timedelta(seconds=1))
        assert harness.look(task).attempts == 2
        done = harness.wait(task)
    assert (done.text, done.attempts, done.failures) == ("open", 3, 2)


def test_what_fails_again_and_again_fails_in_the_end() -> None:
    def handler(_: Said) -> None:
        raise ConnectionError("no route")

    with Harness(handler, turns={"max_failures": 1}) as harness:
        failed = harness.send("go")
    assert (failed.state, failed.attempts) == (TaskState.FAILED, 2)
    assert "ConnectionError: no route" in failed.traceback
    assert "no route" not in failed.status


def test_a_turn_that_takes_too_long() -> None:
    async def handler(_: Said) -> None:
        await asyncio.Event().wait()

    with harness_of(handler, turn_timeout=60) as harness:
        task = harness.start("go")
        harness.advance(59)
        assert harness.look(task).failures == 0
        harness.advance(1)
        assert harness.look(task).failures == 1
        assert harness.wait(task).status == "The agent was not done within 60 seconds."


def test_a_plain_function_that_takes_too_long_is_told_to_stop() -> None:
    told = threading.Event()

    def handler(_: Said, turn: Turn) -> None:
        while not turn.canceled:
            time.sleep(0.001)
        told.set()

    with Harness(handler, turns={"timeout": 60, "max_failures": 0}, patience=1) as harness:
        assert harness.send("go").state is TaskState.FAILED
        assert told.is_set()


def test_a_handler_that_does_not_end_when_told_to_costs_a_crash() -> None:
    release = threading.Event()

    def handler(_: Said, turn: Turn) -> str:
        if turn.attempt == 1:
            release.wait()
        return "done"

    with Harness(handler, turns={"timeout": 60}, patience=0.2) as harness:
        done = harness.send("go")
        release.set()
    assert (done.text, done.attempts, done.crashes) == ("done", 2, 1)


def test_a_thread_is_waited_for_before_time_passes() -> None:
    """Or its turn would time out while it works."""
    release = threading.Event()

    def handler(_: Said) -> str:
        threading.Thread(target=release.set).start()
        release.wait()
        return "done"

    async def in_an_executor(_: Said) -> str:
        return await asyncio.to_thread(handler, _)

    for each in (handler, in_an_executor):
        release.clear()
        with Harness(each, turns={"timeout": 1, "max_failures": 0}) as harness:
            assert harness.send("go").text == "done"


def test_a_connection_is_waited_for_before_time_passes() -> None:
    async def handler(_: Said) -> str:
        reading, writing = os.pipe()
        reader = asyncio.StreamReader()
        with os.fdopen(reading) as pipe:
            transport, _transport = await asyncio.get_running_loop().connect_read_pipe(
                lambda: asyncio.StreamReaderProtocol(reader), pipe
            )
            threading.Thread(target=_say, args=(writing,)).start()
            async with asyncio.timeout(1):
                heard = await reader.read()
            transport.close()
        return heard.decode()

    with Harness(handler) as harness:
        assert harness.send("go").text == "hello"


def _say(pipe: int) -> None:
    os.write(pipe, b"hello")
    os.close(pipe)


def test_a_task_for_later_and_one_that_nobody_began_in_time() -> None:
    with Harness(lambda messages: "done", start=NEW_YEAR) as harness:
        later = harness.start("go", metadata={"perdure": {"notBefore": "2030-01-02T00:00:00Z"}})
        harness.advance(86_399)
        assert harness.look(later).state is TaskState.SUBMITTED
        harness.advance(1)
        assert harness.look(later).state is TaskState.COMPLETED


def test_a_deadline_and_an_expiry() -> None:
    async def handler(messages: Said) -> str:
        await asyncio.sleep(3000)
        return "done"

    with harness_of(handler, limits=[{"max_running": 1}]) as harness:
        running = harness.start("go")
        waiting = harness.start("go", metadata={"perdure": {"expires": 60}})
        late = harness.send("go", metadata={"perdure": {"deadline": 600}})
        assert late.state is TaskState.FAILED
        assert harness.look(waiting).state is TaskState.FAILED
        assert harness.look(running).state is TaskState.WORKING
        assert harness.wait(running).state is TaskState.COMPLETED


def test_the_storage_in_memory_takes_a_clock() -> None:
    async def checked() -> datetime:
        return await MemoryStorage(clock=lambda: NEW_YEAR).check()

    assert asyncio.run(checked()) == NEW_YEAR


# ---------------------------------------------------------------------- deaths and deploys


class Shop:
    """Pays in a step, then sends a mail in another one."""

    def __init__(self) -> None:
        self.paid: list[str] = []
        self.mailed: list[str] = []

    async def __call__(self, messages: Said, turn: Turn) -> str:
        order = messages[-1]["content"]
        receipt = await turn.step("pay", self._pay, order)
        await turn.step("mail", self._mail, receipt)
        return receipt

    async def _pay(self, order: str) -> str:
        self.paid.append(order)
        return f"receipt for {order}"

    async def _mail(self, receipt: str) -> None:
        self.mailed.append(receipt)


@pytest.mark.parametrize("step", ["pay", "mail"])
def test_what_was_stored_before_the_worker_died_is_not_done_again(step: str) -> None:
    shop = Shop()
    with Harness(shop) as harness:
        harness.crash_after(step)
        done = harness.send("books")
    assert (done.text, done.attempts, done.crashes) == ("receipt for books", 2, 1)
    assert (shop.paid, len(shop.mailed)) == (["books"], 1)


def test_what_was_done_but_not_stored_when_the_worker_died_is_done_again() -> None:
    shop = Shop()
    with Harness(shop) as harness:
        harness.crash_before("pay")
        done = harness.send("books")
        assert harness.send("pens").crashes == 0  # once
    assert (done.text, done.attempts) == ("receipt for books", 2)
    assert shop.paid == ["books", "books", "pens"]


def test_a_step_of_a_plain_function_and_one_that_comes_several_times() -> None:
    calls: list[int] = []

    def handler(_: Said, turn: Turn) -> str:
        for number in range(3):
            turn.step_sync("call", calls.append, number)
        return "done"

    with Harness(handler) as harness:
        harness.crash_after("call", occurrence=2)
        assert harness.send("go").attempts == 2
    assert calls == [0, 1, 2]


def test_a_worker_that_dies_in_the_middle() -> None:
    async def handler(_: Said, turn: Turn) -> AsyncIterator[str]:
        yield f"attempt {turn.attempt} "
        await asyncio.sleep(60)
        yield "and done"

    with Harness(handler) as harness:
        task = harness.start("go")
        assert harness.look(task).text == "attempt 1 "
        harness.crash()
        assert harness.look(task).state is TaskState.WORKING  # nobody knows yet
        done = harness.wait(task)
    assert (done.text, done.attempts, done.crashes) == ("attempt 2 and done", 2, 1)
    assert done.states.count(TaskState.SUBMITTED) == 1


def test_what_a_handler_does_after_its_worker_died_changes_nothing() -> None:
    async def handler(_: Said, turn: Turn) -> str:
        if turn.attempt == 1:
            with suppress(asyncio.CancelledError):
                await asyncio.Event().wait()
            turn.emit("from the dead")
            return "from the dead"
        return "alive"

    with Harness(handler) as harness:
        task = harness.start("go")
        harness.crash()
        assert harness.wait(task).text == "alive"


def test_a_task_that_kills_its_workers_fails() -> None:
    async def handler(_: Said) -> None:
        await asyncio.Event().wait()

    with Harness(handler, turns={"max_crashes": 2}) as harness:
        task = harness.start("go")
        harness.crash()
        harness.advance(20)
        assert harness.look(task).attempts == 2
        harness.crash()
        failed = harness.wait(task)
    assert (failed.state, failed.crashes) == (TaskState.FAILED, 2)


def test_a_turn_that_another_worker_runs_is_not_taken_for_dead() -> None:
    """Its lease is over on the clock by then, had nobody renewed it."""

    async def handler(messages: Said) -> str:
        await asyncio.sleep(600)
        return messages[-1]["content"]

    with Harness(handler) as harness:
        lost = harness.start("one")
        harness.crash()
        other = harness.start("two")
        harness.advance(60)
        assert harness.look(lost).attempts == 2
        assert harness.wait(other).attempts == 1


def test_a_deploy_costs_no_crash_and_no_retry() -> None:
    async def handler(_: Said, turn: Turn) -> int:
        await asyncio.sleep(60)
        return turn.attempt

    with Harness(handler) as harness:
        task = harness.start("go")
        harness.deploy()
        done = harness.wait(task)
    assert (done.state, done.attempts, done.crashes, done.failures) == (TaskState.COMPLETED, 2, 0, 0)


# ---------------------------------------------------------------------- in whatever test


async def test_in_a_test_that_is_a_coroutine() -> None:
    harness = await asyncio.to_thread(Harness, weather)
    with pytest.raises(RuntimeError, match="to_thread"):
        harness.send("weather?")
    asked = await asyncio.to_thread(harness.send, "weather?")
    assert asked.status == "Which city?"
    await asyncio.to_thread(harness.close)


def test_it_closes_whatever_runs() -> None:
    ended = threading.Event()

    def stuck(_: Said, turn: Turn) -> Iterator[str]:
        try:
            while not turn.canceled:
                time.sleep(0.001)
                yield "."
        finally:
            ended.set()

    harness = Harness(stuck, patience=1)
    harness.start("go")
    harness.close()
    harness.close()
    assert ended.is_set()


def test_a_refusal() -> None:
    def handler(_: Said) -> None:
        raise Rejected("not today")

    with Harness(handler) as harness:
        refused = harness.send("go")
    assert (refused.state, refused.status) == (TaskState.REJECTED, "not today")
