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

Parameters are listed above each statement.
"""

from __future__ import annotations

from perdure.storage import MOST_BACKOFF
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
_UNLIMITED = """
    unlimited AS (
        SELECT let_go.task_id, let_go.dispatch + 1 AS dispatch FROM let_go
         WHERE cardinality(let_go.limit_keys) > 0 AND EXISTS (
               SELECT FROM tasks w
                WHERE w.limit_keys && let_go.limit_keys
                  AND w.state = 'submitted' AND w.lease_token IS NULL AND w.due_at <= now() AND w.task_id <> let_go.task_id))"""

# What becomes claimable when a context's slot is freed: the first in its line, if it is due. `freed` is a CTE of
# (owner, context_id); the dispatch is raised in the same statement, so that the ring is never taken for an older one.
_NEXT = """
    next AS (
        UPDATE tasks n SET dispatch = n.dispatch + 1, dispatched_at = clock_timestamp()
          FROM freed CROSS JOIN LATERAL (
               SELECT x.task_id, x.due_at FROM tasks x
                WHERE x.owner = freed.owner AND x.context_id = freed.context_id AND NOT x.parallel
                  AND x.state = 'submitted' AND x.task_id <> freed.task_id
                ORDER BY x.position LIMIT 1) pick
         WHERE n.task_id = pick.task_id AND n.state = 'submitted' AND n.due_at <= clock_timestamp()
        RETURNING n.task_id, n.dispatch)"""


def _seen(task: str) -> str:
    """Whether the statement's snapshot shows a task that waits behind `task`. Where the locked row counts one and the snapshot
    shows none, it came in between: then the ring goes out under the own id, which is only a hint."""
    return f"""EXISTS (SELECT FROM tasks x WHERE x.owner = {task}.owner AND x.context_id = {task}.context_id
                                        AND x.state = 'submitted' AND NOT x.parallel AND x.task_id <> {task}.task_id) AS seen"""


# A task's rank makes its owners take turns: one more than that of the owner's newest waiting task, but not before the one that
# is next of all. So a lone task stands beside the first of somebody's ten thousand, whenever it comes. Read without a lock: two
# that come at once may share a rank.
def rank(owner: str, priority: str) -> str:
    """The rank of a new task."""
    least = across(
        f"""(SELECT w.rank FROM tasks w WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = {priority}
              ORDER BY w.priority DESC, w.rank LIMIT 1)""",
        f"perdure_least_rank({priority})",
    )
    return f"""greatest({least},
            (SELECT w.rank + 1 FROM tasks w WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.owner = {owner}
                AND w.priority = {priority} ORDER BY w.rank DESC LIMIT 1), 0)"""


# $1 task_id, $2 owner, $3 context_id, $4 metadata, $5 message, $6 policy, $7 priority, $8 delay in seconds, $9 expires in
# seconds or null, $10 deadline in seconds or null, $11 limit keys, $12 their limits. No row: the policy is to reject, and the
# context is busy.
SUBMIT = f"""
WITH place AS (
        INSERT INTO contexts AS c (owner, context_id, last_position, waiting) VALUES ($2, $3, 1, ($6 <> 'parallel')::int)
        ON CONFLICT (owner, context_id) DO UPDATE
           SET last_position = c.last_position + 1, waiting = c.waiting + ($6 <> 'parallel')::int,
               updated_at = clock_timestamp()
         WHERE $6 <> 'reject' OR (c.running_task IS NULL AND c.waiting = 0)
        RETURNING last_position, waiting, running_task, updated_at AS now),
    limits AS (
        INSERT INTO concurrency_limits AS l (limit_key, max_running)
        SELECT key, max FROM place, unnest($11::text[], $12::int[]) AS asked(key, max)
         WHERE NOT EXISTS (SELECT FROM concurrency_limits known WHERE known.limit_key = key AND known.max_running = max)
         ORDER BY key
        ON CONFLICT (limit_key) DO UPDATE SET max_running = excluded.max_running),
    task AS (
        INSERT INTO tasks (task_id, owner, context_id, position, metadata, last_seq, message_seq, dispatch,
                           due_at, dispatched_at, status_timestamp, created_at, updated_at,
                           priority, rank, parallel, limit_keys, expires_at, deadline_at)
        SELECT $1, $2, $3, place.last_position, $4, 1, 1, 1, now + make_interval(secs => $8), now, now, now, now,
               $7, {rank("$2", "$7")}, $6 = 'parallel', $11,
               now + make_interval(secs => $9), now + make_interval(secs => $10)
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

# $1 task_id, $2 owner, $3 context_id or '', $4 message (its context is put in here)
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
           AND NOT EXISTS (SELECT FROM tasks e WHERE e.owner = changed.owner AND e.context_id = changed.context_id
                                                 AND e.position < changed.position AND e.state = 'submitted'
                                                 AND NOT e.parallel)),
    {_NEXT}
