"""What an operator does by hand, over both storages: it takes effect, and stands in the audit."""

from __future__ import annotations

import pytest

from perdure.errors import LeaseLost, TaskNotCancelable, TaskNotFound, UnsupportedOperation
from perdure.ids import new_task_id
from perdure.operating import MOST_AT_ONCE, RETRY_OF, Bulk, Operator
from perdure.queue.inline import InlineQueue
from perdure.storage import Storage
from perdure.storage.operators import TaskFilter
from perdure.storage.webhooks import Disabled, GivenUp
from perdure.tasks import TaskState
from tests.contract.test_webhooks import ends, hooked, taken
from tests.support.stories import (
    SOMEONE_ELSE,
    claim,
    ended,
    id_of,
    idle,
    load,
    settle,
    started,
    submit,
    texts,
)


@pytest.fixture
def operator(storage: Storage) -> Operator:
    return Operator(storage, InlineQueue(), "ann")


async def _audit(storage: Storage) -> list[tuple[str, str, str, str]]:
    return [(each.actor, each.action, each.target, each.result) for each in await storage.list_actions()]


async def test_cancel_ends_a_task_whoever_owns_it(storage: Storage, operator: Operator) -> None:
    accepted = await submit(storage, owner=SOMEONE_ELSE)
    await operator.cancel(id_of(accepted))
    assert (await storage.task_line(id_of(accepted))).state is TaskState.CANCELED
    assert await _audit(storage) == [("ann", "cancel", str(id_of(accepted)), "canceled")]


async def test_what_is_refused_stands_in_the_audit_too(storage: Storage, operator: Operator) -> None:
    turn = await ended(storage, TaskState.COMPLETED)
    with pytest.raises(TaskNotCancelable):
        await operator.cancel(id_of(turn))
    with pytest.raises(TaskNotFound):
        await operator.cancel(new_task_id())
    assert [result.partition(":")[0] for *_, result in await _audit(storage)] == ["refused", "refused"]


async def test_a_forced_cancel_lets_the_conversation_go_on(storage: Storage, operator: Operator) -> None:
    stubborn = await started(storage)
    await submit(storage, "next")
    await operator.cancel(id_of(stubborn))
    assert await idle(storage), "the holder keeps the conversation until it lets go"
    await operator.force_cancel(id_of(stubborn))
    following = await claim(storage)
    assert texts(following.task.history) == ["next"]
    with pytest.raises(LeaseLost):
        await settle(storage, stubborn)
    with pytest.raises(TaskNotCancelable):
        await operator.force_cancel(id_of(stubborn))


async def test_a_forced_cancel_of_a_running_task_does_both_at_once(
    storage: Storage, operator: Operator
) -> None:
    stubborn = await started(storage)
    await submit(storage, "next")
    assert "lost its lease" in await operator.force_cancel(id_of(stubborn))
    assert (await load(storage, stubborn)).state is TaskState.CANCELED
    assert texts((await claim(storage)).task.history) == ["next"]


@pytest.mark.parametrize("state", [TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED])
async def test_a_retry_is_a_new_task_that_names_the_old_one(
    storage: Storage, operator: Operator, state: TaskState
) -> None:
    first = await submit(storage, "do it", priority=5, limits={"gpu": 2}, metadata={"team": "a"})
    turn = await claim(storage)
    if state is TaskState.CANCELED:
        await storage.cancel_task("me", id_of(first))
        await storage.release_task(turn.claim, reason="canceled")
    else:
        await settle(storage, turn, state)
    again = await operator.retry(id_of(first))
    task, line = await load(storage, again), await storage.task_line(again)
    assert (task.state, texts(task.history), task.context_id) == (TaskState.SUBMITTED, ["do it"], "talk")
    assert task.metadata == {"team": "a", RETRY_OF: str(id_of(first))}
    assert (line.priority, line.limits) == (5, {"gpu": 2})
    assert (await load(storage, first)).state is state, "terminal is final"
    assert await operator.retry(id_of(first)) == again, "a second click changes nothing"
    assert [result for *_, result in await _audit(storage)] == [
        f"was retried before as {again}",
        f"retried as {again}",
    ]


async def test_a_retry_may_have_other_words(storage: Storage, operator: Operator) -> None:
    turn = await ended(storage, TaskState.FAILED)
    again = await operator.retry(id_of(turn), "say it better")
    assert texts((await load(storage, again)).history) == ["say it better"]


@pytest.mark.parametrize("state", [TaskState.COMPLETED, TaskState.INPUT_REQUIRED])
async def test_what_went_well_is_not_retried(storage: Storage, operator: Operator, state: TaskState) -> None:
    turn = await ended(storage, state)
    with pytest.raises(UnsupportedOperation):
        await operator.retry(id_of(turn))


async def test_all_that_match_are_canceled(storage: Storage, operator: Operator) -> None:
    for number in range(5):
        await submit(storage, context=str(number))
    other = await submit(storage, owner=SOMEONE_ELSE)
    assert await operator.cancel_all(TaskFilter(owner="me")) == Bulk(5, 0, more=False)
    assert await operator.cancel_all(TaskFilter(owner="me")) == Bulk(0, 5, more=False)
    assert (await storage.task_line(id_of(other))).state is TaskState.SUBMITTED
    assert await _audit(storage) == [
        ("ann", "cancel all", "owner me", "0 done, 5 left as they were"),
        ("ann", "cancel all", "owner me", "5 done, 0 left as they were"),
    ]


async def test_all_that_match_are_retried_once(storage: Storage, operator: Operator) -> None:
    for number in range(3):
        await ended(storage, TaskState.FAILED, context=str(number))
    wanted = TaskFilter(state=TaskState.FAILED)
    assert await operator.retry_all(wanted) == Bulk(3, 0, more=False)
    assert await operator.retry_all(wanted) == Bulk(0, 3, more=False)
    assert await storage.count_matching(TaskFilter(state=TaskState.SUBMITTED)) == 3


async def test_a_bulk_action_is_bounded(
    storage: Storage, operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert MOST_AT_ONCE == 1000
    monkeypatch.setattr("perdure.operating.MOST_AT_ONCE", 2)
    monkeypatch.setattr("perdure.operating._BATCH", 1)
    for number in range(3):
        await submit(storage, context=str(number))
    assert await operator.cancel_all(TaskFilter()) == Bulk(2, 0, more=True)


async def test_draining_a_worker_that_is_not_there_says_so(storage: Storage, operator: Operator) -> None:
    assert await operator.drain("nobody") == "no such worker"


async def test_a_delivery_that_was_given_up_is_sent_again(storage: Storage, operator: Operator) -> None:
    await hooked(storage)
    await operator.cancel_all(TaskFilter())
    [claimed] = await taken(storage)
    await ends(storage, claimed, GivenUp(), status=500)
    assert await operator.replay(claimed.delivery_id) == "sent again"
    assert [each.delivery_id for each in await taken(storage)] == [claimed.delivery_id]


async def test_a_disabled_webhook_is_enabled(storage: Storage, operator: Operator) -> None:
    await hooked(storage)
    await operator.cancel_all(TaskFilter())
    [claimed] = await taken(storage)
    await ends(storage, claimed, Disabled("it answered 410"), status=410)
    assert await taken(storage) == []
    assert await operator.replay(claimed.delivery_id) == "its webhook is disabled, or it is gone"
    assert await operator.enable(claimed.delivery_id) == "enabled"
    assert [each.delivery_id for each in await taken(storage)] == [claimed.delivery_id]
    assert await operator.enable(new_task_id()) == "there is no such webhook"
