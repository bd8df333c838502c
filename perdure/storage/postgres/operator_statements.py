"""The statements of operators, but for their search: see `operators`. Each look is bounded (see the port)."""

from __future__ import annotations

from perdure.storage.operators import HEAD, SHOWN_WHEN_LOST

_ENDED = "('completed', 'failed', 'canceled', 'rejected')"

# Each of them is in a small index of its own; only what has ended is not.
OPEN_COUNTS = """
SELECT 'submitted' AS state, count(*) AS tasks FROM tasks WHERE state = 'submitted' AND lease_token IS NULL
UNION ALL SELECT 'working', count(*) FROM tasks WHERE lease_token IS NOT NULL AND state = 'working'
UNION ALL SELECT state, count(*) FROM tasks WHERE state IN ('input-required', 'auth-required') GROUP BY state
"""
# The same of named agents: what waits for them has an index of its own.
OPEN_BY_AGENT = """
SELECT agent, 'submitted' AS state, count(*) AS tasks FROM tasks
 WHERE state = 'submitted' AND lease_token IS NULL AND agent <> '' GROUP BY agent
UNION ALL SELECT agent, 'working', count(*) FROM tasks
           WHERE lease_token IS NOT NULL AND state = 'working' AND agent <> '' GROUP BY agent
UNION ALL SELECT agent, state, count(*) FROM tasks
           WHERE state IN ('input-required', 'auth-required') AND agent <> '' GROUP BY agent, state
"""
# $1 how many
ENDED_COUNTS = f"""
SELECT state, count(*) AS tasks FROM (SELECT state FROM tasks ORDER BY task_id DESC LIMIT $1) t
 WHERE state IN {_ENDED} GROUP BY state
"""
_IN_LINE = "state = 'submitted' AND lease_token IS NULL AND due_at <= now()"
# Both ends of the line: the last of it are the ones that priorities leave waiting.
OLDEST_WAITING = f"""
SELECT extract(epoch FROM clock_timestamp() - min(t.due_at))::float8 AS oldest
  FROM ((SELECT owner, context_id, parallel, due_at FROM tasks WHERE {_IN_LINE}
          ORDER BY priority DESC, rank, due_at, task_id LIMIT 5000)
        UNION ALL
        (SELECT owner, context_id, parallel, due_at FROM tasks WHERE {_IN_LINE}
          ORDER BY priority, rank DESC, due_at DESC, task_id DESC LIMIT 5000)) t
  JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
 WHERE t.parallel OR c.running_task IS NULL
"""
# $1 the first id of the hour, $2 its beginning, $3 how many
MINUTES = """
SELECT date_trunc('minute', status_timestamp) AS minute,
       count(*) FILTER (WHERE state = 'completed') AS completed, count(*) FILTER (WHERE state = 'failed') AS failed
  FROM (SELECT state, status_timestamp FROM tasks WHERE task_id >= $1 ORDER BY task_id DESC LIMIT $3) t
 WHERE state IN ('completed', 'failed') AND status_timestamp >= $2
 GROUP BY 1 ORDER BY 1
"""
# $1 the first id of the hour, $2 how many
TIMES = f"""
SELECT percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY extract(epoch FROM e.first - t.created_at)) AS waits,
       percentile_cont(ARRAY[0.5, 0.95]) WITHIN GROUP (ORDER BY extract(epoch FROM t.status_timestamp - e.last)) AS runs
  FROM (SELECT task_id, created_at, status_timestamp FROM tasks
         WHERE task_id >= $1 AND state IN {_ENDED} ORDER BY task_id DESC LIMIT $2) t
 CROSS JOIN LATERAL (
       SELECT min(created_at) AS first, max(created_at) AS last FROM task_events
        WHERE task_id = t.task_id AND worker IS NOT NULL) e
 WHERE e.first IS NOT NULL
"""

LINE = f"""
SELECT t.task_id, t.context_id, t.owner, t.state, t.created_at, t.status_timestamp, t.due_at, t.attempt, t.failures, t.crashes,
       t.priority, t.parallel, t.lease_holder, t.lease_until, t.trace_contexts,
       (SELECT jsonb_object_agg(l.limit_key, l.max_running) FROM concurrency_limits l
         WHERE l.limit_key = ANY (t.limit_keys)) AS limits,
       (SELECT left(string_agg(p ->> 'text', ' '), {HEAD}) FROM task_events e, jsonb_array_elements(e.payload -> 'parts') p
         WHERE e.task_id = t.task_id AND e.seq = 1) AS text,
       (SELECT left(f.error_class || ': ' || f.message, {HEAD}) FROM task_failures f WHERE f.task_id = t.task_id
         ORDER BY f.attempt DESC LIMIT 1) AS error
  FROM"""