SELECT task.state AS before, changed.task_id IS NOT NULL AS kept, changed.dispatch, waits.waiting,
       next.task_id AS next_id, next.dispatch AS next_dispatch, {_seen("changed")}
  FROM task LEFT JOIN changed ON true LEFT JOIN waits ON true LEFT JOIN next ON true
"""

_SPOKEN = "(e.kind = 'message' OR (e.kind = 'status' AND e.payload #> '{status,message}' IS NOT NULL))"
_VISIBLE = "e.attempt <> ALL (t.lost_attempts)"


def _log(limit: str, artifacts: str) -> str:
    """A task's log as parallel arrays, in one row with the task: both as of one moment."""
    return f"""
    LEFT JOIN LATERAL (
        SELECT array_agg(e.seq ORDER BY e.seq) AS seqs, array_agg(e.kind ORDER BY e.seq) AS kinds,
               array_agg(e.payload ORDER BY e.seq) AS payloads
          FROM (SELECT * FROM (SELECT e.seq, e.kind, e.payload FROM task_events e
                                WHERE e.task_id = t.task_id AND {_SPOKEN} AND {_VISIBLE} AND e.seq <> t.status_seq
                                ORDER BY e.seq DESC LIMIT {limit}) spoken
                UNION ALL
                SELECT e.seq, e.kind, e.payload FROM task_events e
                 WHERE e.task_id = t.task_id AND e.kind = 'artifact' AND {_VISIBLE} AND {artifacts}) e) log ON true"""


_TASK = """t.task_id, t.owner, t.context_id, t.state, t.status_message, t.status_timestamp, t.metadata, t.attempt,
       extract(epoch FROM t.deadline_at - clock_timestamp())::float AS deadline,
       t.failures, t.crashes, t.last_seq, t.created_at, t.updated_at"""

# $1 task_id, $2 owner: without its log
BARE = f"""
SELECT {_TASK}, NULL::text[] AS kinds, NULL::jsonb[] AS payloads FROM tasks t WHERE t.task_id = $1 AND t.owner = $2
"""

# $1 task_id, $2 owner, $3 history length or null
LOAD = f"""
SELECT {_TASK}, log.* FROM tasks t {_log("$3::bigint", "true")}
 WHERE t.task_id = $1 AND t.owner = $2
"""

# $1 owner, $2 rows, $3 history length or null, $4 artifacts wanted; {where}: the filters that are given, so that each kind of
# page has a plan of its own
LIST = f"""
SELECT {_TASK}, log.* FROM tasks t {_log("$3::bigint", "$4::boolean")}
 WHERE t.owner = $1 {{where}}
 ORDER BY t.status_timestamp DESC, t.task_id DESC LIMIT $2
"""
# $1 owner, $2 cap
COUNT = "SELECT count(*) FROM (SELECT FROM tasks t WHERE t.owner = $1 {where} LIMIT $2) counted"

