"""The statements of callers about a task: submit, continue, cancel. How they keep the promises: see `statements`."""

from __future__ import annotations

from perdure.storage import TRACED
from perdure.storage.postgres.statements import INTERRUPTED, NEXT, TERMINAL, in_line, rank, seen

_SUBMITTED = """jsonb_build_object('status', jsonb_build_object('state', 'TASK_STATE_SUBMITTED'))"""

# $1 task_id, $2 owner, $3 context_id, $4 metadata, $5 message, $6 policy, $7 priority, $8 delay in seconds, $9 expires in
# seconds or null, $10 deadline in seconds or null, $11 limit keys, $12 their limits, $13 agent, $14 trace contexts or null.
# No row: the policy is to reject, and the context is busy. `known` holds its limits until the task is there (see `limits`).
SUBMIT = f"""
WITH place AS (
        INSERT INTO contexts AS c (owner, context_id, last_position, waiting) VALUES ($2, $3, 1, ($6 <> 'parallel')::int)
        ON CONFLICT (owner, context_id) DO UPDATE
           SET last_position = c.last_position + 1, waiting = c.waiting + ($6 <> 'parallel')::int,
               updated_at = clock_timestamp()
         WHERE $6 <> 'reject' OR (c.running_task IS NULL AND c.waiting = 0)
        RETURNING last_position, waiting, running_task, updated_at AS now),
    known AS (
        SELECT l.limit_key FROM place, unnest($11::text[], $12::int[]) AS asked(key, max)
          JOIN concurrency_limits l ON l.limit_key = asked.key AND l.max_running = asked.max
         ORDER BY l.limit_key FOR KEY SHARE OF l),
    limits AS (
        INSERT INTO concurrency_limits AS l (limit_key, max_running)
        SELECT key, max FROM place, unnest($11::text[], $12::int[]) AS asked(key, max)
         WHERE NOT EXISTS (SELECT FROM known WHERE known.limit_key = key)
         ORDER BY key
        ON CONFLICT (limit_key) DO UPDATE SET max_running = excluded.max_running),
    task AS (
        INSERT INTO tasks (task_id, owner, context_id, position, metadata, last_seq, message_seq, dispatch,
                           due_at, dispatched_at, status_timestamp, created_at, updated_at,
                           priority, rank, parallel, limit_keys, expires_at, deadline_at, agent, trace_contexts)
        SELECT $1, $2, $3, place.last_position, $4, 1, 1, 1, now + make_interval(secs => $8), now, now, now, now,
               $7, {rank("$2", "$7", "$13::text")}, $6 = 'parallel', $11,
               now + make_interval(secs => $9), now + make_interval(secs => $10), $13, $14
          FROM place
        RETURNING task_id, created_at),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, 1, 1, 'message', 0, $5::jsonb, created_at FROM task)
SELECT task.created_at,
       $8 = 0 AND ($6 = 'parallel' OR (place.waiting = 1 AND place.running_task IS NULL)) AS first FROM task, place
"""

# $1 owner, $2 context_id, $3 task_id, $4 status payload: cancel all that runs or waits in the context but this one, in the
# transaction of SUBMIT, which holds the context's lock
INTERRUPT = """
WITH others AS (
        SELECT t.task_id, t.state = 'submitted' AS waited, clock_timestamp() AS now FROM tasks t
         WHERE t.owner = $1 AND t.context_id = $2 AND t.task_id <> $3 AND t.state IN ('submitted', 'working') AND NOT t.parallel
         ORDER BY t.task_id FOR NO KEY UPDATE),
    changed AS (
        UPDATE tasks t
           SET state = 'canceled', last_seq = t.last_seq + 1, status_seq = t.last_seq + 1, status_message = NULL,
               status_timestamp = others.now, updated_at = others.now
          FROM others WHERE t.task_id = others.task_id
        RETURNING t.task_id, t.last_seq, t.updated_at, others.waited),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0, $4::jsonb, updated_at FROM changed),
    waits AS (
        UPDATE contexts c SET waiting = c.waiting - (SELECT count(*) FROM changed WHERE waited)
         WHERE c.owner = $1 AND c.context_id = $2
        RETURNING c.running_task)
SELECT changed.task_id, changed.last_seq, waits.running_task IS NULL AS free FROM waits LEFT JOIN changed ON true
"""

# $1 owner, $2 key, $3 fingerprint, $4 task_id: no row when the key is taken; waits while another transaction takes it
TAKE_KEY = """
INSERT INTO idempotency_keys (owner, key, fingerprint, task_id) VALUES ($1, $2, $3, $4)
ON CONFLICT (owner, key) DO NOTHING RETURNING true
"""
# In a new statement, which sees what the other transaction wrote
TAKEN_KEY = "SELECT fingerprint, task_id FROM idempotency_keys WHERE owner = $1 AND key = $2"

