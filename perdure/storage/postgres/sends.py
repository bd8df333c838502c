"""Sends: what a new task and a message to a task do on a connection, each in one transaction, with its idempotency key if it has
one.

Each function gives the work for `Database.run`: sent again after an unknown end it has the effect of one. It answers with an id
where nothing was stored: that of the task that is there already, its own (the answer to an earlier try was lost) or the one that
the key stands for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NoReturn
from uuid import UUID

import asyncpg

from perdure.errors import ContextBusy, InvalidParams, KeyReused, TaskNotFound, UnsupportedOperation
from perdure.ids import parse_task_id
from perdure.owners import agent_of
from perdure.storage import IdempotencyKey, NewTask, Policy
from perdure.storage.postgres import caller_statements as sql
from perdure.storage.postgres.base import OWNS
from perdure.storage.postgres.database import T, Work
from perdure.storage.postgres.records import Row, dumps, message_json
from perdure.stored.payload import dump_body
from perdure.tasks import Message, Notice, StatusChange, TaskState


@dataclass(frozen=True, slots=True)
class Submitted:
    """A task was stored. `due`: a turn of it can begin now, as far as its conversation goes."""

    created_at: datetime
    due: bool
    canceled: Sequence[Notice] = ()


@dataclass(frozen=True, slots=True)
class Appended:
    """A message was stored. `due`: it made a turn due, which can begin now."""

    dispatch: int
    due: bool


# ---------------------------------------------------------------------- a new task


def submit(new: NewTask, message: Message, key: IdempotencyKey | None) -> Work[Submitted | UUID]:
    """Store a new task. `ContextBusy`, `KeyReused`."""

    async def work(connection: Any, again: bool) -> Submitted | UUID:
        try:
            if key is not None:
                return await _once(
                    connection, new.owner, new.task_id, key, lambda: _insert(connection, new, message)
                )
            if new.policy is not Policy.INTERRUPT and not message.reference_task_ids:  # one statement
                return await _insert(connection, new, message)
            async with connection.transaction():
                return await _insert(connection, new, message)
        except asyncpg.UniqueViolationError:
            return new.task_id

    return work


async def _insert(connection: Any, new: NewTask, message: Message) -> Submitted | UUID:
    limits = sorted(new.limits.items())
    row = await connection.fetchrow(
        sql.SUBMIT,
        new.task_id,
        new.owner,
        new.context_id,
        dumps(dict(new.metadata)),
        message_json(message),
        new.policy.value,
        new.priority,
        new.delay,
        new.expires,
        new.deadline,
        [name for name, _ in limits],
        [limit for _, limit in limits],
        agent_of(new.owner),
        [new.trace_context] if new.trace_context else None,
    )
    if row is None:  # busy, maybe with this very task
        if await connection.fetchrow(OWNS, new.task_id, new.owner) is not None:
            return new.task_id
        raise ContextBusy(new.context_id)
    await _hold_references(connection, new.owner, message)
    if new.policy is not Policy.INTERRUPT:
        return Submitted(row["created_at"], row["first"] and in_time(new))
    _, payload = dump_body(StatusChange(TaskState.CANCELED, metadata={"reason": "interrupted"}))
    rows = await connection.fetch(sql.INTERRUPT, new.owner, new.context_id, new.task_id, dumps(payload))
    gone = [row for row in rows if row["task_id"] is not None]
    return Submitted(
        row["created_at"],
        rows[0]["free"] and in_time(new),
        [Notice(row["task_id"], row["last_seq"], TaskState.CANCELED) for row in gone],
    )


def in_time(new: NewTask) -> bool:
    """Whether it is due at once, and there is any time for it."""
    return not new.delay and 0.0 not in (new.expires, new.deadline)


# ---------------------------------------------------------------------- a message to a task


def append(
    owner: str,
    task_id: UUID,
    message: Message,
    context_id: str,
    key: IdempotencyKey | None,
    trace_context: str,
) -> Work[Appended | UUID]:
    """Store a message to a task; `context_id` is the one that its sender named, or empty.

    `TaskNotFound`, `InvalidParams`, `UnsupportedOperation`, `KeyReused`.
    """

    async def work(connection: Any, again: bool) -> Appended | UUID:
        if again and (kept := await _kept_before(connection, owner, task_id, message)):
            return kept
        asked = (connection, owner, task_id, message, context_id, trace_context)
        if key is None and not message.reference_task_ids:  # one statement
            return await _append(*asked)
        if key is None:
            async with connection.transaction():
                return await _append(*asked)
        return await _once(connection, owner, task_id, key, lambda: _append(*asked))

    return work


async def _kept_before(connection: Any, owner: str, task_id: UUID, message: Message) -> Appended | None:
    """By the try whose end was lost: nobody knows whether it rang."""
    dispatch = await connection.fetchval(sql.CONTINUED, task_id, owner, message.message_id)
    return None if dispatch is None else Appended(dispatch, due=True)


async def _append(
    connection: Any, owner: str, task_id: UUID, message: Message, context_id: str, trace_context: str
) -> Appended:
    row: Row | None = await connection.fetchrow(
        sql.CONTINUE, task_id, owner, context_id, message_json(message), trace_context or None
    )
    if row is None:
        raise TaskNotFound(task_id)
    if not row["kept"]:
        _refuse(row, context_id)
    await _hold_references(connection, owner, message)
    return Appended(row["dispatch"], row["first"])


def _refuse(row: Row, context_id: str) -> NoReturn:
    if context_id not in ("", row["context_id"]):
        raise InvalidParams("message.contextId", f"the task belongs to the context {row['context_id']}")
    raise UnsupportedOperation(f"the task is {row['before']} and takes no more messages")


# ---------------------------------------------------------------------- references

# $1 task_ids, $2 owner
REFERENCES = """
SELECT FROM tasks WHERE task_id = ANY ($1) AND owner = $2 ORDER BY task_id FOR KEY SHARE
"""


async def _hold_references(connection: Any, owner: str, message: Message) -> None:
    """In the transaction that stores the message: the tasks that it refers to are not deleted before that is committed, and then
    retention sees the message. One that is being deleted is waited for."""
    if message.reference_task_ids:
        found = (parse_task_id(reference) for reference in message.reference_task_ids)
        await connection.fetch(REFERENCES, [task_id for task_id in found if task_id], owner)


# ---------------------------------------------------------------------- idempotency keys


async def _once(
    connection: Any, owner: str, task_id: UUID, key: IdempotencyKey, write: Callable[[], Awaitable[T]]
) -> T | UUID:
    """Write in one transaction with the key; or the task that the key stands for. `KeyReused`."""
    try:
        async with connection.transaction():
            if not await connection.fetchval(sql.TAKE_KEY, owner, key.key, key.fingerprint, task_id):
                raise _Taken
            return await write()
    except _Taken:
        row = await connection.fetchrow(sql.TAKEN_KEY, owner, key.key)
    if row is None:  # it was given back in between
        raise asyncpg.SerializationError("the idempotency key was released")
    if row["fingerprint"] != key.fingerprint:
        raise KeyReused(key.key)
    found: UUID = row["task_id"]
    return found


class _Taken(Exception):
    """The key is taken: whatever was begun is undone."""
