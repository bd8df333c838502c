"""The statements of `PostgresStorage`: prepared text, one statement a method wherever that is possible.

How they keep the promises:

- A context's row is locked before a task's (in key order where there are several), so that two statements never wait for each
  other in a circle. Whatever frees or fills the context's slot holds that lock; it then trusts only the locked rows, since the
  statement's snapshot is older than its locks. That is why `contexts` counts its waiting tasks.
- A lock is taken in a CTE of its own, on which the next one depends: the order of independent CTEs is not defined.
- What a CHECK looks at is set from the locked rows (`held.state`, not `t.state`; `line.waiting`, not `c.waiting`): an UPDATE that
  meets a newer version of its row checks the constraints once with the old one before it notices.
- Times are clock_timestamp(): now() is the start of the transaction, which may have waited for a lock.
- Claims, rescues and renewals skip locked rows: somebody is dealing with them.
- No plan reads all that waits or all that runs, also one that was made when nothing did. An index over the waiting or the leased
  rows alone is empty then, and to read the whole of it looks cheaper than to look one row up. So a condition that would let it
  in is told in words that the planner takes for no reason to: compared with what was picked, `IS NOT DISTINCT FROM`, a subquery
  with LIMIT or OFFSET 0 (tests/migrations/test_plans.py).

Parameters are listed above each statement.
"""

from __future__ import annotations

from perdure.storage import MOST_BACKOFF, TRACED
from perdure.storage.postgres.wall import across

TERMINAL = "('completed', 'failed', 'canceled', 'rejected')"
INTERRUPTED = "('input-required', 'auth-required')"

_SUBMITTED = """jsonb_build_object('status', jsonb_build_object('state', 'TASK_STATE_SUBMITTED'))"""

# What a turn counted against is free again. `let_go` is a CTE of tasks with their limit_keys.
UNCOUNT = """
    freed_keys AS (
        SELECT key, count(*) AS turns FROM let_go, unnest(let_go.limit_keys) AS key GROUP BY key),
    counters AS (
        SELECT l.limit_key, l.running FROM concurrency_limits l WHERE l.limit_key IN (SELECT key FROM freed_keys)
         ORDER BY l.limit_key FOR NO KEY UPDATE),
    uncounted AS (
        UPDATE concurrency_limits l SET running = counters.running - freed_keys.turns
          FROM counters JOIN freed_keys ON freed_keys.key = counters.limit_key WHERE l.limit_key = counters.limit_key)"""

# ... and whoever waits for it may run, if one is due. It is rung for under the id of the turn that ended, which is only a hint:
# its own last ring may have been heard already, and be known to Redis for as long as the turn lasts that it led to.
UNLIMITED = """
    unlimited AS MATERIALIZED (
        SELECT let_go.task_id, let_go.dispatch + 1 AS dispatch FROM let_go
         WHERE cardinality(let_go.limit_keys) > 0 AND EXISTS (
               SELECT FROM tasks w
                WHERE w.limit_keys && let_go.limit_keys
                  AND w.state = 'submitted' AND w.lease_token IS NULL AND w.due_at <= now() AND w.task_id <> let_go.task_id))"""


def in_line(task: str) -> str:
    """What waits in the line of its conversation, in the words of the index over that."""
    return f"{task}.state = 'submitted' AND {task}.context_id <> '' AND NOT {task}.parallel"


def all_of(owner: str, task: str = "tasks") -> str:
    """All tasks of an owner, in the words of the indexes by which they are listed."""
    return f"{task}.owner = {owner} AND {task}.status_timestamp > '-infinity'"


# What becomes claimable when a context's slot is freed: the first in its line, if it is due. `freed` is a CTE of
# (owner, context_id); the dispatch is raised in the same statement, so that the ring is never taken for an older one.
NEXT = f"""
    next AS (
        UPDATE tasks n SET dispatch = n.dispatch + 1, dispatched_at = clock_timestamp()
          FROM freed CROSS JOIN LATERAL (
               SELECT x.task_id, x.state FROM tasks x
                WHERE x.owner = freed.owner AND x.context_id = freed.context_id AND {in_line("x")} AND x.task_id <> freed.task_id
                ORDER BY x.position LIMIT 1) pick
         WHERE n.task_id = pick.task_id AND n.state = pick.state AND n.due_at <= clock_timestamp()
        RETURNING n.task_id, n.dispatch, freed.task_id AS after)"""


def seen(task: str) -> str:
    """Whether the statement's snapshot shows a task that waits behind `task`. Where the locked row counts one and the snapshot
    shows none, it came in between: then the ring goes out under the own id, which is only a hint."""
    return f"""EXISTS (SELECT FROM tasks x WHERE x.owner = {task}.owner AND x.context_id = {task}.context_id
                                        AND {in_line("x")} AND x.task_id <> {task}.task_id)"""


# Whose tasks a statement looks at in the order of claims. An only agent's are all that there are; a named one's are in an index
# of their own, so that nobody reads past what waits for others.
OF_ONLY_AGENT = "t.agent = ''"


def of_agent(agent: str, task: str = "t") -> str:
    """The tasks of a named agent, in the words of the index over them."""
    return f"{task}.agent = {agent} AND {task}.agent <> ''"


