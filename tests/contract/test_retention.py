"""Retention: what has ended goes when it is old enough and nothing needs it, and comes back from an archive as it was."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest

from perdure.errors import ArchiveFailed, ContextNotFound, TaskNotFound
from perdure.ids import new_task_id, new_token
from perdure.storage import IdempotencyKey, NewTask, Storage, TaskQuery
from perdure.storage.operators import Failure, OperatorAction
from perdure.storage.retention import FIRST, EndedTask, Pruned, TaskRecord
from perdure.storage.webhooks import DeliveryQuery, Disabled
from perdure.tasks import Message, Role, StatusChange, TaskState, TextPart
from tests.contract.test_webhooks import ends, hooked, taken, told
from tests.support.storages import DAY, Clock
from tests.support.stories import (
    ME,
    SOMEONE_ELSE,
    answers,
    artifact,
    chunk,
    claim,
    ended,
    id_of,
    load,
    log,
    says,
    settle,
    started,
    submit,
)

ALL = {state: DAY for state in TaskState if state.terminal}


class Shelf:
    """An archive that remembers, and may be told to do something else when a task is added."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]] | None = None) -> None:
        self.records: list[TaskRecord] = []
        self.synced = 0
        self._meanwhile = meanwhile

    async def add(self, record: TaskRecord) -> None:
        self.records.append(record)

    async def sync(self) -> None:
        self.synced = len(self.records)
        if self._meanwhile is not None:
            await self._meanwhile()


async def age(storage: Storage, clock: Clock, *task_ids: UUID, days: float = 2) -> None:
    """They ended so many days ago."""
    await clock.set_status_time(task_ids, await storage.check() - timedelta(days=days))


async def old(storage: Storage, clock: Clock, *, context: str = "talk", days: float = 2) -> UUID:
    """A completed task of so many days ago."""
    turn = await ended(storage, TaskState.COMPLETED, context=context)
    await age(storage, clock, id_of(turn), days=days)
    return id_of(turn)


async def prune(
    storage: Storage, *task_ids: UUID, ages: dict[TaskState, float] = ALL, archive: Shelf | None = None
) -> Pruned:
    return await storage.prune_tasks(task_ids, ages, archive=archive)


async def gone(storage: Storage, *task_ids: UUID) -> list[bool]:
    states = {notice.task_id: notice.state for notice in await storage.notices(task_ids)}
    return [states[task_id] is None for task_id in task_ids]


def referring(*task_ids: object) -> Message:
    references = tuple(str(each) for each in task_ids)
    return Message(parts=(TextPart("go on"),), role=Role.USER, reference_task_ids=references)


# ---------------------------------------------------------------------- which ones


async def test_what_has_ended_and_is_let_go_is_found_in_pages(storage: Storage, clock: Clock) -> None:
    done = [await old(storage, clock, context=f"talk {number}") for number in range(3)]
    young = id_of(await ended(storage, TaskState.FAILED, context="young"))
    held = await started(storage, context="held")
    await storage.cancel_task(ME, id_of(held))
    await age(storage, clock, id_of(held))
    asked = await started(storage, context="asked")
    await settle(storage, asked, TaskState.INPUT_REQUIRED)
    await age(storage, clock, id_of(asked))
    waiting = id_of(await submit(storage, context="waiting"))

    page = await storage.ended_tasks(older_than=DAY)
    assert [task.task_id for task in page.tasks] == sorted(done)
    assert (page.next, page.looked_at) == (None, 7)
    assert all(DAY < task.ago < 3 * DAY and task.state is TaskState.COMPLETED for task in page.tasks)
    assert {task.task_id for task in (await storage.ended_tasks(older_than=0)).tasks} == {*done, young}
    seen: list[EndedTask] = []
    after = FIRST
    while (page := await storage.ended_tasks(older_than=0, after=after, window=2)).next:
        seen, after = [*seen, *page.tasks], page.next
    assert [task.task_id for task in [*seen, *page.tasks]] == sorted([*done, young])
    assert (await storage.ended_tasks(older_than=DAY, window=2)).next is None  # what follows is younger still
    assert not any(await gone(storage, *done, young, id_of(held), id_of(asked), waiting))