# $1 task_id, $2 owner, $3 seq, $4 limit
EVENTS_SINCE = """
SELECT e.task_id, e.seq, e.first_seq, e.kind, e.attempt, e.payload, e.created_at
  FROM task_events e JOIN tasks t ON t.task_id = e.task_id
 WHERE e.task_id = $1 AND t.owner = $2 AND e.seq > $3 ORDER BY e.seq LIMIT $4
"""

# $1 task_ids
NOTICES = across(
    "SELECT id AS task_id, t.last_seq, t.state FROM unnest($1::uuid[]) AS id LEFT JOIN tasks t ON t.task_id = id",
    "SELECT * FROM perdure_notices($1)",
)

# What may be claimed: due, held by nobody, not over its time, first in its context while no other turn of the context runs
# (unless it runs in parallel), and no limit of it reached. The claim decides again on the locked rows.
_CLAIMABLE = """t.state = 'submitted' AND t.lease_token IS NULL AND t.due_at <= now()
           AND (t.deadline_at <= now() OR (t.attempt = 0 AND t.expires_at <= now())) IS NOT TRUE
           AND (t.parallel OR (c.running_task IS NULL AND NOT EXISTS (
                SELECT FROM tasks e WHERE e.owner = t.owner AND e.context_id = t.context_id AND e.position < t.position
                                      AND e.state = 'submitted' AND NOT e.parallel)))
           AND NOT EXISTS (SELECT FROM concurrency_limits l WHERE l.limit_key = ANY (t.limit_keys)
                                                               AND l.running >= l.max_running)"""

# $1 holder, $2 token, $3 lease in seconds; what the token got before is given again. A row of
# NULLs: another claim was faster at a limited key; something else may still be claimable.
CLAIM = f"""
WITH mine AS (
        SELECT * FROM tasks WHERE lease_token = $2 AND state = 'working'),
    best AS (
        SELECT t.task_id, t.limit_keys, c.waiting, clock_timestamp() AS now
          FROM tasks t JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
         WHERE {_CLAIMABLE} AND NOT EXISTS (SELECT FROM mine)
         ORDER BY t.priority DESC, t.rank, t.due_at, t.task_id LIMIT 1
           FOR NO KEY UPDATE OF t, c SKIP LOCKED),
    limits AS (
        SELECT l.limit_key FROM concurrency_limits l, best
         WHERE l.limit_key = ANY (best.limit_keys) AND l.running < l.max_running
         ORDER BY l.limit_key FOR NO KEY UPDATE OF l SKIP LOCKED),
    allowed AS (
        SELECT * FROM best WHERE cardinality(best.limit_keys) = (SELECT count(*) FROM limits)),
    counted AS (
        UPDATE concurrency_limits l SET running = l.running + 1 FROM allowed WHERE l.limit_key = ANY (allowed.limit_keys)),
    claimed AS (
        UPDATE tasks t
           SET state = 'working', attempt = t.attempt + 1, write_no = 0, read_seq = t.message_seq,
               lease_holder = $1, lease_token = $2, lease_until = allowed.now + make_interval(secs => $3),
               last_seq = t.last_seq + 1, status_seq = t.last_seq + 1, status_message = NULL,
               status_timestamp = allowed.now, updated_at = allowed.now
          FROM allowed WHERE t.task_id = allowed.task_id
        RETURNING t.*),
    slot AS (
        UPDATE contexts c SET running_task = claimed.task_id, waiting = best.waiting - 1
          FROM claimed, best WHERE c.owner = claimed.owner AND c.context_id = claimed.context_id AND NOT claimed.parallel),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at, worker)
        SELECT task_id, last_seq, last_seq, 'status', attempt,
               jsonb_build_object('status', jsonb_build_object('state', 'TASK_STATE_WORKING')), updated_at, lease_holder
          FROM claimed)
SELECT task_id, owner, context_id, attempt, position, last_seq, turns FROM claimed
UNION ALL SELECT task_id, owner, context_id, attempt, position, last_seq, turns FROM mine
UNION ALL SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM best WHERE NOT EXISTS (SELECT FROM allowed)
"""

