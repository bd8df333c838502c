"""Waiting for a task whose notices come at the wrong moment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Container, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import pytest

from perdure import watch as watching
from perdure.ids import new_task_id
from perdure.queue.inline import InlineQueue
from perdure.storage.memory import MemoryStorage
from perdure.tasks import Notice, TaskState
from perdure.watch import Watch
from tests.support.stories import ME, submit


async def test_a_task_that_a_refresh_looked_for_before_it_was_stored_is_not_gone() -> None:
    storage = MemoryStorage()
    watch, task_id = Watch(storage, InlineQueue(), refresh=60), new_task_id()
    with watch.waiter(task_id) as waiter:
        await watch.refresh()
        await submit(storage, task_id=task_id)
        waiting = asyncio.create_task(waiter.beyond(1))
        for _ in range(5):
            await asyncio.sleep(0)
        assert not waiting.done()
        await storage.cancel_task(ME, task_id)
        await watch.refresh()
        assert (await waiting).state is TaskState.CANCELED


async def test_one_that_is_gone_is_gone() -> None:
    storage = MemoryStorage()
    watch, task_id = Watch(storage, InlineQueue(), refresh=60), new_task_id()
    with watch.waiter(task_id) as waiter:
        await submit(storage, task_id=task_id)
        waiting = asyncio.create_task(waiter.beyond(1))
        await storage.clear_context(ME, "talk")
        await watch.refresh()
        assert await waiting == Notice(task_id, 0, None)


class Surprising(InlineQueue):
    """Its listeners fail with what nobody foresaw, so many times."""

    shared = True

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.failures = failures
        self.listening = asyncio.Event()

    @asynccontextmanager
    async def listen(self, wanted: Container[str] | None = None) -> AsyncIterator[AsyncIterator[Notice]]:
        async with super().listen(wanted) as notices:
            if self.failures:
                self.failures -= 1
                yield _failing()
            else:
                self.listening.set()
                yield notices


async def _failing() -> AsyncIterator[Notice]:
    for text in ("no UUID",):
        yield Notice(UUID(text), 1, None)


class SurprisingStorage(MemoryStorage):
    """Fails the first time it is asked for notices."""

    asked = 0

    async def notices(self, task_ids: Collection[UUID]) -> Sequence[Notice]:
        self.asked += 1
        if self.asked == 1:
            raise RuntimeError("a defect")
        return await super().notices(task_ids)


async def test_a_listener_that_fails_unforeseen_is_told_of_and_listens_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watching, "_PAUSE_AFTER_SURPRISE", 0.01)
    storage, queue, task_id = MemoryStorage(), Surprising(3), new_task_id()
    async with Watch(storage, queue, refresh=3600).running() as watch, asyncio.timeout(30):
        await queue.listening.wait()
        with watch.waiter(task_id) as waiter:
            await queue.announce([said := Notice(task_id, 7, TaskState.WORKING)])
            assert await waiter.beyond(1) == said
        assert not watch.degraded
    logged = capsys.readouterr().out
    assert [logged.count(event) for event in ("] watch.failed", "] watch.recovered")] == [3, 3]


async def test_waiters_are_served_by_the_log_while_the_listener_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watching, "_PAUSE_AFTER_SURPRISE", 3600)
    monkeypatch.setattr(watching, "DEGRADED_REFRESH", 0.01)
    storage, task_id = MemoryStorage(), new_task_id()
    await submit(storage, task_id=task_id)
    async with Watch(storage, Surprising(1), refresh=3600).running() as watch, asyncio.timeout(30):
        with watch.waiter(task_id) as waiter:
            await waiter.beyond(0)
            await storage.cancel_task(ME, task_id)
            assert (await waiter.beyond(1)).state is TaskState.CANCELED
            assert watch.degraded


async def test_a_refresh_that_fails_unforeseen_is_told_of_and_repeated(
    capsys: pytest.CaptureFixture[str],
) -> None:
    storage, task_id = SurprisingStorage(), new_task_id()
    await submit(storage, task_id=task_id)
    watch = Watch(storage, InlineQueue(), refresh=0.01)
    with watch.waiter(task_id) as waiter:
        refreshing = asyncio.create_task(watch._refresh())
        async with asyncio.timeout(30):
            assert (await waiter.beyond(0)).seq == 1
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
    assert capsys.readouterr().out.count("] watch.refresh_failed") == 1