async def test_each_state_has_its_own_age(storage: Storage, clock: Clock) -> None:
    tasks = {
        state: id_of(await ended(storage, state, context=state))
        for state in (TaskState.COMPLETED, TaskState.FAILED, TaskState.REJECTED)
    }
    await age(storage, clock, *tasks.values())
    ages = {TaskState.COMPLETED: DAY, TaskState.FAILED: 3 * DAY}
    pruned = await prune(storage, *tasks.values(), ages=ages)
    assert pruned.tasks == {tasks[TaskState.COMPLETED]: TaskState.COMPLETED}
    assert await gone(storage, *tasks.values()) == [True, False, False]


async def test_what_has_not_ended_or_is_held_stays(storage: Storage, clock: Clock) -> None:
    working = id_of(await started(storage, context="a"))
    canceled = await started(storage, context="b")
    await storage.cancel_task(ME, id_of(canceled))
    waiting = id_of(await submit(storage, context="c"))
    await age(storage, clock, working, id_of(canceled), waiting)
    assert await prune(storage, working, id_of(canceled), waiting, new_task_id()) == Pruned()
    await storage.release_task(canceled.claim, reason="canceled")
    await age(storage, clock, id_of(canceled))
    assert (await prune(storage, id_of(canceled))).tasks == {id_of(canceled): TaskState.CANCELED}


async def test_everything_of_a_task_goes_with_it(storage: Storage, clock: Clock) -> None:
    task_id = await old(storage, clock)
    await storage.store_feedback(ME, task_id, text="good")
    await storage.record_failure(
        Failure(task_id=task_id, attempt=1, error_class="E", message="m", fingerprint="f")
    )
    assert (await storage.weigh_tasks([task_id]))[task_id] > 50
    pruned = await prune(storage, task_id)
    assert (list(pruned.tasks), pruned.contexts) == ([task_id], 1)
    with pytest.raises(TaskNotFound):
        await load(storage, task_id)
    with pytest.raises(ContextNotFound):
        await storage.load_context(ME, "talk")
    with pytest.raises(TaskNotFound):
        await storage.store_feedback(ME, task_id, text="late")
    assert await log(storage, task_id) == []
    assert await storage.failure_groups() == []
    assert await prune(storage, task_id) == Pruned()


# ---------------------------------------------------------------------- what needs it


