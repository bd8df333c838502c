"""Retention in Postgres.

A batch is one transaction. Its tasks are locked first (SKIP LOCKED, FOR UPDATE: nothing may be added to them), then their
webhooks' lines; whether they may go is asked in a new statement, which sees what was committed before the locks. A send that
refers to a task locks it in the same transaction (`sends`): either it has committed and is seen here, or it waits and finds the
task gone. Conversations are locked last, for two statements, never waited for: this is outside of the order in which
everybody else locks (contexts before tasks), and cannot close a circle since nothing is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from perdure.errors import TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.restoring import record_of, restore
from perdure.storage.postgres.statements import TERMINAL, all_of
from perdure.storage.retention import FIRST, WINDOW, Archive, EndedTask, EndedTasks, Pruned, TaskRecord
from perdure.tasks import TaskState

# When a task ended, or was put back by `perdure import`, which counts as its last ring (see `restoring`): nobody puts a task
# back to have it deleted at the next look.
ENDED_AT = "GREATEST(t.status_timestamp, t.dispatched_at)"

# $1 after, $2 how many, $3 seconds
ENDED = f"""
SELECT t.task_id, t.state, t.last_seq AS events, t.trimmed,
       extract(epoch FROM clock_timestamp() - {ENDED_AT})::float8 AS ago,
       t.created_at <= clock_timestamp() - make_interval(secs => $3) AS old,
       t.state IN {TERMINAL} AND t.lease_token IS NULL
           AND {ENDED_AT} <= clock_timestamp() - make_interval(secs => $3) AS ended
  FROM (SELECT * FROM tasks WHERE task_id > $1 ORDER BY task_id LIMIT $2) t ORDER BY t.task_id
"""

# $1 task_ids, $2 states, $3 seconds
LOCK = f"""
SELECT t.task_id FROM tasks t JOIN unnest($2::text[], $3::float8[]) AS a(state, age) ON a.state = t.state
 WHERE t.task_id = ANY ($1) AND t.state IN {TERMINAL} AND t.lease_token IS NULL
   AND {ENDED_AT} <= clock_timestamp() - make_interval(secs => a.age)
 ORDER BY t.task_id FOR UPDATE OF t SKIP LOCKED
"""
# $1 task_ids
LOCK_WEBHOOKS = """
SELECT task_id FROM webhook_configs WHERE task_id = ANY ($1) ORDER BY task_id, config_id FOR UPDATE SKIP LOCKED
"""
_FREE = """NOT EXISTS (SELECT FROM idempotency_keys k WHERE k.task_id = t.task_id)
   AND NOT EXISTS (SELECT FROM webhook_deliveries d JOIN webhook_configs c ON c.task_id = d.task_id AND c.config_id = d.config_id
                    WHERE d.task_id = t.task_id AND d.state = 'waiting' AND c.disabled IS NULL)"""
# $1 task_ids, $2 the task ids of the webhooks that could be locked
FREE = f"""
SELECT t.task_id FROM tasks t
 WHERE t.task_id = ANY ($1) AND {_FREE}
   AND (SELECT count(*) FROM webhook_configs c WHERE c.task_id = t.task_id)
       = (SELECT count(*) FROM unnest($2::uuid[]) AS held(task_id) WHERE held.task_id = t.task_id)
 ORDER BY t.task_id
"""
# $1 task_ids: what messages of tasks that have not ended refer to, of the same owners
REFERENCED = f"""
SELECT DISTINCT r.reference
  FROM (SELECT DISTINCT owner FROM tasks WHERE task_id = ANY ($1)) w
 CROSS JOIN unnest(ARRAY['submitted', 'working', 'input-required', 'auth-required']) AS open(state)
  JOIN tasks o ON {all_of("w.owner", "o")} AND o.state = open.state
  JOIN task_events e ON e.task_id = o.task_id AND e.kind = 'message' AND e.payload ? 'referenceTaskIds'
 CROSS JOIN LATERAL jsonb_array_elements_text(e.payload -> 'referenceTaskIds') AS r(reference)
"""
DELETE = "DELETE FROM tasks WHERE task_id = ANY ($1) RETURNING task_id, owner, context_id, state"
# $1 owners, $2 context_ids
LOCK_CONTEXTS = """
SELECT owner, context_id FROM contexts
 WHERE (owner, context_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
   AND waiting = 0 AND running_task IS NULL AND metadata = '{}'
 ORDER BY owner, context_id FOR UPDATE SKIP LOCKED
"""
# The same: in a new statement, which sees what was added before they were locked.
DELETE_CONTEXTS = """
DELETE FROM contexts c
 WHERE (c.owner, c.context_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))
   AND NOT EXISTS (SELECT FROM tasks t WHERE t.owner = c.owner AND t.context_id = c.context_id)
   AND NOT EXISTS (SELECT FROM context_messages m WHERE m.owner = c.owner AND m.context_id = c.context_id)
