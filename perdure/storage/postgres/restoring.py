"""A task and all that belongs to it, read from Postgres and put back: each on a connection whose transaction is the caller's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from perdure.owners import agent_of
from perdure.storage.operators import Failure
from perdure.storage.postgres.belongings import LOAD_FEEDBACK
from perdure.storage.postgres.records import dumps, event_of, feedback_of, message_json, task_of
from perdure.storage.postgres.statements import TASK
from perdure.storage.postgres.webhook_statements import DELIVERIES
from perdure.storage.postgres.webhooks import attempt_of, delivery_of
from perdure.storage.retention import OLDER_PLACES, TaskRecord
from perdure.storage.views import task_artifacts, task_history
from perdure.stored.payload import dump_body
from perdure.tasks import Event, StatusChange, TaskState

# $1 task_id
_TASK = f"""
SELECT {TASK}, t.position, t.status_seq, t.lost_attempts, t.priority, t.parallel, t.streamed, t.trimmed, t.trace_contexts,
       NULL::text[] AS kinds, NULL::jsonb[] AS payloads,
       (SELECT coalesce(jsonb_object_agg(l.limit_key, l.max_running), '{{}}') FROM concurrency_limits l
         WHERE l.limit_key = ANY (t.limit_keys)) AS limits
  FROM tasks t WHERE t.task_id = $1
"""
# $1 task_id, $2 the last seq: what came since the row was read is left out
_EVENTS = """
SELECT task_id, seq, first_seq, kind, attempt, payload, created_at, worker FROM task_events
 WHERE task_id = $1 AND seq <= $2 ORDER BY seq
"""
_FAILURES = "SELECT * FROM task_failures WHERE task_id = $1 ORDER BY attempt"
_ATTEMPTS = """
SELECT a.* FROM webhook_attempts a JOIN webhook_deliveries d ON d.delivery_id = a.delivery_id
 WHERE d.task_id = $1 ORDER BY a.delivery_id, a.attempt
"""
_MANY = 1_000_000
_DELIVERIES = DELIVERIES.replace("{where}", "AND d.task_id = $4")

# $1 owner, $2 context_id, $3 position, $4 created_at, $5 updated_at. A conversation that has begun anew meanwhile has
# younger entries at places such as this task's: then this one goes before them all.
_PLACE = f"""
WITH place AS (
        SELECT CASE WHEN EXISTS (SELECT FROM tasks t WHERE t.owner = $1 AND t.context_id = $2
                                    AND ((t.position <= $3 AND t.created_at > $4) OR t.position = $3))
                      OR EXISTS (SELECT FROM context_messages m WHERE m.owner = $1 AND m.context_id = $2
                                    AND ((m.position <= $3 AND m.created_at > $4) OR m.position = $3))
                    THEN $3 - {OLDER_PLACES} ELSE $3 END::bigint AS position)
INSERT INTO contexts AS c (owner, context_id, last_position, created_at, updated_at)
SELECT $1, $2, greatest(place.position, 0), $4, $5 FROM place
ON CONFLICT (owner, context_id) DO UPDATE
   SET last_position = greatest(c.last_position, excluded.last_position),
       created_at = least(c.created_at, excluded.created_at), updated_at = greatest(c.updated_at, excluded.updated_at)
RETURNING (SELECT position FROM place)
"""
# $1 names, $2 numbers
_LIMITS = """
INSERT INTO concurrency_limits (limit_key, max_running) SELECT * FROM unnest($1::text[], $2::int[]) ORDER BY 1
ON CONFLICT DO NOTHING
"""
_RESTORE = """
INSERT INTO tasks (task_id, owner, context_id, position, state, status_message, status_timestamp, status_seq, metadata, attempt,
                   lost_attempts, failures, crashes, last_seq, priority, parallel, limit_keys, streamed, trimmed,
                   trace_contexts, agent, due_at, dispatched_at, created_at, updated_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
        clock_timestamp(), $22, $23)