# What was said in a context up to a turn, newest pieces first until there are enough.
# $1 owner, $2 context_id, $3 position, $4 task_id, $5 last_seq of the turn's task, $6 messages
CONVERSATION = f"""
WITH said AS (
        (SELECT t.position, e.seq FROM tasks t CROSS JOIN LATERAL (
                SELECT e.seq FROM task_events e
                 WHERE e.task_id = t.task_id AND {_VISIBLE} AND (e.task_id <> $4 OR e.seq <= $5)
                   AND ({_SPOKEN} OR (e.kind = 'artifact' AND NOT coalesce((e.payload ->> 'append')::boolean, false)))
                 ORDER BY e.seq DESC LIMIT $6) e
          WHERE t.owner = $1 AND t.context_id = $2 AND t.position <= $3
          ORDER BY t.position DESC, e.seq DESC LIMIT $6)
        UNION ALL
        (SELECT m.position, 0 FROM context_messages m
          WHERE m.owner = $1 AND m.context_id = $2 AND m.position <= $3 ORDER BY m.position DESC LIMIT $6)
        ORDER BY 1 DESC, 2 DESC LIMIT $6),
    start AS (
        SELECT position, seq FROM said ORDER BY position, seq LIMIT 1)
SELECT t.position, t.task_id, e.seq, e.kind, e.payload
  FROM start, tasks t JOIN task_events e ON e.task_id = t.task_id
 WHERE t.owner = $1 AND t.context_id = $2 AND t.position <= $3 AND t.position >= start.position
   AND (t.position > start.position OR e.seq >= start.seq)
   AND {_VISIBLE} AND (e.task_id <> $4 OR e.seq <= $5) AND ({_SPOKEN} OR e.kind = 'artifact')
UNION ALL
SELECT m.position, NULL, 0, 'message', m.payload FROM start, context_messages m
 WHERE m.owner = $1 AND m.context_id = $2 AND m.position <= $3 AND m.position >= start.position
 ORDER BY 1, 3
"""

# $1 task_ids, $2 attempts, $3 tokens, $4 lease in seconds; answers by the claim's place in the arrays
RENEW = """
WITH asked AS (
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[]) WITH ORDINALITY AS a(task_id, attempt, token, place)),
    held AS (
        SELECT t.task_id, asked.place FROM tasks t
          JOIN asked ON t.task_id = asked.task_id AND t.attempt = asked.attempt AND t.lease_token = asked.token
         ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED),
    renewed AS (
        UPDATE tasks t SET lease_until = clock_timestamp() + make_interval(secs => $4)
          FROM held WHERE t.task_id = held.task_id RETURNING held.place, t.state)
SELECT asked.place,
       CASE WHEN renewed.place IS NOT NULL THEN CASE WHEN renewed.state = 'working' THEN 'yes' ELSE 'canceled' END
            WHEN t.task_id IS NOT NULL THEN 'locked' ELSE 'lost' END AS found
  FROM asked LEFT JOIN renewed ON renewed.place = asked.place
       LEFT JOIN tasks t ON t.task_id = asked.task_id AND t.attempt = asked.attempt AND t.lease_token = asked.token
"""

# The fence of every write of a turn.
_HELD = (
    "t.task_id = $1 AND t.attempt = $2 AND t.lease_token = $3 AND t.write_no = $4 - 1 AND t.state = 'working'"
)
_METADATA = "metadata = (t.metadata || $5::jsonb) - $6::text[]"