# A task's rank makes its owners take turns: one more than that of the owner's newest waiting task, but not before the one that
# is next of all of its agent. So a lone task stands beside the first of somebody's ten thousand, whenever it comes. Read without
# a lock: two that come at once may share a rank.
def rank(owner: str, priority: str, agent: str) -> str:
    """The rank of a new task."""
    waits = f"w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = {priority}"
    next_of_all = "ORDER BY w.priority DESC, w.rank LIMIT 1"
    least = across(
        f"""(CASE WHEN {agent} = '' THEN (SELECT w.rank FROM tasks w WHERE {waits} AND w.agent = '' {next_of_all})
              ELSE (SELECT w.rank FROM tasks w WHERE {waits} AND {of_agent(agent, "w")} {next_of_all}) END)""",
        f"perdure_least_rank({agent}, ({priority})::smallint)",
    )
    return f"""greatest({least},
            (SELECT w.rank + 1 FROM tasks w WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.owner = {owner}
                AND w.priority = {priority} AND w.rank >= 0 ORDER BY w.rank DESC LIMIT 1), 0)"""


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
# $1 seconds, $2 limit
FORGET_KEYS = """
DELETE FROM idempotency_keys WHERE (owner, key) IN (
    SELECT owner, key FROM idempotency_keys WHERE created_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING true
"""

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

SPOKEN = "(e.kind = 'message' OR (e.kind = 'status' AND e.payload #> '{status,message}' IS NOT NULL))"
VISIBLE = "e.attempt <> ALL (t.lost_attempts)"


def log_of(limit: str, artifacts: str) -> str:
    """A task's log as parallel arrays, in one row with the task: both as of one moment."""
    return f"""
    LEFT JOIN LATERAL (
        SELECT array_agg(e.seq ORDER BY e.seq) AS seqs, array_agg(e.kind ORDER BY e.seq) AS kinds,
               array_agg(e.payload ORDER BY e.seq) AS payloads
          FROM (SELECT * FROM (SELECT e.seq, e.kind, e.payload FROM task_events e
                                WHERE e.task_id = t.task_id AND {SPOKEN} AND {VISIBLE} AND e.seq <> t.status_seq
                                ORDER BY e.seq DESC LIMIT {limit}) spoken
                UNION ALL
                SELECT e.seq, e.kind, e.payload FROM task_events e
                 WHERE e.task_id = t.task_id AND e.kind = 'artifact' AND {VISIBLE} AND {artifacts}) e) log ON true"""


def said_in(asked: str) -> str:
    """What was said in a context up to a turn, newest pieces first until there are enough. `asked` has owner, context_id,
    position; task_id and seq, the end of the log of the turn's task; most."""
    return f"""
WITH said AS (
        (SELECT t.position, e.seq FROM tasks t CROSS JOIN LATERAL (
                SELECT e.seq FROM task_events e
                 WHERE e.task_id = t.task_id AND {VISIBLE} AND (e.task_id <> {asked}.task_id OR e.seq <= {asked}.seq)
                   AND ({SPOKEN} OR (e.kind = 'artifact' AND NOT coalesce((e.payload ->> 'append')::boolean, false)))
                 ORDER BY e.seq DESC LIMIT {asked}.most) e
          WHERE t.owner = {asked}.owner AND t.context_id = {asked}.context_id AND t.position <= {asked}.position
          ORDER BY t.position DESC, e.seq DESC LIMIT {asked}.most)
        UNION ALL
        (SELECT m.position, 0 FROM context_messages m
          WHERE m.owner = {asked}.owner AND m.context_id = {asked}.context_id AND m.position <= {asked}.position
          ORDER BY m.position DESC LIMIT {asked}.most)
        ORDER BY 1 DESC, 2 DESC LIMIT {asked}.most),
    start AS (
        SELECT position, seq FROM said ORDER BY position, seq LIMIT 1)
SELECT t.position, t.task_id, e.seq, e.kind, e.payload
  FROM start, tasks t JOIN task_events e ON e.task_id = t.task_id
 WHERE t.owner = {asked}.owner AND t.context_id = {asked}.context_id AND t.position <= {asked}.position
   AND t.position >= start.position AND (t.position > start.position OR e.seq >= start.seq)
   AND {VISIBLE} AND (e.task_id <> {asked}.task_id OR e.seq <= {asked}.seq) AND ({SPOKEN} OR e.kind = 'artifact')
UNION ALL
SELECT m.position, NULL, 0, 'message', m.payload FROM start, context_messages m
 WHERE m.owner = {asked}.owner AND m.context_id = {asked}.context_id AND m.position <= {asked}.position
   AND m.position >= start.position"""


TASK = """t.task_id, t.owner, t.context_id, t.state, t.status_message, t.status_timestamp, t.metadata, t.attempt,
       extract(epoch FROM t.deadline_at - clock_timestamp())::float AS deadline,
       t.failures, t.crashes, t.last_seq, t.created_at, t.updated_at"""

# $1 task_id, $2 owner: without its log
BARE = f"""
SELECT {TASK}, NULL::text[] AS kinds, NULL::jsonb[] AS payloads FROM tasks t WHERE t.task_id = $1 AND t.owner = $2
"""

# What may be claimed: due, held by nobody, not over its time, first in its context while no other turn of the context runs
# (unless it runs in parallel), and no limit of it reached. The claim decides again on the locked rows.
CLAIMABLE = f"""t.state = 'submitted' AND t.lease_token IS NULL AND t.due_at <= now()
           AND (t.deadline_at <= now() OR (t.attempt = 0 AND t.expires_at <= now())) IS NOT TRUE
           AND (t.parallel OR (c.running_task IS NULL AND (c.waiting = 1 OR NOT EXISTS (
                SELECT FROM tasks e WHERE e.owner = t.owner AND e.context_id = t.context_id AND e.position < t.position
                                      AND {in_line("e")}))))
           AND NOT EXISTS (SELECT FROM concurrency_limits l WHERE l.limit_key = ANY (t.limit_keys)
                                                               AND l.running >= l.max_running)"""

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
