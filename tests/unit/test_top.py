"""`perdure top` as a person uses it: keys in, a screen out, over the storage in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from textual.widgets import DataTable

from perdure.cli.fleet import DEAD_AFTER, how_silent
from perdure.cli.top import Top
from perdure.operating import Operator
from perdure.queue.inline import InlineQueue
from perdure.storage import Storage
from perdure.storage.operators import WorkerBeat
from perdure.tasks import TaskState
from tests.support.storages import opened_memory
from tests.support.stories import ended, load, submit


@pytest.fixture
async def storage() -> AsyncIterator[Storage]:
    async with opened_memory() as opened:
        yield opened.storage


def top(storage: Storage) -> Top:
    return Top(Operator(storage, InlineQueue(), actor="tester"), every=3600)


def cells(app: Top, table: str) -> list[list[str]]:
    found: DataTable[str] = app.query_one(f"#{table}", DataTable)
    return [[str(cell) for cell in found.get_row_at(row)] for row in range(found.row_count)]


def said(app: Top) -> str:
    return str(app.query_one("#figures").render())


async def test_it_shows_tasks_workers_and_what_waits(storage: Storage) -> None:
    await submit(storage, text="buy milk")
    await storage.beat(WorkerBeat(worker_id="w1", slots=5, running=2, version="1"))
    async with top(storage).run_test(size=(160, 40)) as pilot:
        app = pilot.app
        assert isinstance(app, Top)
        [row] = cells(app, "tasks")
        assert (row[1], row[6]) == ("submitted", "buy milk")
        assert cells(app, "workers")[0][3] == "2/5"
        assert "submitted 1" in said(app)


async def test_cancel_asks_first(storage: Storage) -> None:
    task = await submit(storage)
    async with top(storage).run_test(size=(160, 40)) as pilot:
        await pilot.press("f9", "n")
        assert (await load(storage, task)).state is TaskState.SUBMITTED
        await pilot.press("f9", "y")
        await pilot.pause()
        assert (await load(storage, task)).state is TaskState.CANCELED
    [action] = await storage.list_actions()
    assert (action.actor, action.action, action.result) == ("tester", "cancel", "canceled")


async def test_a_failed_task_is_tried_again(storage: Storage) -> None:
    await ended(storage, TaskState.FAILED)
    async with top(storage).run_test(size=(160, 40)) as pilot:
        await pilot.press("r", "y")
        await pilot.pause()
        assert isinstance(pilot.app, Top)
        assert [row[1] for row in cells(pilot.app, "tasks")] == ["submitted", "failed"]


async def test_states_are_gone_through_and_words_are_searched(storage: Storage) -> None:
    await ended(storage, TaskState.FAILED)
    await submit(storage, text="buy bread")
    await submit(storage, text="buy milk")
    async with top(storage).run_test(size=(160, 40)) as pilot:
        app = pilot.app
        assert isinstance(app, Top)
        await pilot.press("s", "s")
        await pilot.pause()
        assert [row[6] for row in cells(app, "tasks")] == ["buy milk", "buy bread"]
        await pilot.press("slash", *"milk", "enter")
        await pilot.pause()
        assert [row[6] for row in cells(app, "tasks")] == ["buy milk"]


async def test_a_worker_is_drained(storage: Storage) -> None:
    await storage.beat(WorkerBeat(worker_id="w1", slots=5, running=2, version="1"))
    async with top(storage).run_test(size=(160, 40)) as pilot:
        await pilot.press("d", "y")
        await pilot.pause()
        [worker] = await storage.list_workers()
        assert worker.asked_to_drain


async def test_a_blocked_worker_is_no_dead_one(storage: Storage) -> None:
    await storage.beat(WorkerBeat(worker_id="worker-1", slots=5, running=2, version="1"))
    [worker] = await storage.list_workers()
    assert how_silent(worker) == ""
    silent = replace(worker, silent=DEAD_AFTER + 1)
    assert how_silent(silent) == "gone"
    assert how_silent(replace(silent, renews=True)) == "blocked"


async def test_paused_it_stands_still(storage: Storage) -> None:
    async with top(storage).run_test(size=(160, 40)) as pilot:
        app = pilot.app
        assert isinstance(app, Top)
        await pilot.press("z")
        await submit(storage)
        await app.look()
        assert cells(app, "tasks") == []
        await pilot.press("z")
        await app.look()
        assert len(cells(app, "tasks")) == 1
