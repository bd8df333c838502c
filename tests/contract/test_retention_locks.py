"""Retention beside the work: while a batch is deleted, nobody waits for it but who needs its very tasks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from uuid import UUID

import asyncpg
import pytest

from perdure.errors import StorageUnavailable, TaskNotFound
from perdure.ids import new_token
from perdure.retention.pruning import Rules, prune
from perdure.settings import StorageSettings
from perdure.storage import Storage, TaskQuery
from perdure.storage.postgres import PostgresStorage
from perdure.storage.retention import Pruned, TaskRecord
from perdure.tasks import TaskState
from tests.contract.test_retention import ALL, old, referring
from tests.support.storages import DAY, Clock, Opened, opened_postgres
from tests.support.stories import ME, claim, id_of, load, log, says, settle, started, submit


@pytest.fixture
async def opened(module_database_url: str) -> AsyncIterator[Opened]:
    async with opened_postgres(module_database_url) as opened:
        yield opened


@pytest.fixture
def storage(opened: Opened) -> Storage:
    return opened.storage


@pytest.fixture
def clock(opened: Opened) -> Clock:
    return opened.clock


@pytest.fixture
async def hasty(module_database_url: str, storage: Storage) -> AsyncIterator[Storage]:
    """The same database, for somebody who does not wait for a lock."""
    settings = StorageSettings(run_migrations_on_startup=False, lock_timeout=0.05, retry_timeout=0)
    other = PostgresStorage(module_database_url, settings)
    await other.open()
    yield other
    await other.close()


class Slow:
    """An archive that takes as long as `meanwhile`."""

    def __init__(self, meanwhile: Callable[[], Awaitable[object]]) -> None:
        self._meanwhile = meanwhile

    async def add(self, record: TaskRecord) -> None:
        pass

    async def sync(self) -> None:
        await self._meanwhile()


async def test_nobody_waits_for_a_batch(storage: Storage, hasty: Storage, clock: Clock) -> None:
    """Whatever callers and workers do in the conversations of the batch while it holds its locks, a lock timeout would end."""
    tasks = [await old(storage, clock, context=f"talk {number % 3}") for number in range(6)]
    spared = await old(storage, clock, context="talk 0", days=0.5)
    asking = await started(storage, context="talk 1")
    await settle(storage, asking, TaskState.INPUT_REQUIRED)

    async def work() -> None:
        for number in range(3):
            await submit(hasty, context=f"talk {number}")
        await hasty.continue_task(ME, id_of(asking), says("that"))
        for _ in range(4):
            turn = await claim(hasty)
            await hasty.renew_claims([turn.claim], 60)
            await settle(hasty, turn)
        await submit(hasty, context="talk 0", message=referring(spared))
        await hasty.cancel_task(ME, id_of(await submit(hasty, context="talk 2")))
        for each in (*tasks, spared):  # the batch's own are read as they were
            assert (await load(hasty, each)).state is TaskState.COMPLETED
            assert await log(hasty, each)
        await hasty.list_tasks(TaskQuery(owner=ME))
        await hasty.load_context(ME, "talk 0")
        await hasty.store_feedback(ME, spared, text="good")
        await hasty.update_context(ME, "talk 2", {"a": 1})
        await hasty.figures()
        await hasty.rescue_tasks(grace=0, max_crashes=3)
        await hasty.expire_tasks()
        await hasty.fold_tasks(ended_for=0)
        await hasty.claim_task("w", new_token(), lease=60)
        assert await waiting(hasty) == 0

    pruned = await storage.prune_tasks(tasks, ALL, archive=Slow(work))
    assert set(pruned.tasks) == set(tasks)
    assert pruned.contexts == 0


async def test_a_lock_timeout_would_have_been_seen(storage: Storage, hasty: Storage, clock: Clock) -> None:
    """What does need a task of the batch waits: the test above would notice."""
    task_id = await old(storage, clock)

    async def work() -> None:
        with pytest.raises(StorageUnavailable):
            await hasty.store_feedback(ME, task_id, text="good")
        with pytest.raises(StorageUnavailable):
            await submit(hasty, context="other", message=referring(task_id))

    assert list((await storage.prune_tasks([task_id], ALL, archive=Slow(work))).tasks) == [task_id]


async def test_what_waits_for_the_batch_finds_the_task_gone(storage: Storage, clock: Clock) -> None:
    task_id = await old(storage, clock)
    sent: list[asyncio.Task[object]] = []

    async def work() -> None:
        sent.append(asyncio.create_task(storage.store_feedback(ME, task_id, text="good")))
        sent.append(asyncio.create_task(submit(storage, message=referring(task_id))))
        while await waiting(storage) < 2:
            pass

    await storage.prune_tasks([task_id], ALL, archive=Slow(work))
    feedback, new = await asyncio.gather(*sent, return_exceptions=True)
    assert isinstance(feedback, TaskNotFound)
    assert not isinstance(new, BaseException)


async def waiting(storage: Storage) -> int:
    """How many wait for a lock."""
    assert isinstance(storage, PostgresStorage)
    [row] = await storage._rows(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    return int(row["count"])


async def test_what_somebody_holds_is_left_for_the_next_time(
    storage: Storage, clock: Clock, module_database_url: str
) -> None:
    held, free, talked_in = [await old(storage, clock, context=f"talk {number}") for number in range(3)]
    connection = await asyncpg.connect(module_database_url)
    try:
        async with connection.transaction():
            await connection.execute("SELECT FROM tasks WHERE task_id = $1 FOR KEY SHARE", held)
            await connection.execute("SELECT FROM contexts WHERE context_id = 'talk 2' FOR NO KEY UPDATE")
            pruned = await storage.prune_tasks([held, free, talked_in], ALL)
            assert (set(pruned.tasks), pruned.contexts) == ({free, talked_in}, 1)
    finally:
        await connection.close()
    assert (await storage.prune_tasks([held], ALL)).tasks == {held: TaskState.COMPLETED}


async def test_a_crash_between_archive_and_deletion_loses_nothing(
    storage: Storage, clock: Clock, module_database_url: str
) -> None:
    """The connection dies when the archive is on the disk: the deletion is undone, and done again with the archiving."""
    task_id = await old(storage, clock)
    archived: list[bool] = []

    async def crash() -> None:
        archived.append((await load(storage, task_id)).state is TaskState.COMPLETED)
        if len(archived) > 1:
            return
        connection = await asyncpg.connect(module_database_url)
        try:
            ended = await connection.fetchval(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
                "WHERE datname = current_database() AND state = 'idle in transaction'"
            )
        finally:
            await connection.close()
        assert ended == 1

    pruned = await storage.prune_tasks([task_id], ALL, archive=Slow(crash))
    assert archived == [True, True]
    assert list(pruned.tasks) == [task_id]


async def test_two_prune_at_once(storage: Storage, hasty: Storage, clock: Clock) -> None:
    tasks = [await old(storage, clock, context=f"talk {number}") for number in range(4)]
    second: list[Pruned] = []

    async def work() -> None:
        second.append(await hasty.prune_tasks(tasks, ALL))

    first = await storage.prune_tasks(tasks[:2], ALL, archive=Slow(work))
    assert (set(first.tasks), set(second[0].tasks)) == (set(tasks[:2]), set(tasks[2:]))


async def test_a_walk_beside_sends_and_reads(storage: Storage, clock: Clock) -> None:
    """All that is old goes, all that is new stays, and nobody is refused."""
    olds = [await old(storage, clock, context=f"talk {number % 7}") for number in range(120)]
    news: list[UUID] = []
    done = asyncio.Event()

    async def send(number: int) -> None:
        while not done.is_set() or len(news) < 50:
            news.append(id_of(await submit(storage, context=f"talk {(len(news) + number) % 7}")))
            await storage.list_tasks(TaskQuery(owner=ME, page_size=5))

    senders = [asyncio.create_task(send(number)) for number in range(3)]
    rules = Rules({state: DAY for state in TaskState if state.terminal})
    tally = await prune(storage, rules)
    done.set()
    await asyncio.gather(*senders)
    assert tally.tasks == {TaskState.COMPLETED: 120}
    states = [notice.state for notice in await storage.notices(olds)]
    assert states == [None] * 120
    assert {notice.state for notice in await storage.notices(news)} == {TaskState.SUBMITTED}