# $1 task_id, $2 attempt, $3 token, $4 write_no, $5 metadata, $6 keys to remove, $7 kinds, $8 payloads, $9 message of a
# status that comes last, or null: it becomes the present one (progress does not)
WRITE = f"""
WITH held AS (
        SELECT t.task_id, clock_timestamp() AS now FROM tasks t WHERE {_HELD} FOR NO KEY UPDATE),
    written AS (
        UPDATE tasks t
           SET write_no = $4, last_seq = t.last_seq + cardinality($7::text[]), {_METADATA},
               status_message = coalesce($9::jsonb, t.status_message),
               status_seq = CASE WHEN $9 IS NULL THEN t.status_seq ELSE t.last_seq + cardinality($7) END,
               status_timestamp = CASE WHEN $9 IS NULL THEN t.status_timestamp ELSE held.now END, updated_at = held.now
          FROM held WHERE t.task_id = held.task_id
        RETURNING t.task_id, t.attempt, t.last_seq, t.updated_at),
    events AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT w.task_id, w.last_seq - cardinality($7) + e.ord, w.last_seq - cardinality($7) + e.ord, e.kind, w.attempt,
               e.payload, w.updated_at
          FROM written w, unnest($7::text[], $8::jsonb[]) WITH ORDINALITY AS e(kind, payload, ord))
SELECT last_seq FROM written
"""

# As WRITE up to $8; $9 state, $10 status payload, $11 status message or null, $12 whether unread messages bring it back,
# $13 owner, $14 context_id
SETTLE = f"""
WITH line AS (
        SELECT c.owner, c.context_id, c.waiting FROM contexts c WHERE c.owner = $13 AND c.context_id = $14 FOR NO KEY UPDATE),
    held AS (
        SELECT t.task_id, $12 AND t.message_seq > t.read_seq AS again, clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
         WHERE {_HELD} FOR NO KEY UPDATE OF t),
    settled AS (
        UPDATE tasks t
           SET state = CASE WHEN held.again THEN 'submitted' ELSE $9 END, write_no = $4, turns = t.turns + 1,
               last_seq = t.last_seq + cardinality($7::text[]) + 1, status_seq = t.last_seq + cardinality($7::text[]) + 1,
               status_message = $11::jsonb, status_timestamp = held.now, {_METADATA},
               lease_holder = NULL, lease_token = NULL, lease_until = NULL,
               due_at = held.now, dispatch = t.dispatch + held.again::int, dispatched_at = held.now, updated_at = held.now
          FROM held WHERE t.task_id = held.task_id
        RETURNING t.task_id, t.owner, t.context_id, t.attempt, t.state, t.last_seq, t.dispatch, t.updated_at, t.parallel,
                  t.limit_keys, held.again),
    let_go AS (SELECT * FROM settled),{UNCOUNT},{_UNLIMITED},
    events AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT s.task_id, s.last_seq - 1 - cardinality($7) + e.ord, s.last_seq - 1 - cardinality($7) + e.ord, e.kind, s.attempt,
               e.payload, s.updated_at
          FROM settled s, unnest($7::text[], $8::jsonb[]) WITH ORDINALITY AS e(kind, payload, ord)
        UNION ALL
        SELECT s.task_id, s.last_seq, s.last_seq, 'status', s.attempt,
               CASE WHEN s.again THEN jsonb_set($10::jsonb, '{{status,state}}', '"TASK_STATE_SUBMITTED"') ELSE $10::jsonb END,
               s.updated_at
          FROM settled s),
    slot AS (
        UPDATE contexts c SET running_task = NULLIF(c.running_task, s.task_id),
               waiting = line.waiting + (s.again AND NOT s.parallel)::int
          FROM settled s, line WHERE c.owner = line.owner AND c.context_id = line.context_id
        RETURNING c.waiting),
    freed AS (
        SELECT * FROM settled WHERE NOT again AND NOT parallel),
    {_NEXT}
SELECT s.state, s.last_seq, s.dispatch, s.again, slot.waiting, next.task_id AS next_id, next.dispatch AS next_dispatch,
       unlimited.task_id AS unlimited_id, unlimited.dispatch AS unlimited_dispatch, {_seen("s")}
  FROM settled s LEFT JOIN slot ON true LEFT JOIN next ON true LEFT JOIN unlimited ON true
"""

