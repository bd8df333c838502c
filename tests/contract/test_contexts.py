"""Conversations: what was said, and what else is known of them."""

from __future__ import annotations

import pytest

from perdure.errors import ContextNotFound, LeaseLost, TaskNotFound
from perdure.storage import Held, Storage, Swept, TaskQuery
from perdure.tasks import TaskState
from tests.support.stories import (
    ME,
    SOMEONE_ELSE,
    answers,
    artifact,
    claim,
    id_of,
    idle,
    says,
    settle,
    started,
    submit,
    texts,
)


async def test_a_context_has_the_messages_of_its_tasks_in_order(storage: Storage) -> None:
    await storage.append_messages(ME, "talk", [says("before")])
    first = await started(storage, "one")
    second = await submit(storage, "two")
    await storage.append_messages(ME, "talk", [says("after")])
    await settle(storage, first, new_artifacts=[artifact("answer")], status_message=answers("done"))
    context = await storage.load_context(ME, "talk")
    assert (context.context_id, context.owner, context.metadata) == ("talk", ME, {})
    assert list(context.task_ids) == [id_of(first), id_of(second)]
    assert texts(context.messages) == ["before", "one", "answer", "done", "two", "after"]


@pytest.mark.parametrize(
    ("length", "expected"), [(0, []), (1, ["d"]), (3, ["b", "c", "d"]), (9, list("abcd"))]
)
async def test_the_last_messages_of_a_context(storage: Storage, length: int, expected: list[str]) -> None:
    await storage.append_messages(ME, "talk", [says("a"), says("b")])
    await submit(storage, "c")
    await submit(storage, "d")
    assert texts((await storage.load_context(ME, "talk", history_length=length)).messages) == expected


async def test_appended_messages_get_ids_and_make_the_context(storage: Storage) -> None:
    await storage.append_messages(ME, "talk", [says("mine", "m-1"), says("no id")])
    context = await storage.load_context(ME, "talk")
    assert [message.context_id for message in context.messages] == ["talk", "talk"]
    assert context.messages[0].message_id == "m-1"
    assert context.messages[1].message_id
    assert list(context.task_ids) == []
    assert await idle(storage)


async def test_messages_appended_before_are_left_out(storage: Storage) -> None:
    await storage.append_messages(ME, "talk", [says("one", "m-1"), says("two", "m-2")])
    await storage.append_messages(ME, "talk", [says("two", "m-2"), says("three", "m-3")])
    assert texts((await storage.load_context(ME, "talk")).messages) == ["one", "two", "three"]


async def test_contexts_are_listed_by_what_callers_last_added(storage: Storage) -> None:
    turn = await started(storage, context="one")
    await submit(storage, context="two")
    await storage.append_messages(ME, "three", [says("hi")])
    await submit(storage, context="theirs", owner=SOMEONE_ELSE)

    async def listed() -> list[str]:
        page = await storage.list_contexts(ME)
        assert page.next is None
        assert [list(context.messages) for context in page.contexts] == [[]] * len(page.contexts)
        return [context.context_id for context in page.contexts]

    assert await listed() == ["three", "two", "one"]
    await storage.continue_task(ME, id_of(turn), says("more"))
    assert await listed() == ["one", "three", "two"]
    await storage.update_context(ME, "two", {"k": 1})
    assert await listed() == ["two", "one", "three"]
    await storage.append_messages(ME, "three", [says("again")])
    assert await listed() == ["three", "two", "one"]
    await submit(storage, context="two")
    assert await listed() == ["two", "three", "one"]
    # What turns do is not listed: an index that moves with every claim and every chunk would cost more than it tells.
    await settle(storage, turn, TaskState.COMPLETED, new_messages=[answers("done")])
    again = await claim(storage)
    await storage.release_task(again.claim, reason="deploy")
    assert await listed() == ["two", "three", "one"]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 6])
async def test_pages_of_contexts_cover_everything_once(storage: Storage, size: int) -> None:
    names = [f"talk {number}" for number in range(5)]
    for name in names:
        await submit(storage, context=name)
    page = await storage.list_contexts(ME, page_size=size)
    listed = [context.context_id for context in page.contexts]
    while page.next is not None:
        assert len(page.contexts) == size
        page = await storage.list_contexts(ME, page_size=size, after=page.next)
        listed += [context.context_id for context in page.contexts]
    assert listed == names[::-1]


async def test_metadata_of_a_context_is_merged(storage: Storage) -> None:
    await submit(storage)
    await storage.update_context(ME, "talk", {"title": "Weather", "deep": {"a": 1}, "gone": True})
    context = await storage.update_context(ME, "talk", {"deep": {"b": None}, "gone": None, "never": None})
    assert context.metadata == {"title": "Weather", "deep": {"b": None}}
    assert (await storage.load_context(ME, "talk")).metadata == context.metadata
    (listed,) = (await storage.list_contexts(ME)).contexts
    assert listed.metadata == context.metadata


async def test_clearing_takes_everything_of_the_context(storage: Storage) -> None:
    turn = await started(storage)
    waiting = await submit(storage)
    other = await submit(storage, context="other")
    await storage.store_feedback(ME, id_of(turn), text="good")
    await storage.append_messages(ME, "talk", [says("brought")])
    notices = await storage.clear_context(ME, "talk")
    assert {(notice.task_id, notice.state) for notice in notices} == {
        (id_of(turn), None),
        (id_of(waiting), None),
    }
    with pytest.raises(ContextNotFound):
        await storage.load_context(ME, "talk")
    for task in (turn, waiting):
        with pytest.raises(TaskNotFound):
            await storage.load_task(ME, id_of(task))
        with pytest.raises(TaskNotFound):
            await storage.load_feedback(ME, id_of(task))
        assert list(await storage.events_since(ME, id_of(task), 0)) == []
    page = await storage.list_tasks(TaskQuery(owner=ME))
    assert [task.task_id for task in page.tasks] == [id_of(other)]
    assert [context.context_id for context in (await storage.list_contexts(ME)).contexts] == ["other"]
    with pytest.raises(ContextNotFound):
        await storage.clear_context(ME, "talk")


async def test_clearing_while_a_turn_runs_takes_its_lease(storage: Storage) -> None:
    turn = await started(storage)
    await storage.clear_context(ME, "talk")
    with pytest.raises(LeaseLost) as lost:
        await settle(storage, turn)
    assert not lost.value.canceled
    assert await storage.renew_claims([turn.claim], 60.0) == {turn.claim: Held.LOST}
    assert list(await storage.release_task(turn.claim, reason="late")) == []
    assert await storage.rescue_tasks(grace=0.0, max_crashes=1) == Swept()


async def test_a_cleared_context_can_begin_anew(storage: Storage) -> None:
    turn = await started(storage, "old")
    await storage.clear_context(ME, "talk")
    fresh = await submit(storage, "new")
    assert fresh.ring is not None
    again = await claim(storage)
    assert id_of(again) == id_of(fresh)
    assert texts(again.conversation) == ["new"]
    assert list(await storage.release_task(turn.claim, reason="late")) == []
    assert (await settle(storage, again)).state is TaskState.COMPLETED


async def test_an_unknown_context_is_not_found(storage: Storage) -> None:
    with pytest.raises(ContextNotFound, match="nowhere"):
        await storage.load_context(ME, "nowhere")
    with pytest.raises(ContextNotFound):
        await storage.update_context(ME, "nowhere", {"k": 1})
    with pytest.raises(ContextNotFound):
        await storage.clear_context(ME, "nowhere")
    assert list((await storage.list_contexts(ME)).contexts) == []