RETURNING true
"""

# $1 task_ids. Roughly: what is stored out of line counts as it is stored, indexes not at all.
WEIGH = f"""
SELECT t.task_id, pg_column_size(t.*) + coalesce(
           (SELECT sum(pg_column_size(e.*)) FROM task_events e WHERE e.task_id = t.task_id), 0) AS bytes
  FROM tasks t WHERE t.task_id = ANY ($1) AND t.lease_token IS NULL AND t.state IN {TERMINAL} AND {_FREE}
"""

# $1 task_ids, $2 seconds. What `needed` says, and each event that stays begins where the one before it ends.
TRIM = f"""
WITH held AS (
        SELECT t.task_id, t.lost_attempts, t.status_seq FROM tasks t
         WHERE t.task_id = ANY ($1) AND NOT t.trimmed AND t.state IN {TERMINAL} AND t.lease_token IS NULL
           AND {ENDED_AT} <= clock_timestamp() - make_interval(secs => $2)
           AND NOT EXISTS (SELECT FROM webhook_deliveries d WHERE d.task_id = t.task_id)
         ORDER BY t.task_id FOR NO KEY UPDATE SKIP LOCKED),
    log AS (
        SELECT e.task_id, e.seq, e.attempt <> ALL (held.lost_attempts)
               AND (e.kind <> 'status' OR e.seq = held.status_seq OR e.payload #> '{{status,message}}' IS NOT NULL) AS needed
          FROM held JOIN task_events e ON e.task_id = held.task_id),
    gone AS (
        DELETE FROM task_events e USING log WHERE e.task_id = log.task_id AND e.seq = log.seq AND NOT log.needed),
    ranges AS (
        SELECT task_id, seq, coalesce(lag(seq) OVER (PARTITION BY task_id ORDER BY seq), 0) + 1 AS first_seq
          FROM log WHERE needed),
    stretched AS (
        UPDATE task_events e SET first_seq = ranges.first_seq FROM ranges
         WHERE e.task_id = ranges.task_id AND e.seq = ranges.seq AND e.first_seq <> ranges.first_seq)
UPDATE tasks t SET trimmed = true FROM held WHERE t.task_id = held.task_id RETURNING t.task_id
"""

# $1 seconds, $2 limit
FORGET_ACTIONS = """
DELETE FROM operator_actions WHERE action_id IN (
    SELECT action_id FROM operator_actions WHERE created_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY action_id LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING true
"""

# $1 token, $2 lease in seconds, $3 pause in seconds
BEGIN = """
INSERT INTO retention_runs AS r (name, token, lease_until)
VALUES ('tasks', $1, clock_timestamp() + make_interval(secs => $2))
ON CONFLICT (name) DO UPDATE SET token = excluded.token, lease_until = excluded.lease_until
 WHERE (r.lease_until IS NULL OR r.lease_until <= clock_timestamp())
   AND (r.place IS NOT NULL OR r.ended_at IS NULL OR r.ended_at <= clock_timestamp() - make_interval(secs => $3))
RETURNING place
"""
# $1 token, $2 place or null, $3 lease in seconds
GO_ON = """
UPDATE retention_runs
   SET place = $2, lease_until = CASE WHEN $2::uuid IS NOT NULL THEN clock_timestamp() + make_interval(secs => $3) END,
       ended_at = CASE WHEN $2::uuid IS NULL THEN clock_timestamp() ELSE ended_at END
 WHERE token = $1 AND lease_until > clock_timestamp()
RETURNING true
"""
AGE = "SELECT extract(epoch FROM clock_timestamp() - ended_at)::float8 AS age FROM retention_runs"


class Retention(Statements):
    """See the port."""

    async def ended_tasks(
        self, *, older_than: float, after: UUID = FIRST, window: int = WINDOW
    ) -> EndedTasks:
        rows = await self._rows(ENDED, after, window, older_than)
        tasks = [
            EndedTask(row["task_id"], TaskState(row["state"]), row["ago"], row["events"], row["trimmed"])
            for row in rows
            if row["ended"]
        ]
        more = len(rows) == window and rows[-1]["old"]
        return EndedTasks(tasks, rows[-1]["task_id"] if more else None, len(rows))

    async def weigh_tasks(self, task_ids: Sequence[UUID]) -> Mapping[UUID, int]:
        async def weigh(connection: Any, again: bool) -> Mapping[UUID, int]:
            kept = await _referenced(connection, task_ids)
            rows = await connection.fetch(WEIGH, list(task_ids))
            return {row["task_id"]: int(row["bytes"]) for row in rows if row["task_id"] not in kept}

        return await self._workers_database.run(weigh)

    async def prune_tasks(
        self,
        task_ids: Sequence[UUID],
        ages: Mapping[TaskState, float],
        *,
        archive: Archive | None = None,
        seconds: float = 1.0,
    ) -> Pruned:
        async def prune(connection: Any, again: bool) -> Pruned:
            async with connection.transaction():
                free = await _locked(connection, task_ids, ages)
                going = free if archive is None else await _archived(connection, free, archive, seconds)
                rows = await connection.fetch(DELETE, going) if going else []
                contexts = await _without_tasks(
                    connection, {(row["owner"], row["context_id"]) for row in rows}
                )
            tasks = {row["task_id"]: TaskState(row["state"]) for row in rows}
            return Pruned(tasks, contexts, tuple(free[len(going) :]))

        return await self._workers_database.run(prune)

    async def trim_tasks(self, task_ids: Sequence[UUID], *, ended_for: float) -> int:
        return len(await self._rows(TRIM, list(task_ids), ended_for))

    async def task_record(self, task_id: UUID) -> TaskRecord:
        async def read(connection: Any, again: bool) -> TaskRecord | None:
            return await record_of(connection, task_id)

        record = await self._workers_database.run(read)
        if record is None:
            raise TaskNotFound(task_id)
        return record

    async def restore_task(self, record: TaskRecord) -> bool:
        if not record.task.state.terminal:
            raise ValueError(f"the task is {record.task.state}: only tasks that have ended are put back")

        async def put_back(connection: Any, again: bool) -> bool:
            try:
                async with connection.transaction():
                    return await restore(connection, record) or again
            except asyncpg.UniqueViolationError:  # somebody else has done it meanwhile
                return False
            except asyncpg.IntegrityConstraintViolationError as error:
                raise ValueError(f"the database does not take it: {error}") from None

        return await self._workers_database.run(put_back)

    async def forget_actions(self, *, older_than: float, limit: int = 1000) -> int:
        return len(await self._rows(FORGET_ACTIONS, older_than, limit))

    async def begin_retention(self, token: UUID, *, every: float, lease: float) -> UUID | None:
        row = await self._row(BEGIN, token, lease, every)
        return None if row is None else row["place"] or FIRST

    async def go_on_with_retention(self, token: UUID, place: UUID | None, *, lease: float) -> bool:
        return await self._row(GO_ON, token, place, lease) is not None

    async def retention_age(self) -> float | None:
        row = await self._row(AGE)
        return row["age"] if row else None


async def _locked(
    connection: Any, task_ids: Sequence[UUID], ages: Mapping[TaskState, float]
) -> Sequence[UUID]:
    """Those that may go; nobody can change that before the transaction ends."""
    states = [state.value for state in ages]
    rows = await connection.fetch(LOCK, list(task_ids), states, list(ages.values()))
    held = [row["task_id"] for row in rows]
    lines = [row["task_id"] for row in await connection.fetch(LOCK_WEBHOOKS, held)]
    kept = await _referenced(connection, held)
    rows = await connection.fetch(FREE, held, lines)
    return [row["task_id"] for row in rows if row["task_id"] not in kept]


async def _referenced(connection: Any, task_ids: Sequence[UUID]) -> set[UUID | None]:
    rows = await connection.fetch(REFERENCED, list(task_ids))
    return {parse_task_id(row["reference"]) for row in rows}


async def _archived(
    connection: Any, task_ids: Sequence[UUID], archive: Archive, seconds: float
) -> Sequence[UUID]:
    until, done = time.monotonic() + seconds, []
    for task_id in task_ids:
        record = await record_of(connection, task_id)
        assert record is not None  # noqa: S101 - it is locked
        await archive.add(record)
        done.append(task_id)
        if time.monotonic() > until:
            break
    if done:
        await archive.sync()
    return done


async def _without_tasks(connection: Any, contexts: set[tuple[str, str]]) -> int:
    """Delete those that hold nothing any more; how many."""
    if not contexts:
        return 0
    rows = await connection.fetch(LOCK_CONTEXTS, *_columns(contexts))
    if not rows:
        return 0
    gone = await connection.fetch(
        DELETE_CONTEXTS, *_columns({(row["owner"], row["context_id"]) for row in rows})
    )
    return len(gone)


def _columns(contexts: set[tuple[str, str]]) -> tuple[list[str], list[str]]:
    ordered = sorted(contexts)
    return [owner for owner, _ in ordered], [context_id for _, context_id in ordered]
