"""Whether it stays as quick: a task that grows, a list of a million tasks, a hundred thousand tasks in memory's sight."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg
import orjson

from perdure.ids import new_task_id, new_token
from perdure.local import LocalServices
from perdure.settings import StorageSettings
from perdure.storage import TOTAL_CAP, NewTask
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres.reads import COUNT, LIST
from perdure.stored.payload import dump_message
from perdure.tasks import ANONYMOUS, Message, Role, TextPart

from .dialects import V1
from .load import flood
from .ours import migrated_database, new_database, stack
from .results import percentile


@dataclass(frozen=True)
class Append:
    """What one more message of 1 KiB takes when so many are there."""

    messages: int
    milliseconds: float
    wal_bytes: float


async def appends(services: LocalServices, sizes: Sequence[int], *, times: int = 50) -> list[Append]:
    """Messages of an agent to its task, as a turn writes them."""
    url = await new_database(services)
    storage = PostgresStorage(url, settings=StorageSettings())
    await storage.open()
    connection = await asyncpg.connect(url)
    try:
        task_id = new_task_id()
        message = Message(parts=(TextPart("hello"),), role=Role.USER)
        await storage.submit_task(NewTask(task_id=task_id, owner=ANONYMOUS, context_id="c", message=message))
        turn = await storage.claim_task("bench", new_token(), lease=3600, history=1)
        assert turn is not None
        there, write_no, found = 1, 0, []
        for size in sizes:
            while there < size:
                some = min(500, size - there)
                write_no += 1
                await storage.update_task(turn.claim, write_no, new_messages=[_said() for _ in range(some)])
                there += some
            took, before = [], await connection.fetchval("SELECT pg_current_wal_insert_lsn()")
            for _ in range(times):
                write_no += 1
                begin = time.monotonic()
                await storage.update_task(turn.claim, write_no, new_messages=[_said()])
                took.append(1000 * (time.monotonic() - begin))
            there += times
            wal = await connection.fetchval("SELECT pg_current_wal_insert_lsn() - $1::pg_lsn", before)
            found.append(Append(size, percentile(took, 0.5), float(wal) / times))
        return found
    finally:
        await connection.close()
        await storage.close()


def _said() -> Message:
    return Message(parts=(TextPart("x" * 1024),), role=Role.AGENT)


_FILL = """
INSERT INTO contexts (owner, context_id, last_position) SELECT $1, 'c' || n, 1 FROM generate_series(1, $2::integer) n;
INSERT INTO tasks (task_id, owner, context_id, position, state, last_seq, message_seq, status_timestamp)
SELECT gen_random_uuid(), $1, 'c' || n, 1, 'completed', 1, 1, clock_timestamp() - n * interval '1 ms'
FROM generate_series(1, $2::integer) n;
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
SELECT task_id, 1, 1, 'message', 0, $3::jsonb FROM tasks
"""


@dataclass(frozen=True)
class Pages:
    """Milliseconds in Postgres, the round trip included: the first page, a far one, and the total up to its cap."""

    first: float
    far: float
    total: float


async def pages(services: LocalServices, tasks: int, *, page: int = 1000, times: int = 50) -> Pages:
    """Pages of 50 tasks, newest first, among so many of one owner."""
    url = await migrated_database(services)
    connection = await asyncpg.connect(url)
    try:
        message = dump_message(Message(parts=(TextPart("hello"),), role=Role.USER))
        given = (ANONYMOUS, tasks, orjson.dumps(message).decode())
        for statement, number in zip(_FILL.split(";"), (2, 2, 3), strict=True):
            arguments = given[:number] if number == 2 else given[2:]
            await connection.execute(statement.replace("$3", "$1"), *arguments, timeout=280)
        for table in ("contexts", "tasks", "task_events"):
            await connection.execute(f"VACUUM ANALYZE {table}", timeout=280)
        place = await connection.fetchrow(_PLACE, ANONYMOUS, 50 * (page - 1))
        assert place is not None
        first = LIST.replace("{where}", "")
        far = LIST.replace("{where}", " AND (t.status_timestamp, t.task_id) < ($5::timestamptz, $6::uuid)")
        asked = (ANONYMOUS, 51, None, False)
        return Pages(
            first=await _took(connection, times, first, *asked),
            far=await _took(connection, times, far, *asked, *place),
            total=await _took(connection, times, COUNT.replace("{where}", ""), ANONYMOUS, TOTAL_CAP),
        )
    finally:
        await connection.close()


_PLACE = """
SELECT status_timestamp, task_id FROM tasks WHERE owner = $1
ORDER BY status_timestamp DESC, task_id DESC OFFSET $2 LIMIT 1
"""


async def _took(
    connection: asyncpg.Connection[asyncpg.Record], times: int, statement: str, *given: object
) -> float:
    prepared = await connection.prepare(statement)
    took = []
    for _ in range(times):
        begin = time.monotonic()
        await prepared.fetch(*given)
        took.append(1000 * (time.monotonic() - begin))
    return percentile(took, 0.5)


async def memory(services: LocalServices, sizes: Sequence[int]) -> list[tuple[int, float, float]]:
    """MB of front door and worker after so many tasks in all went through them."""
    found, done = [], 0
    async with stack(services) as made:
        with made.front_door() as (door, url), made.worker() as worker:
            for size in sizes:
                await flood(url, V1, clients=64, tasks=size - done)
                done = size
                found.append((size, door.memory(), worker.memory()))
    return found
