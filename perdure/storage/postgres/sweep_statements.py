"""The statements of sweeps, and of workers' beats: what has lapsed, is late or was never rung. See also `statements`."""

from __future__ import annotations

from perdure.storage import MOST_BACKOFF
from perdure.storage.postgres.statements import CLAIMABLE, NEXT, OF_ONLY_AGENT, UNCOUNT, UNLIMITED, of_agent

# $1 grace in seconds, $2 max crashes, $3 limit, $4 status payload (crash), $5 status payload (failed), $6 its message,
# $7 as of when or null, $8 how long the server has to be up in seconds, $9 the agents whose tasks may end as failed or null,
# $10 what operators are told, of an attempt that has said nothing and of another: class, message and fingerprint of each.
# The tasks rescued, those of them that worked with their state; and what else became claimable.
_LAPSED = """t.lease_token IS NOT NULL
           AND t.lease_until < coalesce($7::timestamptz, clock_timestamp()) - make_interval(secs => $1)
           AND ($9::text[] IS NULL OR t.agent = ANY ($9) OR t.state <> 'working' OR t.crashes + 1 < $2)"""
RESCUE = f"""
WITH lapsed AS (
        SELECT t.task_id, t.owner, t.context_id FROM tasks t
         WHERE {_LAPSED}
           AND pg_postmaster_start_time() < clock_timestamp() - make_interval(secs => greatest($1, $8))
         LIMIT $3),
    line AS (
        SELECT c.owner, c.context_id, c.waiting FROM contexts c
         WHERE (c.owner, c.context_id) IN (SELECT owner, context_id FROM lapsed)
         ORDER BY c.owner, c.context_id FOR NO KEY UPDATE SKIP LOCKED),
    held AS (
        SELECT t.task_id, t.state, t.state = 'working' AND t.crashes + 1 < $2 AS again, t.state = 'working' AS worked,
               t.lease_holder, clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
         WHERE {_LAPSED}
         ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED),
    rescued AS (
        UPDATE tasks t
           SET lease_holder = NULL, lease_token = NULL, lease_until = NULL,
               state = CASE WHEN held.again THEN 'submitted' WHEN held.worked THEN 'failed' ELSE held.state END,
               crashes = t.crashes + held.worked::int,
               lost_attempts = CASE WHEN held.worked THEN t.lost_attempts || t.attempt ELSE t.lost_attempts END,
               last_seq = t.last_seq + held.worked::int,
               status_seq = CASE WHEN held.worked THEN t.last_seq + 1 ELSE t.status_seq END,
               status_message = CASE WHEN held.again THEN NULL
                                     WHEN held.worked THEN $6::jsonb || jsonb_build_object('contextId', t.context_id,
                                                                                           'taskId', t.task_id)
                                     ELSE t.status_message END,
               status_timestamp = CASE WHEN held.worked THEN held.now ELSE t.status_timestamp END,
               due_at = held.now, dispatch = t.dispatch + held.again::int, dispatched_at = held.now, updated_at = held.now
          FROM held WHERE t.task_id = held.task_id
        RETURNING t.task_id, t.owner, t.context_id, t.state, t.attempt, t.last_seq, t.dispatch, t.agent,
                  t.status_message, t.updated_at, t.parallel, t.limit_keys, held.again, held.worked, held.lease_holder),
    let_go AS (SELECT * FROM rescued),{UNCOUNT},{UNLIMITED},
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0,
               CASE WHEN again THEN $4::jsonb ELSE jsonb_set($5::jsonb, '{{status,message}}', status_message) END, updated_at
          FROM rescued WHERE worked),
    why AS (
        INSERT INTO task_failures (task_id, attempt, error_class, message, fingerprint, worker)
        SELECT task_id, attempt, ($10::text[])[1 + spoke], ($10::text[])[2 + spoke], ($10::text[])[3 + spoke], lease_holder
          FROM (SELECT r.*, 3 * EXISTS (SELECT FROM task_events e WHERE e.task_id = r.task_id AND e.attempt = r.attempt
                                                                    AND e.kind <> 'status')::int AS spoke
                  FROM rescued r WHERE worked) lost
            ON CONFLICT (task_id, attempt) DO NOTHING),
    slot AS (
        UPDATE contexts c SET running_task = NULL, waiting = line.waiting + r.again::int
          FROM rescued r JOIN line ON line.owner = r.owner AND line.context_id = r.context_id
         WHERE c.owner = r.owner AND c.context_id = r.context_id AND c.running_task = r.task_id AND NOT r.parallel),
    freed AS (
        SELECT * FROM rescued WHERE NOT again AND NOT parallel),
    {NEXT}
SELECT task_id, dispatch, last_seq, CASE WHEN worked THEN state END AS state, again AS rings, agent FROM rescued
UNION ALL SELECT n.task_id, n.dispatch, 0, NULL, true, r.agent FROM next n JOIN rescued r ON r.task_id = n.after
UNION ALL SELECT u.task_id, u.dispatch, 0, NULL, true, r.agent FROM unlimited u JOIN rescued r ON r.task_id = u.task_id
"""

