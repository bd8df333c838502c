"""What the statements of `PostgresStorage` are made of: prepared text, one statement a method wherever that is possible.

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

Those of callers are in `caller_statements`, those of sweeps in `sweep_statements`; most others stand beside the method that sends
them. Parameters are listed above each statement.
"""

from __future__ import annotations

from perdure.storage.postgres.wall import across

TERMINAL = "('completed', 'failed', 'canceled', 'rejected')"
INTERRUPTED = "('input-required', 'auth-required')"

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