async def test_a_waiting_delivery_keeps_its_task(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    await age(storage, clock, task_id)
    [delivery] = await taken(storage)
    assert (await prune(storage, task_id)).tasks == {}
    assert await storage.weigh_tasks([task_id]) == {}
    await ends(storage, delivery)
    await told(storage)
    await storage.replay_deliveries(DeliveryQuery(owner=ME))
    assert (await prune(storage, task_id)).tasks == {}
    await told(storage)
    assert list(await storage.weigh_tasks([task_id])) == [task_id]
    assert list((await prune(storage, task_id)).tasks) == [task_id]


async def test_what_waits_for_a_disabled_webhook_keeps_nothing(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    await age(storage, clock, task_id)
    [delivery] = await taken(storage)
    await ends(storage, delivery, Disabled("gone"), status=410)
    assert list((await prune(storage, task_id)).tasks) == [task_id]


async def test_an_open_task_keeps_what_it_refers_to(storage: Storage, clock: Clock) -> None:
    first, second, other = [await old(storage, clock, context=f"talk {number}") for number in range(3)]
    turn = await started(storage, context="now", message=referring(str(first).upper(), "nonsense"))
    await storage.continue_task(ME, id_of(turn), referring(second))
    theirs = NewTask(
        task_id=new_task_id(), owner=SOMEONE_ELSE, context_id="x", message=referring(first, other)
    )
    await storage.submit_task(theirs)
    assert list(await storage.weigh_tasks([first, second, other])) == [other]
    assert list((await prune(storage, first, second, other)).tasks) == [other]
    await settle(storage, turn, TaskState.FAILED)
    assert list((await prune(storage, first, second)).tasks) == [first, second]


async def test_a_key_keeps_its_task(storage: Storage, clock: Clock) -> None:
    key = IdempotencyKey("once", "f")
    new = NewTask(task_id=new_task_id(), owner=ME, context_id="talk", message=says("hello"))
    await storage.submit_task(new, key=key)
    turn = await claim(storage)
    await settle(storage, turn)
    await age(storage, clock, id_of(turn))
    assert (await prune(storage, id_of(turn))).tasks == {}
    again = await storage.submit_task(replace(new, task_id=new_task_id()), key=key)
    assert (again.repeated, again.task.task_id) == (True, id_of(turn))
    assert await storage.forget_keys(older_than=0) == 1
    assert list((await prune(storage, id_of(turn))).tasks) == [id_of(turn)]


async def test_a_conversation_with_more_in_it_stays(storage: Storage, clock: Clock) -> None:
    names = ("described", "brought", "goes on", "empty")
    tasks = [await old(storage, clock, context=name) for name in names]
    await storage.update_context(ME, "described", {"title": "x"})
    await storage.append_messages(ME, "brought", [says("earlier")])
    waiting = await submit(storage, context="goes on")
    pruned = await prune(storage, *tasks)
    assert (len(pruned.tasks), pruned.contexts) == (4, 1)
    contexts = {context.context_id for context in (await storage.list_contexts(ME)).contexts}
    assert contexts == {"described", "brought", "goes on"}
    turn = await claim(storage)
    assert id_of(turn) == id_of(waiting)
    assert [message.text for message in turn.conversation] == ["hello"]


async def test_younger_tasks_of_a_conversation_stay_with_it(storage: Storage, clock: Clock) -> None:
    first, second = await old(storage, clock), id_of(await ended(storage, TaskState.COMPLETED))
    pruned = await prune(storage, first, second)
    assert (list(pruned.tasks), pruned.contexts) == ([first], 0)
    assert (await storage.load_context(ME, "talk")).task_ids == (second,)


async def test_what_comes_back_stands_before_what_was_brought_along_anew(
    storage: Storage, clock: Clock
) -> None:
    task_id = await old(storage, clock)
    shelf = Shelf()
    await prune(storage, task_id, archive=shelf)
    await storage.append_messages(ME, "talk", [says("brought"), says("as well")])
    assert await storage.restore_task(shelf.records[0])
    context = await storage.load_context(ME, "talk")
    assert [message.text for message in context.messages] == ["hello", "brought", "as well"]


async def test_what_is_put_back_is_kept_as_long_as_what_ends_then(storage: Storage, clock: Clock) -> None:
    task_id = await old(storage, clock)
    shelf = Shelf()
    assert list((await prune(storage, task_id, archive=shelf)).tasks) == [task_id]
    assert await storage.restore_task(shelf.records[0])
    assert not (await prune(storage, task_id)).tasks
    assert (await storage.load_task(ME, task_id)).task_id == task_id
    await age(storage, clock, task_id)
    assert list((await prune(storage, task_id)).tasks) == [task_id]


# ---------------------------------------------------------------------- in the same moment


async def test_a_message_for_the_conversation_comes_while_it_is_pruned(
    storage: Storage, clock: Clock
) -> None:
    """It is stored while the batch is under way, without waiting, and its conversation is there."""
    task_id = await old(storage, clock)
    sent: list[UUID] = []

    async def send() -> None:
        sent.append(id_of(await submit(storage, "and now")))

    pruned = await prune(storage, task_id, archive=Shelf(send))
    assert (list(pruned.tasks), pruned.contexts) == ([task_id], 0)
    turn = await claim(storage)
    assert [id_of(turn)] == sent
    assert [message.text for message in turn.conversation] == ["and now"]
    assert (await storage.load_context(ME, "talk")).task_ids == (sent[0],)


@pytest.mark.parametrize("how", ["new task", "message"])
async def test_a_reference_comes_while_the_task_is_pruned(storage: Storage, clock: Clock, how: str) -> None:
    """Once the message is acknowledged, what it refers to is not deleted any more."""
    task_id = await old(storage, clock)
    turn = await started(storage, context="other")
    acknowledged = asyncio.Event()
    sends: list[asyncio.Task[object]] = []

    async def refer() -> None:
        message = referring(task_id)
        if how == "message":
            await storage.continue_task(ME, id_of(turn), message)
        else:
            await submit(storage, context="third", message=message)
        acknowledged.set()

    async def begin() -> None:
        sends.append(asyncio.create_task(refer()))
        for _ in range(100):  # it may be done by then, or have to wait for the batch
            await storage.check()

    known = False

    class Watching(Shelf):
        async def sync(self) -> None:
            nonlocal known
            await super().sync()
            known = acknowledged.is_set()

    await prune(storage, task_id, archive=Watching(begin))
    await asyncio.gather(*sends)
    assert await gone(storage, task_id) == [not known]


@pytest.mark.parametrize("last_first", [False, True])
async def test_sends_and_pruning_at_once_leave_nothing_without_its_conversation(
    storage: Storage, clock: Clock, last_first: bool
) -> None:
    for number in range(10):
        context = f"talk {number}"
        task_id = await old(storage, clock, context=context)
        acts: list[Awaitable[object]] = [prune(storage, task_id), submit(storage, context=context)]
        await asyncio.gather(*(reversed(acts) if last_first else acts))
        turn = await claim(storage)
        assert turn.claim.context_id == context
        await settle(storage, turn)
        assert await gone(storage, task_id) == [True]
        assert (await storage.load_context(ME, context)).task_ids == (id_of(turn),)


# ---------------------------------------------------------------------- the archive


async def test_what_could_not_be_archived_is_not_deleted(storage: Storage, clock: Clock) -> None:
    async def fail() -> None:
        raise ArchiveFailed("no space left")

    task_id = await old(storage, clock)
    with pytest.raises(ArchiveFailed, match="no space"):
        await prune(storage, task_id, archive=Shelf(fail))
    assert (await load(storage, task_id)).state is TaskState.COMPLETED
    shelf = Shelf()
    await prune(storage, task_id, archive=shelf)
    assert [record.task.task_id for record in shelf.records] == [task_id]
    assert shelf.synced == 1


async def test_there_is_an_end_to_what_one_batch_archives(storage: Storage, clock: Clock) -> None:
    tasks = [await old(storage, clock, context=f"talk {number}") for number in range(3)]
    shelf = Shelf()
    pruned = await storage.prune_tasks(tasks, ALL, archive=shelf, seconds=0)
    assert (list(pruned.tasks), list(pruned.left), shelf.synced) == (tasks[:1], tasks[1:], 1)
    assert await gone(storage, *tasks) == [True, False, False]


async def rich(storage: Storage, context: str = "talk") -> UUID:
    """A task with everything that one can have."""
    task_id = new_task_id()
    said = Message(
        parts=(TextPart("hello", metadata={"a": 1}, filename="f"),),
        role=Role.USER,
        metadata={"é": [1, None, {"b": 2.5}]},
        extensions=("https://x.test",),
    )
    await submit(
        storage,
        trace_context="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        task_id=task_id,
        message=said,
        context=context,
        priority=3,
        limits={"gpu": 2},
        metadata={"who": "me"},
    )
    lost = await claim(storage)
    await storage.update_task(lost.claim, 1, new_artifacts=[artifact("lost")])
    await storage.record_failure(
        Failure(task_id=task_id, attempt=1, error_class="E", message="m", fingerprint="f", traceback="t")
    )
    await storage.release_task(lost.claim, reason="retry", failed=True)
    asking = await claim(storage)
    await settle(storage, asking, TaskState.INPUT_REQUIRED, status_message=answers("which?"))
    await storage.continue_task(ME, task_id, says("that"))
    turn = await claim(storage)
    await storage.update_task(turn.claim, 1, new_artifacts=[chunk("one ", append=False), chunk("two ")])
    await storage.update_task(turn.claim, 2, status_metadata={"progress": {"fraction": 0.5}})
    await storage.update_task(turn.claim, 3, new_artifacts=[chunk("three", last=True)])
    await settle(
        storage, turn, write_no=4, status_message=answers("done"), new_artifacts=[artifact("b", "b")]
    )
    await storage.store_feedback(ME, task_id, text="good", rating=4, metadata={"x": 1})
    return task_id


async def test_a_task_comes_back_as_it_was(storage: Storage, clock: Clock) -> None:
    before_it = await old(storage, clock, days=3)
    task_id = await rich(storage)
    behind_it = await old(storage, clock, days=1.5)
    await age(storage, clock, task_id)

    async def seen() -> list[object]:
        pages = [
            await storage.list_tasks(
                TaskQuery(owner=ME, page_size=1, include_artifacts=artifacts, after=after)
            )
            for artifacts in (False, True)
            for after in [None, (await storage.list_tasks(TaskQuery(owner=ME, page_size=1))).next]
        ]
        context = await storage.load_context(ME, "talk")
        tasks = (before_it, task_id, behind_it)
        return [
            [await load(storage, each) for each in tasks],
            [await log(storage, each) for each in tasks],
            [await storage.events_since(ME, each, 2, limit=2) for each in tasks],
            pages,
            (context.messages, context.task_ids),
            await storage.load_feedback(ME, task_id),
            await storage.attempts(task_id),
            (await storage.task_line(task_id)).limits,
            [await storage.task_record(each) for each in tasks],
        ]

    before = await seen()
    shelf = Shelf()
    await prune(storage, before_it, task_id, behind_it, archive=shelf)
    assert await gone(storage, before_it, task_id, behind_it) == [True] * 3
    for record in reversed(shelf.records):
        assert await storage.restore_task(record)
    after = await seen()
    for was, now in zip(before, after, strict=True):
        assert now == was
    assert [await storage.restore_task(record) for record in shelf.records] == [False] * 3
    assert await seen() == after
    await age(storage, clock, before_it, task_id, behind_it)
    pruned = await prune(storage, before_it, task_id, behind_it)
    assert (len(pruned.tasks), pruned.contexts) == (3, 1)


async def test_what_comes_back_stands_before_a_conversation_that_began_anew(
    storage: Storage, clock: Clock
) -> None:
    tasks = [await old(storage, clock) for _ in range(3)]
    shelf = Shelf()
    await prune(storage, *tasks, archive=shelf)
    new = [id_of(await ended(storage, TaskState.COMPLETED)) for _ in range(2)]
    for record in (shelf.records[1], shelf.records[2], shelf.records[0]):
        assert await storage.restore_task(record)
    assert (await storage.load_context(ME, "talk")).task_ids == (*tasks, *new)
    assert id_of(await started(storage)) not in tasks
    assert (await storage.load_context(ME, "talk")).task_ids[:5] == (*tasks, *new)


async def test_another_ones_task_is_not_overwritten(storage: Storage, clock: Clock) -> None:
    task_id = await old(storage, clock)
    record = await storage.task_record(task_id)
    await prune(storage, task_id)
    await submit(storage, "mine", owner=SOMEONE_ELSE, task_id=task_id, context="elsewhere")
    assert not await storage.restore_task(record)
    with pytest.raises(ContextNotFound):
        await storage.load_context(ME, "talk")
    assert (await storage.load_task(SOMEONE_ELSE, task_id)).history[0].text == "mine"


async def test_only_what_has_ended_is_put_back(storage: Storage) -> None:
    accepted = await submit(storage)
    record = await storage.task_record(id_of(accepted))
    with pytest.raises(ValueError, match="submitted"):
        await storage.restore_task(record)
    with pytest.raises(TaskNotFound):
        await storage.task_record(new_task_id())


# ---------------------------------------------------------------------- shorter logs


async def test_a_trimmed_log_says_the_same(storage: Storage, clock: Clock) -> None:
    task_id = await rich(storage)
    before, whole = await load(storage, task_id), await log(storage, task_id)
    assert await storage.trim_tasks([task_id], ended_for=DAY) == 0
    await age(storage, clock, task_id)
    before = await load(storage, task_id)
    assert await storage.trim_tasks([task_id], ended_for=DAY) == 1
    after = await log(storage, task_id)
    assert await load(storage, task_id) == before
    assert len(after) < len(whole)
    assert not any(isinstance(event.body, StatusChange) and event.body.message is None for event in after)
    expected = 1
    for event in after:  # their numbers stay, and have no gaps
        assert event.first_seq == expected
        expected = event.seq + 1
    assert expected == before.last_seq + 1
    assert [task.trimmed for task in (await storage.ended_tasks(older_than=DAY)).tasks] == [True]
    assert await storage.trim_tasks([task_id], ended_for=DAY) == 0
    assert await storage.fold_tasks(ended_for=0) == 1
    assert await load(storage, task_id) == before


async def test_a_stream_resumes_from_every_number_of_a_trimmed_log(storage: Storage, clock: Clock) -> None:
    task_id = await rich(storage)
    whole = await log(storage, task_id)
    await age(storage, clock, task_id)
    await storage.trim_tasks([task_id], ended_for=DAY)
    for place in range(len(whole)):
        rest = await storage.events_since(ME, task_id, place)
        assert all(event.seq > place for event in rest)
        assert rest[-1].seq == len(whole)
        pieces = [event for event in whole if event.seq > place and event.attempt != 1]
        wanted = [event for event in pieces if not isinstance(event.body, StatusChange) or event.body.message]
        assert [event.seq for event in rest] == [event.seq for event in wanted]


async def test_deliveries_keep_the_log_that_they_tell(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    await age(storage, clock, task_id)
    await told(storage)
    assert await storage.trim_tasks([task_id], ended_for=DAY) == 0
    await storage.forget_deliveries(older_than=0)
    assert await storage.trim_tasks([task_id], ended_for=DAY) == 1


# ---------------------------------------------------------------------- one at a time


async def test_one_at_a_time_looks_through_all(storage: Storage) -> None:
    one, other, place = new_token(), new_token(), new_task_id()
    assert await storage.retention_age() is None
    assert await storage.begin_retention(one, every=100, lease=100) == FIRST
    assert await storage.begin_retention(other, every=100, lease=100) is None
    assert await storage.go_on_with_retention(one, place, lease=0)
    assert not await storage.go_on_with_retention(other, place, lease=100)
    # It gave no sign for as long as its lease was: the other goes on where it was.
    assert await storage.begin_retention(other, every=100, lease=100) == place
    assert not await storage.go_on_with_retention(one, None, lease=100)
    assert await storage.go_on_with_retention(other, None, lease=100)
    assert await storage.begin_retention(one, every=100, lease=100) is None
    age = await storage.retention_age()
    assert age is not None
    assert 0 <= age < 60
    assert await storage.begin_retention(one, every=0, lease=100) == FIRST


async def test_old_entries_of_the_audit_go(storage: Storage) -> None:
    ids: Sequence[UUID] = [new_task_id() for _ in range(3)]
    for action_id in ids:
        action = OperatorAction(action_id=action_id, actor="a", action="cancel", target="t", result="done")
        await storage.record_action(action)
    assert await storage.forget_actions(older_than=60) == 0
    assert await storage.forget_actions(older_than=0, limit=2) == 2
    assert [action.action_id for action in await storage.list_actions()] == [ids[2]]