# $1 limit, $2 status payload, $3 its message: what has not started or not ended in time, and is not running
EXPIRE = """
WITH late AS (
        SELECT t.task_id, t.owner, t.context_id FROM tasks t
         WHERE t.state = 'submitted' AND LEAST(t.expires_at, t.deadline_at) <= clock_timestamp()
           AND (t.deadline_at <= clock_timestamp() OR t.attempt = 0)
         ORDER BY LEAST(t.expires_at, t.deadline_at) LIMIT $1),
    line AS (
        SELECT c.owner, c.context_id, c.waiting FROM contexts c
         WHERE (c.owner, c.context_id) IN (SELECT owner, context_id FROM late)
         ORDER BY c.owner, c.context_id FOR NO KEY UPDATE SKIP LOCKED),
    held AS (
        SELECT t.task_id, clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
          JOIN late ON late.task_id = t.task_id
         WHERE t.state = 'submitted' AND (t.deadline_at <= clock_timestamp() OR t.attempt = 0)
         ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED),
    ended AS (
        UPDATE tasks t
           SET state = 'failed', last_seq = t.last_seq + 1, status_seq = t.last_seq + 1,
               status_message = $3::jsonb || jsonb_build_object('contextId', t.context_id, 'taskId', t.task_id),
               status_timestamp = held.now, updated_at = held.now
          FROM held WHERE t.task_id = held.task_id
        RETURNING t.task_id, t.owner, t.context_id, t.last_seq, t.status_message, t.updated_at, t.parallel),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0, jsonb_set($2::jsonb, '{status,message}', status_message), updated_at
          FROM ended),
    waits AS (
        UPDATE contexts c SET waiting = line.waiting - gone.tasks
          FROM (SELECT owner, context_id, count(*) AS tasks FROM ended WHERE NOT parallel GROUP BY 1, 2) gone
          JOIN line USING (owner, context_id)
         WHERE c.owner = gone.owner AND c.context_id = gone.context_id)
SELECT task_id, last_seq FROM ended
"""

# $1 idle in seconds, $2 limit; {of}: of which agent. Every turn has had one dispatch; what is beyond that were rings in vain.
_STRANDED = f"""
SELECT t.task_id, t.dispatch FROM tasks t JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
 WHERE {CLAIMABLE} AND {{of}}
   AND t.dispatched_at < now() - make_interval(secs => $1 * 2 ^ LEAST(GREATEST(t.dispatch - t.attempt - 1, 0), {MOST_BACKOFF}))
 ORDER BY t.priority DESC, t.rank, t.due_at, t.task_id LIMIT $2
"""
STRANDED = _STRANDED.replace("{of}", OF_ONLY_AGENT)
# $3 agent
STRANDED_OF = _STRANDED.replace("{of}", of_agent("$3::text"))

# $1 task_ids, $2 dispatches
REDISPATCH = f"""
WITH held AS (
        SELECT t.task_id FROM tasks t JOIN unnest($1::uuid[], $2::int[]) AS a(task_id, dispatch)
            ON t.task_id = a.task_id AND t.dispatch = a.dispatch
          JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
         WHERE {CLAIMABLE} ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE tasks t SET dispatch = t.dispatch + 1, dispatched_at = clock_timestamp()
  FROM held WHERE t.task_id = held.task_id RETURNING t.task_id, t.dispatch
"""

# $1 worker_id, $2 version, $3 slots, $4 running, $5 draining, $6 name, $7 loop lag, $8 counters, $9 agents
BEAT = """
INSERT INTO workers (worker_id, version, slots, running, draining, name, loop_lag, counters, agents)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
ON CONFLICT (worker_id) DO UPDATE
   SET slots = excluded.slots, running = excluded.running, draining = excluded.draining, name = excluded.name,
       loop_lag = excluded.loop_lag, counters = excluded.counters, beat_at = clock_timestamp()
RETURNING asked_to_drain
"""
# And those that never came to say that they end: nobody else does.
FORGET_WORKER = "DELETE FROM workers WHERE worker_id = $1 OR beat_at < clock_timestamp() - interval '7 days'"
# $1 seconds, $2 agent or null
WORKERS_ALIVE = """
SELECT count(*) FROM workers WHERE beat_at > clock_timestamp() - make_interval(secs => $1) AND NOT draining
   AND ($2::text IS NULL OR $2 = ANY (agents))
"""

# $1 seconds, $2 limit
FORGET_KEYS = """
DELETE FROM idempotency_keys WHERE (owner, key) IN (
    SELECT owner, key FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING true
"""
