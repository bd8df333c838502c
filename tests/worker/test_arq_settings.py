"""Real workers as processes, under arq's own command line and under ours, over a real Postgres and a real Redis."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from arq import create_pool
from redis.asyncio import Redis
from tenacity import AsyncRetrying, stop_after_delay, wait_fixed

from perdure.ids import new_task_id
from perdure.local import LocalServices
from perdure.queue.arq import ArqQueue, redis_settings
from perdure.settings import StorageSettings
from perdure.storage import NewTask
from perdure.storage.postgres import PostgresStorage
from perdure.tasks import ANONYMOUS, Message, Role, Task, TaskState, TextPart
from perdure.watch import Watch
from tests.support.processes import PERDURE, ROOT, finished, heard, started, surroundings

ARQ = str(Path(sys.executable).parent / "arq")
SETTINGS = "worker.settings.WorkerSettings"

AGENT = """
import os, time
from pathlib import Path
from perdure.agent import bindufy

def handler(messages, turn):
    text = messages[-1]["content"]
    if not text.startswith("/"):
        return text.upper()
    turn.emit("waiting")
    while not Path(text).exists() and not turn.canceled:
        time.sleep(0.01)
    return f"{os.getpid()}"

bindufy({"name": "test"}, handler)
"""


class Fleet:
    """Postgres, Redis, and the workers of a test."""

    def __init__(self, folder: Path, database_url: str, redis_url: str, stack: ExitStack) -> None:
        self.folder = folder
        self.agent = folder / "my_agent.py"
        self.agent.write_text(AGENT)
        self.env = {
            "STORAGE_TYPE": "postgres",
            "DATABASE_URL": database_url,
            "QUEUE_TYPE": "arq",
            "REDIS_URL": redis_url,
            "AGENT": str(self.agent),
            "QUEUE_NAME": f"test-{new_task_id()}",
            "LOG__FORMAT": "json",
            "WORKER__LEASE": "1",
            "WORKER__LEASE_GRACE": "0.2",
            "WORKER__SWEEP_INTERVAL": "0.3",
        }
        self.storage = PostgresStorage(database_url, settings=StorageSettings())
        self.queue = ArqQueue(redis_url, self.env["QUEUE_NAME"])
        self.watch = Watch(self.storage, self.queue, refresh=0.2)
        self.redis: Any = Redis.from_url(redis_url)
        self._stack = stack

    def surroundings(self, **settings: str) -> dict[str, str]:
        env = {"PYTHONPATH": str(ROOT), **self.env, **settings}
        return surroundings(**{name: value for name, value in env.items() if value})

    def arq(self, *options: str, **settings: str) -> subprocess.CompletedProcess[str]:
        """arq's command line, to its end."""
        return finished([ARQ, SETTINGS, *options], cwd=self.folder, env=self.surroundings(**settings))

    def start(self, command: str = "arq", **settings: str) -> subprocess.Popen[str]:
        """A worker, once it has started."""
        line = [ARQ, SETTINGS] if command == "arq" else [PERDURE, "worker", str(self.agent)]
        process = self._stack.enter_context(started(line, cwd=self.folder, env=self.surroundings(**settings)))
        heard(process, "worker.started")
        return process

    async def submit(self, text: str = "hello") -> UUID:
        """As the front door does: store, then ring."""
        task_id = new_task_id()
        message = Message(parts=(TextPart(text),), role=Role.USER)
        accepted = await self.storage.submit_task(
            NewTask(task_id=task_id, owner=ANONYMOUS, context_id=str(task_id), message=message)
        )
        assert accepted.ring
        await self.queue.ring([accepted.ring])
        return task_id

    async def reaches(
        self, task_id: UUID, state: TaskState, *, also: Callable[[Task], bool] = lambda _: True
    ) -> Task:
        """Wait until the task is at this state and as `also` wants it."""
        with self.watch.waiter(task_id) as waiter:
            while True:
                task = await self.storage.load_task(ANONYMOUS, task_id)
                if task.state is state and also(task):
                    return task
                await waiter.beyond(task.last_seq)

    async def under_way(self, task_id: UUID) -> Task:
        """Wait until the handler of our agent waits for its file."""
        return await self.reaches(
            task_id, TaskState.WORKING, also=lambda task: any(each.text for each in task.artifacts)
        )

    async def health_keys(self) -> list[bytes]:
        """Wait until somebody reported."""
        while not (keys := await self.redis.keys(f"{self.env['QUEUE_NAME']}:health:*")):
            await self.a_moment()
        return list(keys)

    async def a_moment(self) -> None:
        """Redis tells nobody that a key was written: look again a little later."""
        await self.redis.blpop([f"{self.env['QUEUE_NAME']}:nothing"], 0.05)

    async def open(self) -> None:
        await self.storage.open()
        await self.queue.open()

    async def close(self) -> None:
        await self.queue.close()
        await self.storage.close()
        await self.redis.aclose()