"""
_RESTORE_EVENT = """
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at, worker)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""
_RESTORE_FEEDBACK = """
INSERT INTO task_feedback (feedback_id, task_id, feedback, rating, metadata, created_at) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT DO NOTHING
"""
_RESTORE_FAILURE = """
INSERT INTO task_failures (task_id, attempt, fingerprint, error_class, message, traceback, worker, created_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, coalesce($8, clock_timestamp()))
"""


# ---------------------------------------------------------------------- reading


async def record_of(connection: Any, task_id: UUID) -> TaskRecord | None:
    """All of a task, or None."""
    row = await connection.fetchrow(_TASK, task_id)
    if row is None:
        return None
    rows = await connection.fetch(_EVENTS, task_id, row["last_seq"])
    events = [event_of(each) for each in rows]
    bare, lost = task_of(row), list(row["lost_attempts"])
    history = task_history(events, lost, row["status_seq"])
    attempts = await connection.fetch(_ATTEMPTS, task_id)
    deliveries = await connection.fetch(_DELIVERIES, _MANY, None, None, task_id)
    return TaskRecord(
        task=replace(bare, history=tuple(history), artifacts=task_artifacts(events, lost)),
        position=row["position"],
        status_seq=row["status_seq"],
        events=events,
        lost_attempts=lost,
        workers={each["attempt"]: each["worker"] for each in rows if each["worker"] is not None},
        priority=row["priority"],
        parallel=row["parallel"],
        limits=orjson.loads(row["limits"]),
        streamed=row["streamed"],
        trimmed=row["trimmed"],
        trace_contexts=tuple(row["trace_contexts"] or ()),
        feedback=[feedback_of(each) for each in await connection.fetch(LOAD_FEEDBACK, task_id, row["owner"])],
        failures=[Failure(**each) for each in await connection.fetch(_FAILURES, task_id)],
        deliveries=[
            (
                delivery_of(each),
                [attempt_of(one) for one in attempts if one["delivery_id"] == each["delivery_id"]],
            )
            for each in reversed(deliveries)
        ],
    )


# ---------------------------------------------------------------------- putting back


async def restore(connection: Any, record: TaskRecord) -> bool:
    """Whether it was not there. UniqueViolationError when somebody else puts it back at this moment."""
    task = record.task
    if await connection.fetchrow("SELECT FROM tasks WHERE task_id = $1", task.task_id) is not None:
        return False
    place = await connection.fetchval(
        _PLACE, task.owner, task.context_id, record.position, task.created_at, task.updated_at
    )
    limits = dict(sorted(record.limits.items()))
    if limits:
        await connection.execute(_LIMITS, list(limits), list(limits.values()))
    await connection.execute(
        _RESTORE,
        *(task.task_id, task.owner, task.context_id, place, task.state.value),
        *(message_json(task.status_message), task.status_timestamp, record.status_seq),
        *(dumps(dict(task.metadata)), task.attempt, list(record.lost_attempts), task.failures, task.crashes),
        *(task.last_seq, record.priority, record.parallel, list(limits), record.streamed, record.trimmed),
        *(list(record.trace_contexts) or None, agent_of(task.owner), task.created_at, task.updated_at),
    )
    await connection.executemany(_RESTORE_EVENT, _events(record.events, dict(record.workers)))
    for said in record.feedback:
        kept = (said.feedback_id, said.task_id, said.text, said.rating, dumps(dict(said.metadata)))
        await connection.execute(_RESTORE_FEEDBACK, *kept, said.created_at)
    for failure in record.failures:
        told = (failure.error_class, failure.message, failure.traceback, failure.worker, failure.created_at)
        await connection.execute(
            _RESTORE_FAILURE, failure.task_id, failure.attempt, failure.fingerprint, *told
        )
    return True


def _events(events: Sequence[Event], workers: dict[int, str]) -> list[tuple[Any, ...]]:
    """As rows; the first status at work of an attempt says who claimed it."""
    rows = []
    for event in events:
        kind, payload = dump_body(event.body)
        claim = isinstance(event.body, StatusChange) and event.body.state is TaskState.WORKING
        worker = workers.pop(event.attempt, None) if claim else None
        place = (event.task_id, event.seq, event.first_seq)
        rows.append((*place, kind, event.attempt, dumps(payload), event.time, worker))
    return rows