TASK_LINE = f"{LINE} tasks t WHERE t.task_id = $1"
CONTEXT_LINE = f"""
SELECT * FROM ({LINE.replace("SELECT t.task_id", "SELECT t.position, t.task_id", 1)} tasks t
 WHERE t.owner = $1 AND t.context_id = $2 ORDER BY t.position DESC LIMIT $3) t ORDER BY t.position
"""
# $1 how many tasks, $2 how many contexts
NEWEST_CONTEXTS = """
SELECT t.owner, t.context_id, t.newest, c.waiting, c.running_task
  FROM (SELECT owner, context_id, max(created_at) AS newest
          FROM (SELECT owner, context_id, created_at FROM tasks ORDER BY task_id DESC LIMIT $1) t
         GROUP BY owner, context_id ORDER BY newest DESC LIMIT $2) t
  JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
 ORDER BY t.newest DESC
"""
STATUSES = """
SELECT seq, attempt, payload, created_at, worker FROM task_events
 WHERE task_id = $1 AND kind = 'status' ORDER BY seq LIMIT 10000
"""
FAILURES = "SELECT * FROM task_failures WHERE task_id = $1"
NEWEST_CLAIM = """
SELECT task_id, owner, context_id, attempt, lease_token FROM tasks WHERE task_id = $1 AND lease_token IS NOT NULL
"""
# $1 task_id, $2 attempt, $3 fingerprint, $4 class, $5 message, $6 traceback, $7 worker
RECORD_FAILURE = """
INSERT INTO task_failures (task_id, attempt, fingerprint, error_class, message, traceback, worker)
SELECT t.task_id, $2, $3, $4, $5, $6, $7 FROM tasks t WHERE t.task_id = $1
ON CONFLICT (task_id, attempt) DO NOTHING
"""
# $1 how many failures, $2 how many groups
FAILURE_GROUPS = """
SELECT f.fingerprint, (array_agg(f.error_class ORDER BY f.created_at DESC))[1] AS error_class,
       (array_agg(f.message ORDER BY f.created_at DESC))[1] AS message, count(*) AS failures,
       count(DISTINCT f.task_id) AS tasks, count(DISTINCT f.task_id) FILTER (WHERE t.state = 'failed') AS failed,
       min(f.created_at) AS first_seen, max(f.created_at) AS last_seen
  FROM (SELECT * FROM task_failures ORDER BY created_at DESC LIMIT $1) f JOIN tasks t ON t.task_id = f.task_id
 GROUP BY f.fingerprint ORDER BY last_seen DESC, f.fingerprint LIMIT $2
"""
LIST_WORKERS = f"""
SELECT w.*, extract(epoch FROM clock_timestamp() - w.beat_at)::float8 AS silent,
       (SELECT coalesce(array_agg(t.task_id ORDER BY t.task_id), '{{}}') FROM tasks t
         WHERE t.lease_token IS NOT NULL AND t.lease_holder = w.worker_id) AS tasks,
       EXISTS (SELECT FROM tasks t WHERE t.lease_token IS NOT NULL AND t.lease_holder = w.worker_id
                                     AND t.lease_until > clock_timestamp()) AS renews
  FROM workers w
 WHERE w.beat_at > clock_timestamp() - interval '{SHOWN_WHEN_LOST} s'
    OR EXISTS (SELECT FROM tasks t WHERE t.lease_token IS NOT NULL AND t.lease_holder = w.worker_id)
 ORDER BY w.started_at, w.worker_id LIMIT 1000
"""
ASK_TO_DRAIN = "UPDATE workers SET asked_to_drain = $2 WHERE worker_id = $1 RETURNING worker_id"
RECORD_ACTION = """
INSERT INTO operator_actions (action_id, actor, action, target, result) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (action_id) DO UPDATE SET result = excluded.result
"""
LIST_ACTIONS = """
SELECT * FROM operator_actions WHERE action_id <= coalesce($1::uuid, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
   AND action_id IS DISTINCT FROM $1 ORDER BY action_id DESC LIMIT $2
"""
