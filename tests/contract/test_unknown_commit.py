"""A connection that is lost during COMMIT: nobody knows whether the statement took effect. It is sent again, and has the effect
of one.

Forced: every statement runs, and then its connection breaks once before the answer gets through.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from perdure.ids import new_task_id, new_token
from perdure.settings import StorageSettings
from perdure.storage import IdempotencyKey, NewTask, Policy
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres.database import Database
from perdure.tasks import Artifact, Message, Ring, Role, TaskState, TextPart

ME = "me"


class LosesAnswers:
    """A connection that does what it is told and breaks before it says so, once for each statement that is a transaction, and
    once for each transaction of several."""

    def __init__(self, connection: Any, lost: set[str]) -> None:
        self._connection = connection
        self._lost = lost
        self._together: list[str] | None = None

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._connection, name)
        if name not in ("fetch", "fetchrow", "fetchval", "execute"):
            return method

        async def run(statement: str, *arguments: Any) -> Any:
            answer = await method(statement, *arguments)
            if "UPDATE" in statement or "INSERT" in statement:
                if self._together is None:
                    self._lose(statement)
                else:
                    self._together.append(statement)
            return answer

        return run

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """Loses the answer to its COMMIT."""
        self._together = []
        try:
            async with self._connection.transaction():
                yield
            self._lose("".join(self._together))
        finally:
            self._together = None

    def _lose(self, what: str) -> None:
        if what not in self._lost:
            self._lost.add(what)
            raise ConnectionResetError("connection reset by peer")


class LossyDatabase(Database):
    """Loses the answer to each writing statement once."""

    def __init__(self, url: str, settings: StorageSettings) -> None:
        super().__init__(url, settings)
        self.lost: set[str] = set()

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Any]:
        async with super()._connection() as connection:
            yield LosesAnswers(connection, self.lost)


@pytest.fixture
async def lossy(database_url: str) -> AsyncIterator[PostgresStorage]:
    storage = PostgresStorage(database_url, StorageSettings())
    storage._database = LossyDatabase(database_url, StorageSettings())
    await storage.open()
    yield storage
    await storage.close()


def says(text: str) -> Message:
    return Message(parts=(TextPart(text),), role=Role.USER)


async def test_every_step_of_a_task_takes_effect_once(lossy: PostgresStorage) -> None:
    task_id = new_task_id()
    accepted = await lossy.submit_task(
        NewTask(task_id=task_id, owner=ME, context_id="talk", message=says("one"))
    )
    assert accepted.ring
    turn = await lossy.claim_task("worker", new_token(), lease=60)
    assert turn is not None
    assert turn.claim.attempt == 1
    await lossy.continue_task(ME, task_id, says("two"))
    answer = Artifact(artifact_id="answer", parts=(TextPart("three"),))
    await lossy.update_task(turn.claim, 1, new_artifacts=[answer])
    written = await lossy.update_task(turn.claim, 2, state=TaskState.COMPLETED)
    assert written.state is TaskState.SUBMITTED  # for the message that the turn had not seen
    again = await lossy.claim_task("worker", new_token(), lease=60)
    assert again is not None
    await lossy.release_task(again.claim, reason="deploy", failed=True)
    await lossy.cancel_task(ME, task_id)

    task = await lossy.load_task(ME, task_id)
    assert (task.state, task.attempt, task.failures) == (TaskState.CANCELED, 2, 1)
    assert [message.text for message in task.history] == ["one", "two"]
    assert [artifact.text for artifact in task.artifacts] == ["three"]
    events = await lossy.events_since(ME, task_id, 0)
    assert [event.seq for event in events] == list(range(1, 9))
    assert isinstance(lossy._database, LossyDatabase)
    assert len(lossy._database.lost) >= 7  # every one of these statements lost its answer


async def test_the_next_in_line_is_not_counted_twice(lossy: PostgresStorage) -> None:
    """The context counts its waiting tasks: two that were submitted, claimed and ended leave nobody waiting."""
    for _ in range(2):
        await lossy.submit_task(
            NewTask(task_id=new_task_id(), owner=ME, context_id="talk", message=says("hello"))
        )
    for _ in range(2):
        turn = await lossy.claim_task("worker", new_token(), lease=60)
        assert turn is not None
        await lossy.update_task(turn.claim, 1, state=TaskState.COMPLETED)
    assert await lossy.claim_task("worker", new_token(), lease=60) is None
    row = await lossy._row("SELECT waiting, running_task FROM contexts WHERE context_id = 'talk'")
    assert row is not None
    assert (row["waiting"], row["running_task"]) == (0, None)


KEY = IdempotencyKey("k", "what was asked for")


async def test_sends_with_a_key_take_effect_once_and_ring(lossy: PostgresStorage) -> None:
    new = NewTask(task_id=new_task_id(), owner=ME, context_id="talk", message=says("one"))
    accepted = await lossy.submit_task(new, key=KEY)
    assert (accepted.repeated, accepted.ring) == (False, Ring(new.task_id, 1))
    turn = await lossy.claim_task("worker", new_token(), lease=60)
    assert turn is not None
    await lossy.update_task(turn.claim, 1, state=TaskState.INPUT_REQUIRED)
    more = await lossy.continue_task(ME, new.task_id, says("two"), key=IdempotencyKey("l", ""))
    assert (more.repeated, more.ring) == (False, Ring(new.task_id, 2))
    assert [message.text for message in (await lossy.load_task(ME, new.task_id)).history] == ["one", "two"]
    again = await lossy.submit_task(replace(new, task_id=new_task_id()), key=KEY)
    assert (again.repeated, again.task.task_id) == (True, new.task_id)


@pytest.mark.parametrize("policy", [Policy.REJECT, Policy.INTERRUPT])
async def test_policies_take_effect_once(lossy: PostgresStorage, policy: Policy) -> None:
    old = NewTask(task_id=new_task_id(), owner=ME, context_id="talk", message=says("old"))
    if policy is Policy.INTERRUPT:
        await lossy.submit_task(old)
    new = replace(old, task_id=new_task_id(), policy=policy)
    accepted = await lossy.submit_task(new)
    assert (accepted.task.task_id, accepted.task.state) == (new.task_id, TaskState.SUBMITTED)
    assert accepted.ring
    turn = await lossy.claim_task("worker", new_token(), lease=60)
    assert turn is not None
    assert turn.claim.task_id == new.task_id
    await lossy.store_step(turn.claim, "step", 1, "done")
    await lossy.update_task(turn.claim, 1, state=TaskState.COMPLETED)
    assert await lossy.claim_task("worker", new_token(), lease=60) is None


async def test_limits_are_counted_once(lossy: PostgresStorage) -> None:
    for number in range(3):
        message = says(str(number))
        await lossy.submit_task(
            NewTask(task_id=new_task_id(), owner=ME, context_id=str(number), message=message, limits={"l": 1})
        )
    for _ in range(3):
        turn = await lossy.claim_task("worker", new_token(), lease=60)
        assert turn is not None
        assert await lossy.claim_task("worker", new_token(), lease=60) is None
        await lossy.update_task(turn.claim, 1, state=TaskState.COMPLETED)
    row = await lossy._row("SELECT running FROM concurrency_limits")
    assert row is not None
    assert row["running"] == 0


async def test_what_goes_together_takes_effect_once(lossy: PostgresStorage) -> None:
    """Submits, claims, writes, ends and releases of five tasks, each kind in one statement whose answer is lost."""
    keys = [IdempotencyKey("key", "the same"), None, None, None, None]
    tasks = [
        NewTask(task_id=new_task_id(), owner=ME, context_id=f"talk {n % 4}", message=says(f"say {n}"))
        for n in range(5)
    ]
    accepted = await asyncio.gather(
        *(lossy.submit_task(task, key=key) for task, key in zip(tasks, keys, strict=True))
    )
    assert [each.task.task_id for each in accepted] == [task.task_id for task in tasks]
    assert not any(each.repeated for each in accepted)

    claimed = await asyncio.gather(*(lossy.claim_task("worker", new_token(), lease=60) for _ in range(5)))
    turns = [turn for turn in claimed if turn]
    assert [turn.claim.attempt for turn in turns] == [1, 1, 1, 1]  # the fifth waits behind the first
    assert len({turn.claim.task_id for turn in turns}) == 4
    answer = Artifact(artifact_id="answer", parts=(TextPart("three"),))
    await asyncio.gather(*(lossy.update_task(turn.claim, 1, new_artifacts=[answer]) for turn in turns))
    ends = [lossy.update_task(turn.claim, 2, state=TaskState.COMPLETED) for turn in turns[:2]]
    releases = [lossy.release_task(turn.claim, reason="deploy") for turn in turns[2:]]
    await asyncio.gather(*ends, *releases)

    for turn in turns[:2]:
        task = await lossy.load_task(ME, turn.claim.task_id)
        assert (task.state, task.last_seq, len(task.artifacts)) == (TaskState.COMPLETED, 4, 1)
    for turn in turns[2:]:
        task = await lossy.load_task(ME, turn.claim.task_id)
        assert (task.state, task.last_seq, len(task.artifacts)) == (TaskState.SUBMITTED, 4, 0)
    left = await asyncio.gather(*(lossy.claim_task("worker", new_token(), lease=60) for _ in range(6)))
    assert sum(turn is not None for turn in left) == 3
    assert isinstance(lossy._database, LossyDatabase)
    assert len(lossy._database.lost) >= 5
