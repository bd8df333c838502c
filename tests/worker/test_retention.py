"""What a worker deletes, when it may, and what it says of it."""

from __future__ import annotations

import gzip
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from perdure import metrics
from perdure.ids import new_task_id, new_token
from perdure.retention.archive import record_of
from perdure.storage.operators import OperatorAction
from perdure.tasks import ANONYMOUS, TaskState
from worker.retention import pruned
from worker.worker import Worker

from .conftest import SETTINGS, Shop

DAY = 86_400


def keeping(shop: Shop, **retention: Any) -> Worker:
    """A worker with these settings of RETENTION__."""
    changed = SETTINGS.retention.model_copy(update={"interval": 0.000_001, **retention})
    return shop.worker(lambda messages: "done", settings=SETTINGS.model_copy(update={"retention": changed}))


async def old(shop: Shop, days: float = 2) -> UUID:
    task = await shop.run(lambda messages: "done")
    await shop.clock.set_status_time([task.task_id], await shop.storage.check() - timedelta(days=days))
    return task.task_id


async def there(shop: Shop, *task_ids: UUID) -> list[bool]:
    return [notice.state is not None for notice in await shop.storage.notices(task_ids)]


def counted(state: TaskState) -> float:
    return float(metrics.PRUNED.labels(state.value)._value.get())


async def test_nothing_is_deleted_unless_it_is_told(any_shop: Shop) -> None:
    task_id = await old(any_shop, days=10_000)
    await pruned(keeping(any_shop))
    assert await there(any_shop, task_id) == [True]
    assert await any_shop.storage.retention_age() is None


async def test_what_is_old_goes_and_is_counted(any_shop: Shop, tmp_path: Path) -> None:
    tasks = [await old(any_shop), await old(any_shop, days=0.5)]
    worker, before = keeping(any_shop, completed=DAY, archive=tmp_path), counted(TaskState.COMPLETED)
    with capture_logs() as logs:
        await pruned(worker)
    assert await there(any_shop, *tasks) == [False, True]
    assert worker.duty.counters["pruned"] == 1
    assert counted(TaskState.COMPLETED) == before + 1
    [said] = [entry for entry in logs if entry["event"] == "retention.done"]
    assert (said["tasks"], said["contexts"]) == (1, 1)
    age = await any_shop.storage.retention_age()
    assert age is not None
    assert [task_id for _, task_id in archived(tmp_path)] == tasks[:1]
    await pruned(worker)
    assert worker.duty.counters["pruned"] == 1


def archived(folder: Path) -> list[tuple[str, UUID]]:
    """File and task."""
    return [
        (path.name, record_of(line).task.task_id)
        for path in folder.iterdir()
        for line in gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    ]


async def test_other_states_have_their_own_time(any_shop: Shop) -> None:
    task_id = await old(any_shop)
    await pruned(keeping(any_shop, failed=DAY, completed=3 * DAY))
    assert await there(any_shop, task_id) == [True]


async def test_one_worker_does_it(any_shop: Shop) -> None:
    task_id = await old(any_shop)
    token = new_token()
    await any_shop.storage.begin_retention(token, every=1, lease=60)
    await pruned(keeping(any_shop, completed=DAY))
    assert await there(any_shop, task_id) == [True]
    assert await any_shop.storage.go_on_with_retention(token, None, lease=60)
    await pruned(keeping(any_shop, completed=DAY, interval=3600))
    assert await there(any_shop, task_id) == [True]
    await pruned(keeping(any_shop, completed=DAY))
    assert await there(any_shop, task_id) == [False]


async def test_a_worker_that_lost_its_right_stops(any_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [await old(any_shop) for _ in range(3)]
    monkeypatch.setattr("worker.retention.LEASE", 0.0)
    monkeypatch.setattr("perdure.retention.pruning.BATCH_TASKS", 1)
    await pruned(keeping(any_shop, completed=DAY))
    assert await there(any_shop, *tasks) == [False, True, True]
    assert await any_shop.storage.retention_age() is None


async def test_without_its_archive_nothing_is_deleted(any_shop: Shop, tmp_path: Path) -> None:
    task_id = await old(any_shop)
    worker = keeping(any_shop, completed=DAY, archive=tmp_path / "away")
    with capture_logs() as logs:
        await pruned(worker)
    assert await there(any_shop, task_id) == [True]
    [said] = [entry for entry in logs if entry["event"] == "retention.waits"]
    assert "away" in said["error"]


async def test_logs_and_the_audit_have_their_own_time(any_shop: Shop) -> None:
    task_id = await old(any_shop)
    action = OperatorAction(action_id=new_task_id(), actor="a", action="cancel", target="t", result="done")
    await any_shop.storage.record_action(action)
    before = await any_shop.events(task_id)
    task = await any_shop.load(task_id)
    await pruned(keeping(any_shop, events=DAY, actions=0))
    assert len(await any_shop.events(task_id)) < len(before)
    assert await any_shop.load(task_id) == task
    assert await any_shop.storage.list_actions() == []
    assert (await any_shop.storage.load_context(ANONYMOUS, task.context_id)).task_ids == (task_id,)


async def test_a_long_walk_goes_on_where_it_was(any_shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [await old(any_shop) for _ in range(5)]
    token = new_token()
    await any_shop.storage.begin_retention(token, every=1, lease=0)
    await any_shop.storage.begin_retention(token, every=1, lease=60)
    await any_shop.storage.go_on_with_retention(token, sorted(tasks)[2], lease=0)
    await pruned(keeping(any_shop, completed=DAY))
    assert await there(any_shop, *sorted(tasks)) == [True, True, True, False, False]
    await pruned(keeping(any_shop, completed=DAY))
    assert await there(any_shop, *tasks) == [False] * 5
