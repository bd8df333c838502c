"""What a handler is given beside its messages, and a reply as it is stored."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from perdure.agent import Turn
from perdure.errors import InputRequired, StorageUnavailable
from perdure.ids import new_task_id
from perdure.notes import REPLY
from perdure.storage import NewTask
from perdure.tasks import ANONYMOUS, DataPart, Message, Role, Task, TaskState, TextPart
from tests.worker.conftest import Shop, meddled
from worker.lease import Reins, Stop
from worker.turn import run_turn

Handler = Callable[[Any, Turn], Any]


async def refer(shop: Shop, *names: object, owner: str = ANONYMOUS) -> UUID:
    """A task whose message refers to others."""
    task_id = new_task_id()
    references = tuple(str(name) for name in names)
    said = Message(parts=(TextPart("go on"),), role=Role.USER, reference_task_ids=references)
    await shop.storage.submit_task(
        NewTask(task_id=task_id, owner=owner, context_id=str(task_id), message=said)
    )
    return task_id


# ---------------------------------------------------------------------- references


async def test_a_handler_gets_the_tasks_that_its_message_refers_to(shop: Shop) -> None:
    seen: list[tuple[Any, ...]] = []

    def handler(messages: Any, turn: Turn) -> str:
        tasks = turn.referenced_tasks
        seen.append((turn.reference_task_ids, [(task.state, task.artifacts[0].text) for task in tasks]))
        return str(messages[-1]["content"])

    one = (await shop.run(handler, await shop.submit("one"))).task_id
    two = (await shop.run(handler, await shop.submit("two"))).task_id
    await shop.run(handler, await refer(shop, two, one, two))
    assert seen[-1] == (
        (str(two), str(one), str(two)),
        [(TaskState.COMPLETED, "two"), (TaskState.COMPLETED, "one")],
    )


async def test_what_does_not_exist_and_what_is_somebody_elses_is_left_out(shop: Shop) -> None:
    seen: list[Task] = []

    def handler(messages: Any, turn: Turn) -> None:
        seen.extend(turn.referenced_tasks)

    foreign = await refer(shop, owner="someone else")
    assert await run_turn(shop.worker(handler), Reins())
    await shop.run(handler, await refer(shop, foreign, new_task_id(), "no id of ours"))
    assert seen == []


async def test_references_wait_for_a_database_that_is_away(shop: Shop, monkeypatch: Any) -> None:
    monkeypatch.setattr("worker.references.PAUSE", 0.001)
    outage = iter(range(2))

    async def flaky(load: Any, *arguments: Any, **options: Any) -> Any:
        if next(outage, None) is not None:
            raise StorageUnavailable("away")
        return await load(*arguments, **options)

    before = await shop.submit("one")
    await shop.run(lambda messages: "one", before)
    task_id = await refer(shop, before)
    worker = shop.worker(
        lambda messages, turn: turn.referenced_tasks[0].artifacts[0].text,
        storage=meddled(shop.storage, load_task=flaky),
    )
    assert await run_turn(worker, Reins())
    assert (await shop.load(task_id)).artifacts[0].text == "one"


async def test_a_turn_that_still_waits_for_its_references_is_stopped_like_any_other(shop: Shop) -> None:
    reins = Reins()

    async def away(load: Any, *arguments: Any, **options: Any) -> Any:
        reins.pull(Stop.DEPLOY)
        raise StorageUnavailable("away")

    task_id = await refer(shop, new_task_id())
    worker = shop.worker(lambda messages: "never", storage=meddled(shop.storage, load_task=away))
    assert await run_turn(worker, reins)
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED


# ---------------------------------------------------------------------- replies


def says_hi(messages: Any, turn: Turn) -> None:
    turn.reply("hi")


async def async_hi(messages: Any, turn: Turn) -> None:
    turn.reply("first")
    turn.reply("hi")


def generated_hi(messages: Any, turn: Turn) -> Any:
    turn.reply(Message(parts=(TextPart("hi"),)))
    yield from ()


@pytest.mark.parametrize("handler", [says_hi, async_hi, generated_hi])
async def test_a_reply_is_the_message_of_a_completed_task(shop: Shop, handler: Handler) -> None:
    task = await shop.run(handler)
    assert (task.state, task.artifacts) == (TaskState.COMPLETED, ())
    assert task.status_message is not None
    assert task.status_message.text == "hi"
    assert task.status_message.metadata == {REPLY: True}


async def test_a_reply_may_be_data(shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> None:
        turn.reply({"a": 1})

    task = await shop.run(handler)
    assert task.status_message is not None
    assert task.status_message.parts == (DataPart({"a": 1}),)


async def test_what_is_returned_is_an_artifact_beside_the_reply(shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> str:
        turn.reply("see below")
        return "the report"

    task = await shop.run(handler)
    assert task.artifacts[0].text == "the report"
    assert task.status_message is not None
    assert task.status_message.text == "see below"


async def test_another_end_of_the_turn_counts_more_than_a_reply(shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> None:
        turn.reply("hi")
        raise InputRequired("Which city?")

    task = await shop.run(handler)
    assert task.state is TaskState.INPUT_REQUIRED
    assert task.status_message is not None
    assert task.status_message.text == "Which city?"


@pytest.mark.parametrize("value", [object(), Message(parts=())])
async def test_a_reply_that_cannot_be_stored_fails_the_task(shop: Shop, value: Any) -> None:
    def handler(messages: Any, turn: Turn) -> None:
        turn.reply(value)

    assert (await shop.run(handler)).state is TaskState.FAILED
