"""Trace contexts: what comes with a message is there for its turns, its webhooks and its operators."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from perdure.ids import new_task_id, new_token
from perdure.storage import TRACED, IdempotencyKey, Policy, Storage, WebhookConfig
from perdure.storage.webhooks import Breaker
from perdure.tasks import TaskState
from tests.support.storages import Clock
from tests.support.stories import ME, claim, id_of, says, settle, submit

NEW = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01 vendor=a,other=b"


def context(number: int) -> str:
    return f"00-{number:032x}-{number:016x}-01"


# The ways in which a task is stored: with others, alone, for its webhooks, its limits or what it interrupts.
@pytest.mark.parametrize(
    "members", [{}, {"limits": {"k": 1}}, {"policy": Policy.INTERRUPT}, {"policy": Policy.REJECT}], ids=str
)
async def test_a_turn_has_the_context_of_its_message(storage: Storage, members: dict[str, Any]) -> None:
    accepted = await submit(storage, trace_context=NEW, **members)
    assert list((await claim(storage)).trace_contexts) == [NEW]
    assert list((await storage.task_line(id_of(accepted))).trace_contexts) == [NEW]


async def test_neighbours_keep_their_own(storage: Storage) -> None:
    asked = {new_task_id(): trace for trace in ("", context(1), "", context(2))}
    await asyncio.gather(
        *(
            submit(storage, task_id=task_id, context=str(task_id), trace_context=trace)
            for task_id, trace in asked.items()
        )
    )
    turns = [await claim(storage) for _ in asked]
    assert {turn.claim.task_id: "".join(turn.trace_contexts) for turn in turns} == asked


async def test_each_attempt_has_it(storage: Storage, clock: Clock) -> None:
    task_id = id_of(await submit(storage, trace_context=NEW))
    await claim(storage)
    await clock.expire_lease(task_id)
    await storage.rescue_tasks(grace=0, max_crashes=3)
    again = await claim(storage)
    assert (again.claim.attempt, list(again.trace_contexts)) == (2, [NEW])
    await storage.release_task(again.claim, reason="retry", failed=True)
    assert list((await claim(storage)).trace_contexts) == [NEW]


async def test_the_newest_message_comes_last(storage: Storage) -> None:
    task_id = id_of(await submit(storage, trace_context=context(1)))
    await settle(storage, await claim(storage), TaskState.INPUT_REQUIRED)
    await storage.continue_task(ME, task_id, says("more"), trace_context=context(2))
    turn = await claim(storage)
    assert list(turn.trace_contexts) == [context(1), context(2)]
    await storage.continue_task(ME, task_id, says("and more"), trace_context=context(3))
    await storage.continue_task(ME, task_id, says("untraced"))
    await settle(storage, turn)
    assert list((await claim(storage)).trace_contexts) == [context(1), context(2), context(3)]


async def test_a_repeated_message_leaves_none(storage: Storage) -> None:
    key = IdempotencyKey("k", "f")
    task_id = id_of(await submit(storage, trace_context=context(1)))
    for number in (2, 3):
        await storage.continue_task(ME, task_id, says("more"), key=key, trace_context=context(number))
    assert list((await storage.task_line(task_id)).trace_contexts) == [context(1), context(2)]


async def test_only_the_last_are_kept(storage: Storage) -> None:
    task_id = id_of(await submit(storage, trace_context=context(1)))
    for number in range(2, TRACED + 4):
        await storage.continue_task(ME, task_id, says("more"), trace_context=context(number))
    kept = (await storage.task_line(task_id)).trace_contexts
    assert list(kept) == [context(number) for number in range(4, TRACED + 4)]


async def test_a_delivery_has_them(storage: Storage) -> None:
    for trace in (NEW, ""):
        task_id = new_task_id()
        config = WebhookConfig(config_id="c", task_id=task_id, url="https://hook.test/a")
        await submit(storage, task_id=task_id, context=str(task_id), webhooks=[config], trace_context=trace)
        await storage.cancel_task(ME, task_id)
        (delivery,) = await storage.claim_deliveries(
            new_token(), lease=60, limit=10, per_endpoint=10, breaker=Breaker()
        )
        assert "".join(delivery.trace_contexts) == trace
        await storage.clear_context(ME, str(task_id))