@pytest.fixture
def processes() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
async def fleet(
    tmp_path: Path, database_url: str, redis_url: str, processes: ExitStack
) -> AsyncIterator[Fleet]:
    fleet = Fleet(tmp_path, database_url, redis_url, processes)
    await fleet.open()
    async with fleet.watch.running():
        yield fleet
    await fleet.close()


def stop(process: subprocess.Popen[str], how: signal.Signals = signal.SIGTERM) -> tuple[int, str]:
    """Its exit code and what it said."""
    process.send_signal(how)
    said, _ = process.communicate(timeout=40)
    return process.returncode, said


# ---------------------------------------------------------------------- starting


def test_importing_the_settings_needs_nothing(tmp_path: Path) -> None:
    done = finished(
        [sys.executable, "-c", f"import {SETTINGS.rpartition('.')[0]}"],
        cwd=tmp_path,
        env=surroundings(PYTHONPATH=str(ROOT)),
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"AGENT": ""}, "which agent? give"),
        ({"AGENT": "no/such.py"}, "there is no file"),
        ({"STORAGE_TYPE": "", "DATABASE_URL": "", "QUEUE_TYPE": ""}, "a worker needs STORAGE_TYPE=postgres"),
        ({"QUEUE_TYPE": ""}, "set QUEUE_TYPE=arq"),
        ({"WORKER__SLOTS": "many"}, "WORKER__SLOTS"),
    ],
)
async def test_a_mistake_is_one_line_and_exit_code_2(
    fleet: Fleet, settings: dict[str, str], line: str
) -> None:
    done = await asyncio.to_thread(lambda: fleet.arq(**settings))
    said = [each for each in done.stderr.splitlines() if "arq.worker" not in each and ": " in each]
    assert done.returncode == 2
    assert line in said[-1]
    assert said[-1].startswith("perdure: ")
    assert "Traceback" not in done.stderr


# ---------------------------------------------------------------------- running


async def test_burst_runs_what_waits_and_leaves_nothing(fleet: Fleet) -> None:
    tasks = [await fleet.submit(f"task {number}") for number in range(30)]
    done = await asyncio.to_thread(fleet.arq, "--burst")
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr
    for number, task_id in enumerate(tasks):
        task = await fleet.storage.load_task(ANONYMOUS, task_id)
        assert (task.state, task.artifacts[0].text) == (TaskState.COMPLETED, f"TASK {number}")
    left = [key async for key in fleet.redis.scan_iter() if await fleet.redis.ttl(key) == -1]
    assert left == []
    assert not await fleet.redis.keys("arq:job:*")


@pytest.mark.parametrize("command", ["arq", "perdure"])
async def test_sigterm_lets_a_turn_finish_within_the_grace(
    fleet: Fleet, command: str, tmp_path: Path
) -> None:
    process = fleet.start(command, WORKER__GRACE="30")
    task_id = await fleet.submit(str(go_on := tmp_path / "go"))
    await fleet.under_way(task_id)
    process.send_signal(signal.SIGTERM)
    await fleet.reaches(task_id, TaskState.WORKING)
    later = await fleet.submit("not here")
    go_on.touch()
    task = await fleet.reaches(task_id, TaskState.COMPLETED)
    assert task.artifacts[0].text == str(process.pid)
    said, _ = await asyncio.to_thread(process.communicate, timeout=40)
    assert process.returncode == 0, said
    assert "Traceback" not in said
    assert (await fleet.storage.load_task(ANONYMOUS, later)).state is TaskState.SUBMITTED


