"""Tasks and their logs as callers read them: whole, in part, in pages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest

from perdure.ids import new_task_id
from perdure.storage import Storage, TaskQuery
from perdure.tasks import Notice, Task, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ME,
    SOMEONE_ELSE,
    answers,
    artifact,
    claim,
    ended,
    id_of,
    load,
    log,
    numbers,
    says,
    settle,
    started,
    submit,
    texts,
    told,
)

MINE = TaskQuery(owner=ME)


@pytest.mark.parametrize(
    ("length", "expected"),
    [
        (None, ["hello", "one", "two"]),
        (0, []),
        (1, ["two"]),
        (2, ["one", "two"]),
        (99, ["hello", "one", "two"]),
    ],
)
async def test_the_last_messages_of_the_history(
    storage: Storage, length: int | None, expected: list[str]
) -> None:
    turn = await started(storage)
    await settle(
        storage,
        turn,
        new_messages=[answers("one"), answers("two")],
        new_artifacts=[artifact("result")],
        status_message=answers("done"),
    )
    task = await load(storage, turn, history_length=length)
    assert texts(task.history) == expected
    assert texts(task.artifacts) == ["result"]
    assert task.status_message is not None
    page = await storage.list_tasks(replace(MINE, history_length=length))
    assert texts(page.tasks[0].history) == expected


async def test_times_of_a_task_only_go_forward(storage: Storage) -> None:
    accepted = await submit(storage)
    turn = await claim(storage)
    working = await load(storage, turn)
    await settle(storage, turn)
    done = await load(storage, turn)
    times = [accepted.task.created_at, working.status_timestamp, done.status_timestamp]
    assert times == sorted(times)
    assert done.created_at == accepted.task.created_at
    assert done.updated_at >= working.updated_at >= accepted.task.updated_at
    assert all(time.tzinfo is not None for time in times)


async def test_the_numbers_of_a_log_have_no_gaps(storage: Storage) -> None:
    turn = await started(storage)
    await storage.update_task(turn.claim, 1, new_messages=[answers("a"), answers("b")])
    await storage.continue_task(ME, id_of(turn), says("c"))
    await storage.update_task(turn.claim, 2, status_metadata={"n": 1}, new_artifacts=[artifact("d")])
    await settle(storage, turn, write_no=3)
    events = await log(storage, turn)
    task = await load(storage, turn)
    assert numbers(events) == list(range(1, task.last_seq + 1))
    assert all(event.first_seq == event.seq and event.task_id == id_of(turn) for event in events)
    assert [event.time for event in events] == sorted(event.time for event in events)


async def test_a_log_is_read_from_any_number(storage: Storage) -> None:
    turn = await ended(storage, TaskState.COMPLETED)
    task_id = id_of(turn)
    assert told(await storage.events_since(ME, task_id, 1)) == ["<working>", "<completed>"]
    assert told(await storage.events_since(ME, task_id, 0, limit=2)) == ["hello", "<working>"]
    assert list(await storage.events_since(ME, task_id, 3)) == []
    assert list(await storage.events_since(ME, task_id, 99)) == []
    assert list(await storage.events_since(ME, new_task_id(), 0)) == []


async def test_notices_say_where_tasks_stand_whoever_owns_them(storage: Storage) -> None:
    mine = await started(storage)
    theirs = await submit(storage, owner=SOMEONE_ELSE)
    gone = await submit(storage, context="gone")
    await storage.clear_context(ME, "gone")
    unknown = new_task_id()
    asked = [id_of(mine), id_of(theirs), id_of(gone), unknown]
    found = {notice.task_id: notice for notice in await storage.notices(asked)}
    assert found[id_of(mine)] == Notice(id_of(mine), 2, TaskState.WORKING)
    assert found[id_of(theirs)] == Notice(id_of(theirs), 1, TaskState.SUBMITTED)
    assert {found[id_of(gone)].state, found[unknown].state} == {None}
    assert len(found) == 4
    assert list(await storage.notices([])) == []


async def _pages(storage: Storage, query: TaskQuery) -> list[Sequence[Task]]:
    pages = [await storage.list_tasks(query)]
    while pages[-1].next is not None:
        pages.append(await storage.list_tasks(replace(query, after=pages[-1].next)))
    return [page.tasks for page in pages]


async def test_tasks_are_listed_by_their_status_newest_first(storage: Storage) -> None:
    first, second, third = [await submit(storage, context=f"talk {number}") for number in range(3)]
    turn = await claim(storage)
    assert id_of(turn) == id_of(first)
    page = await storage.list_tasks(MINE)
    assert [task.task_id for task in page.tasks] == [id_of(first), id_of(third), id_of(second)]
    assert (page.next, page.total) == (None, 3)


async def test_an_empty_list(storage: Storage) -> None:
    page = await storage.list_tasks(MINE)
    assert (list(page.tasks), page.next, page.total) == ([], None, 0)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8])
async def test_pages_cover_everything_once_with_equal_times(
    storage: Storage, clock: Clock, size: int
) -> None:
    ids = [id_of(await submit(storage, context=f"talk {number}")) for number in range(7)]
    noon = datetime(2025, 12, 7, 12, tzinfo=UTC)
    await clock.set_status_time(ids[:5], noon)
    await clock.set_status_time(ids[5:], noon - timedelta(microseconds=1))
    pages = await _pages(storage, replace(MINE, page_size=size))
    listed = [task.task_id for page in pages for task in page]
    assert listed == [*sorted(ids[:5], reverse=True), *sorted(ids[5:], reverse=True)]
    assert [len(page) for page in pages[:-1]] == [size] * (len(pages) - 1)
    assert 1 <= len(pages[-1]) <= size


async def test_the_total_counts_beyond_the_page(storage: Storage) -> None:
    for number in range(5):
        await submit(storage, context=f"talk {number}")
    first = await storage.list_tasks(replace(MINE, page_size=2))
    second = await storage.list_tasks(replace(MINE, page_size=2, after=first.next))
    assert (first.total, second.total) == (5, 5)


async def test_filters(storage: Storage) -> None:
    done = await ended(storage, TaskState.COMPLETED, context="one")
    asking = await ended(storage, TaskState.INPUT_REQUIRED, context="two")
    waiting = await submit(storage, context="one")
    await submit(storage, owner=SOMEONE_ELSE, context="one")

    async def found(**filters: object) -> list[UUID]:
        page = await storage.list_tasks(replace(MINE, **filters))  # type: ignore[arg-type]
        assert page.total == len(page.tasks)
        return [task.task_id for task in page.tasks]

    assert await found() == [id_of(waiting), id_of(asking), id_of(done)]
    assert await found(context_id="one") == [id_of(waiting), id_of(done)]
    assert await found(context_id="nowhere") == []
    assert await found(state=TaskState.INPUT_REQUIRED) == [id_of(asking)]
    assert await found(state=TaskState.WORKING) == []
    asked_at = (await load(storage, asking)).status_timestamp
    assert await found(since=asked_at) == [id_of(waiting), id_of(asking)]
    assert await found(since=asked_at + timedelta(microseconds=1)) == [id_of(waiting)]
    assert await found(context_id="one", state=TaskState.COMPLETED, since=asked_at) == []


async def test_filtered_pages(storage: Storage) -> None:
    for number in range(6):
        await submit(storage, context=f"talk {number % 2}")
    query = replace(MINE, context_id="talk 0", state=TaskState.SUBMITTED, page_size=2)
    assert [len(page) for page in await _pages(storage, query)] == [2, 1]


async def test_artifacts_are_listed_where_asked_for(storage: Storage) -> None:
    turn = await started(storage)
    await settle(storage, turn, new_artifacts=[artifact("result")])
    (without,) = (await storage.list_tasks(MINE)).tasks
    (with_them,) = (await storage.list_tasks(replace(MINE, include_artifacts=True))).tasks
    assert (list(without.artifacts), texts(with_them.artifacts)) == ([], ["result"])
    assert with_them == await load(storage, turn)


async def test_an_append_costs_the_same_however_long_the_task_is(storage: Storage) -> None:
    async def seconds(task_id: UUID) -> float:
        timer = asyncio.get_running_loop().time
        taken = []
        for _ in range(15):
            begin = timer()
            await storage.continue_task(ME, task_id, says("more"))
            taken.append(timer() - begin)
        return sorted(taken)[7]

    short, long = await started(storage), await started(storage, context="long")
    for write_no in range(1, 6):
        await storage.update_task(long.claim, write_no, new_messages=[answers("x" * 100)] * 1000)
    # A whole history would be 100 times the work of one message; the rest of the factor is for a busy machine.
    assert await seconds(id_of(long)) < 10 * await seconds(id_of(short))