# $1 task_id: why a write was refused, or that it was kept before
DIAGNOSE = "SELECT state, attempt, write_no, last_seq FROM tasks WHERE task_id = $1"

# $1 task_id, $2 attempt, $3 token, $4 owner, $5 context_id, $6 status payload, $7 failed, $8 delay in seconds,
# $9 metadata or null
RELEASE = f"""
WITH line AS (
        SELECT c.owner, c.context_id, c.waiting FROM contexts c WHERE c.owner = $4 AND c.context_id = $5 FOR NO KEY UPDATE),
    held AS (
        SELECT t.task_id, t.state, t.state = 'working' AS again, clock_timestamp() AS now
          FROM tasks t JOIN line ON t.owner = line.owner AND t.context_id = line.context_id
         WHERE t.task_id = $1 AND t.attempt = $2 AND t.lease_token = $3 FOR NO KEY UPDATE OF t),
    released AS (
        UPDATE tasks t
           SET lease_holder = NULL, lease_token = NULL, lease_until = NULL,
               state = CASE WHEN held.again THEN 'submitted' ELSE held.state END,
               lost_attempts = CASE WHEN held.again THEN t.lost_attempts || t.attempt ELSE t.lost_attempts END,
               failures = t.failures + (held.again AND $7)::int,
               metadata = CASE WHEN held.again AND $9::jsonb IS NOT NULL THEN t.metadata || $9 ELSE t.metadata END,
               last_seq = t.last_seq + held.again::int,
               status_seq = CASE WHEN held.again THEN t.last_seq + 1 ELSE t.status_seq END,
               status_message = CASE WHEN held.again THEN NULL ELSE t.status_message END,
               status_timestamp = CASE WHEN held.again THEN held.now ELSE t.status_timestamp END,
               due_at = held.now + make_interval(secs => $8),
               dispatch = t.dispatch + held.again::int, dispatched_at = held.now, updated_at = held.now
          FROM held WHERE t.task_id = held.task_id
        RETURNING t.task_id, t.owner, t.context_id, t.last_seq, t.dispatch, t.updated_at, t.parallel, t.limit_keys, held.again),
    let_go AS (SELECT * FROM released),{UNCOUNT},{_UNLIMITED},
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0, $6::jsonb, updated_at FROM released WHERE again),
    slot AS (
        UPDATE contexts c SET running_task = NULL, waiting = line.waiting + r.again::int
          FROM released r, line
         WHERE c.owner = line.owner AND c.context_id = line.context_id AND c.running_task = r.task_id AND NOT r.parallel
        RETURNING c.waiting),
    freed AS (
        SELECT * FROM released WHERE NOT again AND NOT parallel),
    {_NEXT}
SELECT r.task_id, r.dispatch, r.again, slot.waiting, next.task_id AS next_id, next.dispatch AS next_dispatch,
       unlimited.task_id AS unlimited_id, unlimited.dispatch AS unlimited_dispatch, {_seen("r")}
  FROM released r LEFT JOIN slot ON true LEFT JOIN next ON true LEFT JOIN unlimited ON true
"""