@pytest.mark.parametrize("command", ["arq", "perdure"])
async def test_after_the_grace_another_worker_has_it_and_no_budget_is_spent(
    fleet: Fleet, command: str, tmp_path: Path
) -> None:
    first = fleet.start(command, WORKER__GRACE="0.1")
    task_id = await fleet.submit(str(go_on := tmp_path / "go"))
    await fleet.under_way(task_id)
    second = fleet.start(command)
    code, said = await asyncio.to_thread(stop, first)
    assert code == 0, said
    assert "Traceback" not in said
    go_on.touch()
    task = await fleet.reaches(task_id, TaskState.COMPLETED)
    assert task.artifacts[0].text == str(second.pid)
    assert (task.attempt, task.failures, task.crashes) == (2, 0, 0)


async def test_a_killed_workers_task_runs_elsewhere_within_seconds(fleet: Fleet, tmp_path: Path) -> None:
    victim = fleet.start()
    task_id = await fleet.submit(str(go_on := tmp_path / "go"))
    await fleet.under_way(task_id)
    other = fleet.start("perdure")
    await asyncio.to_thread(stop, victim, signal.SIGKILL)
    go_on.touch()
    task = await fleet.reaches(task_id, TaskState.COMPLETED)
    assert (task.artifacts[0].text, task.crashes) == (str(other.pid), 1)


async def test_both_kinds_of_worker_share_a_backlog(fleet: Fleet, tmp_path: Path) -> None:
    """Each of its slots' worth, every task once, and Redis is left empty."""
    processes = [
        fleet.start(command, WORKER__SLOTS="3", WORKER__SWEEP_INTERVAL="5") for command in ("arq", "perdure")
    ]
    tasks = [await fleet.submit(str(tmp_path / "go")) for _ in range(6)]
    for task_id in tasks:
        await fleet.under_way(task_id)
    tasks += [await fleet.submit(str(tmp_path / "go")) for _ in range(60)]
    (tmp_path / "go").touch()
    done = [await fleet.reaches(task_id, TaskState.COMPLETED) for task_id in tasks]
    by = Counter(task.artifacts[0].text.removeprefix("waiting") for task in done)
    assert set(by) == {str(process.pid) for process in processes}
    assert [task.attempt for task in done] == [1] * len(done)
    for process in processes:
        code, said = await asyncio.to_thread(stop, process)
        assert (code, "Traceback" in said) == (0, False), said
        assert " expired" not in said  # what arq says of a job whose payload was taken away
    assert await fleet.redis.keys("*") == []


async def test_a_cancel_reaches_the_handler_in_another_process(fleet: Fleet, tmp_path: Path) -> None:
    process = fleet.start()
    task_id = await fleet.submit(str(tmp_path / "never"))
    await fleet.under_way(task_id)
    await fleet.storage.cancel_task(ANONYMOUS, task_id)
    await fleet.queue.announce(await fleet.storage.notices([task_id]))
    while True:  # the log of the worker says when its handler has ended
        line = await asyncio.to_thread(heard, process, "turn.released")
        if line["task_id"] == str(task_id):
            break
    assert line["reason"] == "canceled"
    assert (await fleet.storage.load_task(ANONYMOUS, task_id)).state is TaskState.CANCELED


@pytest.mark.parametrize("command", ["arq", "perdure"])
async def test_an_emptied_redis_loses_nothing(fleet: Fleet, command: str, tmp_path: Path) -> None:
    fleet.start(command, WORKER__SLOTS="1")
    first = await fleet.submit(str(go_on := tmp_path / "go"))
    await fleet.under_way(first)
    waiting = [await fleet.submit() for _ in range(5)]
    await fleet.redis.flushdb()
    go_on.touch()
    for task_id in (first, *waiting):
        await fleet.reaches(task_id, TaskState.COMPLETED)


# ---------------------------------------------------------------------- health