# $1 task_id, $2 owner, $3 context_id or '', $4 message (its context is put in here), $5 trace context or null
CONTINUE = f"""
WITH line AS (
        SELECT c.owner, c.context_id, c.running_task, c.waiting FROM contexts c
         WHERE (c.owner, c.context_id) = (SELECT t.owner, t.context_id FROM tasks t WHERE t.task_id = $1 AND t.owner = $2)
           FOR NO KEY UPDATE),
    task AS (
        SELECT t.task_id, t.context_id, t.state, t.lease_holder, t.lease_token, t.lease_until,
               t.state IN {INTERRUPTED} AS wakes, line.running_task, line.waiting,
               clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
         WHERE t.task_id = $1 AND t.owner = $2
           FOR NO KEY UPDATE OF t),
    changed AS (
        UPDATE tasks t
           SET state = CASE WHEN task.wakes THEN 'submitted' ELSE task.state END,
               lease_holder = task.lease_holder, lease_token = task.lease_token, lease_until = task.lease_until,
               message_seq = t.last_seq + 1,
               last_seq = t.last_seq + 1 + task.wakes::int,
               status_seq = CASE WHEN task.wakes THEN t.last_seq + 2 ELSE t.status_seq END,
               status_message = CASE WHEN task.wakes THEN NULL ELSE t.status_message END,
               status_timestamp = CASE WHEN task.wakes THEN task.now ELSE t.status_timestamp END,
               due_at = CASE WHEN task.wakes THEN task.now ELSE t.due_at END,
               dispatch = t.dispatch + task.wakes::int,
               dispatched_at = CASE WHEN task.wakes THEN task.now ELSE t.dispatched_at END,
               trace_contexts = CASE WHEN $5::text IS NULL THEN t.trace_contexts
                   ELSE array_append(t.trace_contexts[greatest(cardinality(t.trace_contexts) - {TRACED - 2}, 1):], $5) END,
               updated_at = task.now
          FROM task
         WHERE t.task_id = task.task_id AND task.state NOT IN {TERMINAL} AND $3 IN ('', t.context_id)
        RETURNING t.*, task.wakes, task.waiting),
    events AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, message_seq, message_seq, 'message', 0, $4::jsonb || jsonb_build_object('contextId', context_id),
               updated_at
          FROM changed
        UNION ALL
        SELECT task_id, last_seq, last_seq, 'status', 0, {_SUBMITTED}, updated_at FROM changed WHERE wakes),
    waits AS (
        UPDATE contexts c
           SET waiting = changed.waiting + (changed.wakes AND NOT changed.parallel)::int, updated_at = clock_timestamp()
          FROM changed WHERE c.owner = changed.owner AND c.context_id = changed.context_id)
SELECT task.state AS before, task.context_id, changed.task_id IS NOT NULL AS kept,
       changed.wakes AND (changed.parallel OR task.running_task IS NULL) AS first, changed.dispatch
  FROM task LEFT JOIN changed ON true
"""

# $1 task_id, $2 owner, $3 message id: whether it is there (asked only after an unknown end of CONTINUE)
CONTINUED = """
SELECT t.dispatch FROM tasks t
 WHERE t.task_id = $1 AND t.owner = $2
   AND EXISTS (SELECT FROM task_events e WHERE e.task_id = t.task_id AND e.kind = 'message'
                                           AND e.payload ->> 'messageId' = $3)
"""

# $1 task_id, $2 owner, $3 status payload, $4 message or null
CANCEL = f"""
WITH line AS (
        SELECT c.owner, c.context_id, c.running_task, c.waiting FROM contexts c
         WHERE (c.owner, c.context_id) = (SELECT t.owner, t.context_id FROM tasks t WHERE t.task_id = $1 AND t.owner = $2)
           FOR NO KEY UPDATE),
    task AS (
        SELECT t.task_id, t.state, line.running_task, clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
         WHERE t.task_id = $1 AND t.owner = $2
           FOR NO KEY UPDATE OF t),
    changed AS (
        UPDATE tasks t
           SET state = 'canceled', last_seq = t.last_seq + 1, status_seq = t.last_seq + 1, status_message = $4::jsonb,
               status_timestamp = task.now, updated_at = task.now
          FROM task
         WHERE t.task_id = task.task_id AND task.state NOT IN {TERMINAL}
        RETURNING t.task_id, t.owner, t.context_id, t.position, t.last_seq, t.dispatch, t.updated_at,
                  task.state = 'submitted' AND NOT t.parallel AS waited),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0, $3::jsonb, updated_at FROM changed),
    waits AS (
        UPDATE contexts c SET waiting = line.waiting - changed.waited::int
          FROM changed, line WHERE c.owner = line.owner AND c.context_id = line.context_id
        RETURNING CASE WHEN c.running_task IS NULL THEN c.waiting ELSE 0 END AS waiting),
    freed AS (
        SELECT changed.* FROM changed, line
         WHERE line.running_task IS NULL AND waited
           AND (SELECT true FROM tasks e
                 WHERE e.owner = changed.owner AND e.context_id = changed.context_id
                   AND e.position < changed.position AND {in_line("e")} LIMIT 1) IS NULL),
    {NEXT}
SELECT task.state AS before, changed.task_id IS NOT NULL AS kept, changed.dispatch, waits.waiting,
       next.task_id AS next_id, next.dispatch AS next_dispatch, {seen("changed")} AS seen
  FROM task LEFT JOIN changed ON true LEFT JOIN waits ON true LEFT JOIN next ON true
"""