# $1 grace in seconds, $2 max crashes, $3 limit, $4 status payload (crash), $5 status payload (failed), $6 its message,
# $7 as of when or null, $8 how long the server has to be up in seconds.
# The tasks rescued, those of them that worked with their state; and what else became claimable.
_LAPSED = """t.lease_token IS NOT NULL
           AND t.lease_until < coalesce($7::timestamptz, clock_timestamp()) - make_interval(secs => $1)"""
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
               clock_timestamp() AS now
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
        RETURNING t.task_id, t.owner, t.context_id, t.state, t.attempt, t.last_seq, t.dispatch,
                  t.status_message, t.updated_at, t.parallel, t.limit_keys, held.again, held.worked),
    let_go AS (SELECT * FROM rescued),{UNCOUNT},{_UNLIMITED},
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0,
               CASE WHEN again THEN $4::jsonb ELSE jsonb_set($5::jsonb, '{{status,message}}', status_message) END, updated_at
          FROM rescued WHERE worked),
    slot AS (
        UPDATE contexts c SET running_task = NULL, waiting = line.waiting + r.again::int
          FROM rescued r JOIN line ON line.owner = r.owner AND line.context_id = r.context_id
         WHERE c.owner = r.owner AND c.context_id = r.context_id AND c.running_task = r.task_id AND NOT r.parallel),
    freed AS (
        SELECT * FROM rescued WHERE NOT again AND NOT parallel),
    {_NEXT}
SELECT task_id, dispatch, last_seq, CASE WHEN worked THEN state END AS state, again AS rings FROM rescued
UNION ALL SELECT task_id, dispatch, 0, NULL, true FROM next
UNION ALL SELECT task_id, dispatch, 0, NULL, true FROM unlimited
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

# The fence of a checkpoint, and its result. $1 task_id, $2 attempt, $3 token, $4 name, $5 occurrence, $6 result
STORE_STEP = """
WITH held AS (
        SELECT t.task_id, t.turns FROM tasks t
         WHERE t.task_id = $1 AND t.attempt = $2 AND t.lease_token = $3 AND t.state = 'working' FOR NO KEY UPDATE),
    kept AS (
        INSERT INTO task_steps (task_id, turn, name, occurrence, result, attempt)
        SELECT task_id, turns, $4, $5, $6::json, $2 FROM held ON CONFLICT DO NOTHING)
SELECT true FROM held
"""
# $1 task_id, $2 turn
STEPS = "SELECT name, occurrence, result FROM task_steps WHERE task_id = $1 AND turn = $2"

# $1 idle in seconds, $2 limit. Every turn has had one dispatch; what is beyond that were rings in vain.
STRANDED = f"""
SELECT t.task_id, t.dispatch FROM tasks t JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
 WHERE {_CLAIMABLE}
   AND t.dispatched_at < now() - make_interval(secs => $1 * 2 ^ LEAST(GREATEST(t.dispatch - t.attempt - 1, 0), {MOST_BACKOFF}))
 ORDER BY t.priority DESC, t.rank, t.due_at, t.task_id LIMIT $2
"""

# $1 task_ids, $2 dispatches
REDISPATCH = f"""
WITH held AS (
        SELECT t.task_id FROM tasks t JOIN unnest($1::uuid[], $2::int[]) AS a(task_id, dispatch)
            ON t.task_id = a.task_id AND t.dispatch = a.dispatch
          JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
         WHERE {_CLAIMABLE} ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED)
UPDATE tasks t SET dispatch = t.dispatch + 1, dispatched_at = clock_timestamp()
  FROM held WHERE t.task_id = held.task_id RETURNING t.task_id, t.dispatch
"""

# $1 worker_id, $2 version, $3 slots, $4 running, $5 draining
BEAT = """
INSERT INTO workers (worker_id, version, slots, running, draining, name, loop_lag, counters)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
ON CONFLICT (worker_id) DO UPDATE
   SET slots = excluded.slots, running = excluded.running, draining = excluded.draining, name = excluded.name,
       loop_lag = excluded.loop_lag, counters = excluded.counters, beat_at = clock_timestamp()
RETURNING asked_to_drain
"""
FORGET_WORKER = "DELETE FROM workers WHERE worker_id = $1"
# $1 seconds; workers that died long ago go with it
WORKERS_ALIVE = """
SELECT count(*) FROM workers WHERE beat_at > clock_timestamp() - make_interval(secs => $1) AND NOT draining
"""