async def test_a_check_finds_the_worker_of_this_host_and_the_one_that_was_killed(fleet: Fleet) -> None:
    async def check() -> int:
        return (await asyncio.to_thread(fleet.arq, "--check", AGENT="")).returncode

    assert await check() == 1
    first = fleet.start()
    await fleet.reaches(await fleet.submit(), TaskState.COMPLETED)
    (key,) = await fleet.health_keys()
    assert await check() == 0
    assert 0 < await fleet.redis.ttl(key) <= 11

    second = fleet.start()
    await asyncio.to_thread(stop, first, signal.SIGKILL)
    await fleet.redis.delete(key)  # as it does by itself within 11 seconds
    await fleet.health_keys()
    assert await check() == 1

    third = fleet.start()  # a start clears up
    while len(await fleet.health_keys()) < 2:
        await fleet.a_moment()
    assert await check() == 0
    for process in (second, third):
        await asyncio.to_thread(stop, process)
    assert await check() == 1


# ---------------------------------------------------------------------- Redis away


@pytest.fixture
async def own_fleet(
    tmp_path: Path, database_url: str, private_services: LocalServices, processes: ExitStack
) -> AsyncIterator[Fleet]:
    """With a Redis that may be stopped."""
    fleet = Fleet(tmp_path, database_url, private_services.redis_url, processes)
    await fleet.open()
    async with fleet.watch.running():
        yield fleet
    await fleet.close()


@pytest.mark.parametrize("command", ["arq", "perdure"])
async def test_a_restart_of_redis_ends_no_turn_and_no_worker(
    own_fleet: Fleet, private_services: LocalServices, command: str, tmp_path: Path
) -> None:
    process = own_fleet.start(command)
    task_id = await own_fleet.submit(str(go_on := tmp_path / "go"))
    await own_fleet.under_way(task_id)
    await asyncio.to_thread(private_services.redis.stop)
    await asyncio.to_thread(private_services.redis.start)
    go_on.touch()
    task = await own_fleet.reaches(task_id, TaskState.COMPLETED)
    assert (task.attempt, task.artifacts[0].text) == (1, str(process.pid))
    await own_fleet.reaches(await own_fleet.submit(), TaskState.COMPLETED)
    assert (await asyncio.to_thread(stop, process))[0] == 0


@pytest.mark.parametrize("command", ["arq", "perdure"])
async def test_sigterm_ends_it_while_redis_is_away(
    own_fleet: Fleet, private_services: LocalServices, command: str
) -> None:
    process = own_fleet.start(command, WORKER__GRACE="0.1")
    await asyncio.to_thread(private_services.redis.stop)
    code, said = await asyncio.to_thread(stop, process)
    assert code == 0, said
    await asyncio.to_thread(private_services.redis.start)


async def test_a_command_under_way_outlives_a_restart_of_redis(private_services: LocalServices) -> None:
    """Or stock arq ends with it: whether one is under way when Redis goes is a matter of luck."""
    pool: Any = await create_pool(redis_settings(private_services.redis_url))
    try:
        asking = asyncio.create_task(pool.blpop(["answer"], 30))
        async for attempt in AsyncRetrying(stop=stop_after_delay(10), wait=wait_fixed(0.01)):
            with attempt:
                assert (await pool.info("clients"))["blocked_clients"] == 1
        await asyncio.to_thread(private_services.redis.stop)
        await asyncio.to_thread(private_services.redis.start)
        await pool.rpush("answer", "yes")
        assert await asking == (b"answer", b"yes")
    finally:
        await pool.aclose()


async def test_our_worker_starts_and_works_without_redis_and_hears_it_when_it_comes(
    own_fleet: Fleet, private_services: LocalServices
) -> None:
    await asyncio.to_thread(private_services.redis.stop)
    process = own_fleet.start("perdure")
    task_id = new_task_id()
    message = Message(parts=(TextPart("no bell"),), role=Role.USER)
    await own_fleet.storage.submit_task(
        NewTask(task_id=task_id, owner=ANONYMOUS, context_id="c", message=message)
    )
    task = await own_fleet.reaches(task_id, TaskState.COMPLETED)
    assert task.artifacts[0].text == "NO BELL"
    await asyncio.to_thread(private_services.redis.start)
    await own_fleet.health_keys()
    await own_fleet.reaches(await own_fleet.submit(), TaskState.COMPLETED)
    code, said = await asyncio.to_thread(stop, process)
    assert (code, "Traceback" in said) == (0, False), said
