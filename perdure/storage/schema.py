"""The tables. SQLAlchemy owns the schema and the migrations; the statements are in `perdure.storage.postgres.statements`.

What is written down here is compared with the migrated database by tests/migrations.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from perdure.tasks import TaskState

metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

VERSION_TABLE = "perdure_alembic_version"

_STATES = ", ".join(f"'{state}'" for state in TaskState)
_WAITS = "state = 'submitted' AND lease_token IS NULL"


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, JSONB, nullable=False, server_default=sa.text("'{}'::jsonb"))


def _time(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.TIMESTAMP(timezone=True), nullable=False, server_default=sa.text("clock_timestamp()")
    )


def _count(name: str, kind: type[sa.Integer] = sa.Integer) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default=sa.text("0"))


contexts = sa.Table(
    "contexts",
    metadata,
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("context_id", sa.Text, nullable=False),
    _json("metadata"),
    # The place that was drawn last: tasks and appended messages of a context are in the order of their places.
    _count("last_position", sa.BigInteger),
    # The conversation's slot: the task whose turn runs, until its holder has let go of it.
    sa.Column("running_task", UUID),
    # How many of its tasks are submitted. Whoever frees the slot reads it under the row's lock: no lost wake-up.
    _count("waiting"),
    _time("created_at"),
    _time("updated_at"),
    sa.PrimaryKeyConstraint("owner", "context_id"),
    sa.CheckConstraint("waiting >= 0", name="waiting"),
    sa.CheckConstraint("char_length(context_id) BETWEEN 1 AND 512", name="context_id"),
    sa.Index(
        "ix_contexts_page", "owner", sa.text("updated_at DESC"), sa.text("context_id DESC"), unique=True
    ),
    # Room for new versions of a row beside it: the slot and the counter are in no index, so that taking and freeing a slot are
    # then updates of one page (HOT).
    postgresql_with={"fillfactor": 70},
)

context_messages = sa.Table(
    "context_messages",
    metadata,
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("context_id", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("payload", JSONB, nullable=False),
    _time("created_at"),
    sa.PrimaryKeyConstraint("owner", "context_id", "position"),
    sa.ForeignKeyConstraint(
        ["owner", "context_id"], ["contexts.owner", "contexts.context_id"], ondelete="CASCADE"
    ),
)

tasks = sa.Table(
    "tasks",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("context_id", sa.Text, nullable=False),
    sa.Column("position", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'submitted'::text")),
    sa.Column("status_message", JSONB),
    _time("status_timestamp"),
    # The number of the event that made the present status; 0 until there is one.
    _count("status_seq", sa.BigInteger),
    _json("metadata"),
    # The fencing token: grows with every claim.
    _count("attempt"),
    # Attempts that never settled: their events are kept, and left out of every view.
    sa.Column("lost_attempts", ARRAY(sa.Integer), nullable=False, server_default=sa.text("'{}'::integer[]")),
    _count("failures"),
    _count("crashes"),
    sa.Column("lease_holder", sa.Text),
    sa.Column("lease_token", UUID),
    # In no index: a renewal is then an update of one page (HOT).
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    # The last write of the attempt that was kept: the same number again is the same write.
    _count("write_no"),
    _count("last_seq", sa.BigInteger),
    # The caller's newest message, and the newest one that a turn was given: unequal means unread.
    _count("message_seq", sa.BigInteger),
    _count("read_seq", sa.BigInteger),
    _time("due_at"),
    _count("dispatch"),
    _time("dispatched_at"),
    _time("created_at"),
    _time("updated_at"),
    # How many turns have settled: the results of checkpoints belong to one of them, whatever its attempt.
    _count("turns"),
    # Not before this: a message's own wish, or the wait for a retry.
    # A task that has not started by then, or has not ended by then, fails.
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("deadline_at", sa.TIMESTAMP(timezone=True)),
    # Higher ones go first; within a priority the owners take turns (see `rank` in the statements).
    _count("priority", sa.SmallInteger),
    _count("rank", sa.BigInteger),
    # Runs beside the other turns of its conversation.
    sa.Column("parallel", sa.Boolean, nullable=False, server_default=sa.text("false")),
    # What it counts against while it runs: rows of concurrency_limits.
    sa.Column("limit_keys", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'::text[]")),
    # Pieces of an artifact were written one by one, and have not been folded.
    sa.Column("streamed", sa.Boolean, nullable=False, server_default=sa.text("false")),
    # Whose task it is; empty for an agent that is alone. The owner says it too: this is for who claims.
    sa.Column("agent", sa.Text, nullable=False, server_default=sa.text("''::text")),
    # W3C trace contexts of the requests that brought its messages, the newest last; null where nothing is traced.
    sa.Column("trace_contexts", ARRAY(sa.Text)),
    # Its log has been shortened to what says where it stands.
    sa.Column("trimmed", sa.Boolean, nullable=False, server_default=sa.text("false")),
    sa.PrimaryKeyConstraint("task_id"),
    sa.ForeignKeyConstraint(
        ["owner", "context_id"], ["contexts.owner", "contexts.context_id"], ondelete="CASCADE"
    ),
    sa.CheckConstraint(f"state IN ({_STATES})", name="state"),
    sa.CheckConstraint(
        "(lease_token IS NULL) = (lease_holder IS NULL) AND (lease_token IS NULL) = (lease_until IS NULL)",
        name="lease",
    ),
    sa.CheckConstraint("state <> 'working' OR lease_token IS NOT NULL", name="working_is_held"),
    sa.CheckConstraint("state <> 'submitted' OR lease_token IS NULL", name="submitted_is_free"),
    sa.CheckConstraint("read_seq <= message_seq AND message_seq <= last_seq", name="seqs"),
    sa.Index("ix_tasks_page", "owner", sa.text("status_timestamp DESC"), sa.text("task_id DESC")),
    sa.Index("ix_tasks_state", "owner", "state", sa.text("status_timestamp DESC"), sa.text("task_id DESC")),
    sa.Index("ix_tasks_context", "owner", "context_id", "position", unique=True),
    sa.Index(
        "ix_tasks_due",
        sa.text("priority DESC"),
        "rank",
        "due_at",
        "task_id",
        postgresql_where=sa.text(_WAITS),
    ),
    # The same of each of several agents, so that nobody reads past what waits for another one.
    sa.Index(
        "ix_tasks_agent_due",
        "agent",
        sa.text("priority DESC"),
        "rank",
        "due_at",
        "task_id",
        postgresql_where=sa.text(f"{_WAITS} AND agent <> ''"),
    ),
    # What the next rank of an owner is.
    sa.Index("ix_tasks_rank", "owner", "priority", "rank", postgresql_where=sa.text(_WAITS)),
    sa.Index(
        "ix_tasks_expiry",
        sa.text("LEAST(expires_at, deadline_at)"),
        postgresql_where=sa.text("state = 'submitted' AND LEAST(expires_at, deadline_at) IS NOT NULL"),
    ),
    sa.Index(
        "ix_tasks_line",
        "owner",
        "context_id",
        "position",
        postgresql_where=sa.text("state = 'submitted'"),
    ),
    # Those that wait for their caller are few and may be old: counted without a look at all the others.
    sa.Index(
        "ix_tasks_interrupted",
        "task_id",
        postgresql_where=sa.text("state IN ('input-required', 'auth-required')"),
    ),
    sa.Index("ix_tasks_leased", "lease_token", postgresql_where=sa.text("lease_token IS NOT NULL")),
    sa.Index("ix_tasks_streamed", "status_timestamp", postgresql_where=sa.text("streamed")),
)

task_events = sa.Table(
    "task_events",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    # Less than seq where events were folded into one.
    sa.Column("first_seq", sa.BigInteger, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("payload", JSONB, nullable=False),
    _time("created_at"),
    # Who claimed the attempt, on the event that says so: for operators, not for callers.
    sa.Column("worker", sa.Text),
    sa.PrimaryKeyConstraint("task_id", "seq"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
    sa.CheckConstraint("kind IN ('message', 'artifact', 'status')", name="kind"),
    sa.CheckConstraint("first_seq BETWEEN 1 AND seq", name="first_seq"),
)

task_feedback = sa.Table(
    "task_feedback",
    metadata,
    sa.Column("feedback_id", UUID, nullable=False),
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("feedback", sa.Text, nullable=False),
    sa.Column("rating", sa.SmallInteger),
    _json("metadata"),
    _time("created_at"),
    sa.PrimaryKeyConstraint("feedback_id"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
    sa.CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
    sa.Index("ix_task_feedback_task", "task_id", "created_at", "feedback_id"),
)

webhook_configs = sa.Table(
    "webhook_configs",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("config_id", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("scheme", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("credentials", sa.Text, nullable=False, server_default=sa.text("''::text")),
    _time("created_at"),
    # The protocol's version that it was made in, and is spoken to it.
    sa.Column("version", sa.Text, nullable=False, server_default=sa.text("'1.0'::text")),
    # What shares a breaker and a limit of requests.
    sa.Column("endpoint", sa.Text, nullable=False, server_default=sa.text("''::text")),
    # Why nothing is sent to it until it is enabled.
    sa.Column("disabled", sa.Text),
    sa.Column("failing_since", sa.TIMESTAMP(timezone=True)),
    # Its deliveries are a line: when the first of them is to be sent; none where nothing waits or it is disabled.
    sa.Column("due_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("lease_token", UUID),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    sa.PrimaryKeyConstraint("task_id", "config_id"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
    sa.CheckConstraint("version IN ('1.0', '0.3')", name="version"),
    sa.CheckConstraint("disabled IS NULL OR due_at IS NULL", name="disabled_is_not_due"),
    sa.Index("ix_webhook_configs_due", "endpoint", "due_at", postgresql_where=sa.text("due_at IS NOT NULL")),
    sa.Index("ix_webhook_configs_held", "endpoint", postgresql_where=sa.text("lease_token IS NOT NULL")),
)

webhook_deliveries = sa.Table(
    "webhook_deliveries",
    metadata,
    sa.Column("delivery_id", UUID, nullable=False, server_default=sa.text("gen_random_uuid()")),
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("config_id", sa.Text, nullable=False),
    sa.Column("seq", sa.BigInteger, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default=sa.text("'waiting'::text")),
    # All attempts, and those since it was last replayed.
    _count("attempts"),
    _count("tries"),
    _time("created_at"),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.PrimaryKeyConstraint("delivery_id"),
    sa.ForeignKeyConstraint(
        ["task_id", "config_id"], ["webhook_configs.task_id", "webhook_configs.config_id"], ondelete="CASCADE"
    ),
    sa.CheckConstraint("state IN ('waiting', 'delivered', 'failed')", name="state"),
    sa.CheckConstraint("(state = 'waiting') = (ended_at IS NULL)", name="ended"),
    sa.Index("ix_webhook_deliveries_line", "task_id", "config_id", "seq", unique=True),
    sa.Index(
        "ix_webhook_deliveries_waiting",
        "task_id",
        "config_id",
        "seq",
        postgresql_where=sa.text("state = 'waiting'"),
    ),
    sa.Index("ix_webhook_deliveries_owner", "owner", sa.text("created_at DESC"), sa.text("delivery_id DESC")),
    sa.Index("ix_webhook_deliveries_page", sa.text("created_at DESC"), sa.text("delivery_id DESC")),
    sa.Index("ix_webhook_deliveries_ended", "ended_at", postgresql_where=sa.text("ended_at IS NOT NULL")),
)

webhook_attempts = sa.Table(
    "webhook_attempts",
    metadata,
    sa.Column("delivery_id", UUID, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("started_at", sa.TIMESTAMP(timezone=True), nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("status", sa.Integer),
    sa.Column("error", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("answer", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("owner", sa.Text, nullable=False),
    sa.PrimaryKeyConstraint("delivery_id", "attempt"),
    sa.ForeignKeyConstraint(["delivery_id"], ["webhook_deliveries.delivery_id"], ondelete="CASCADE"),
)

# Only those that fail: whoever answers well is deleted.
webhook_endpoints = sa.Table(
    "webhook_endpoints",
    metadata,
    sa.Column("endpoint", sa.Text, nullable=False),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("open_until", sa.TIMESTAMP(timezone=True)),
    sa.PrimaryKeyConstraint("endpoint"),
)

concurrency_limits = sa.Table(
    "concurrency_limits",
    metadata,
    sa.Column("limit_key", sa.Text, nullable=False),
    sa.Column("max_running", sa.Integer, nullable=False),
    _count("running"),
    sa.PrimaryKeyConstraint("limit_key"),
    sa.CheckConstraint("running >= 0", name="running"),
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("key", sa.Text, nullable=False),
    # What was asked for: the same key with something else is refused.
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("task_id", UUID, nullable=False),
    _time("created_at"),
    sa.PrimaryKeyConstraint("owner", "key"),
    # Deferred: the key is taken first, so that a second send waits for the first one's end.
    sa.ForeignKeyConstraint(
        ["task_id"], ["tasks.task_id"], ondelete="CASCADE", deferrable=True, initially="DEFERRED"
    ),
    sa.Index("ix_idempotency_keys_created_at", "created_at"),
    sa.Index("ix_idempotency_keys_task_id", "task_id"),
)

task_steps = sa.Table(
    "task_steps",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("turn", sa.Integer, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("occurrence", sa.Integer, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),  # jsonb would not keep the order of members
    sa.Column("attempt", sa.Integer, nullable=False),
    _time("created_at"),
    sa.PrimaryKeyConstraint("task_id", "turn", "name", "occurrence"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
)

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.text("false")),
    _time("started_at"),
    _time("beat_at"),
    sa.Column("name", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("loop_lag", sa.Float, nullable=False, server_default=sa.text("0")),
    # By an operator; its next beat reads it.
    sa.Column("asked_to_drain", sa.Boolean, nullable=False, server_default=sa.text("false")),
    _json("counters"),
    # Whose turns it runs; empty for an agent that is alone.
    sa.Column("agents", ARRAY(sa.Text), nullable=False, server_default=sa.text("'{}'::text[]")),
    sa.PrimaryKeyConstraint("worker_id"),
)

# Why attempts failed, in the worker's own words: operators read it, callers never do.
task_failures = sa.Table(
    "task_failures",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("attempt", sa.Integer, nullable=False),
    # The same for failures that differ only in numbers, ids and quoted words.
    sa.Column("fingerprint", sa.Text, nullable=False),
    sa.Column("error_class", sa.Text, nullable=False),
    sa.Column("message", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("traceback", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("worker", sa.Text, nullable=False, server_default=sa.text("''::text")),
    _time("created_at"),
    sa.PrimaryKeyConstraint("task_id", "attempt"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
    sa.Index("ix_task_failures_created_at", "created_at"),
    sa.Index("ix_task_failures_fingerprint", "fingerprint", "task_id"),
)

# What operators did. Its ids sort by time.
operator_actions = sa.Table(
    "operator_actions",
    metadata,
    sa.Column("action_id", UUID, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("target", sa.Text, nullable=False),
    sa.Column("result", sa.Text, nullable=False, server_default=sa.text("''::text")),
    _time("created_at"),
    sa.PrimaryKeyConstraint("action_id"),
)

# Who looks through the tasks for what has been kept for long enough: one worker at a time, and how far it has come.
retention_runs = sa.Table(
    "retention_runs",
    metadata,
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("token", UUID),
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    # After which task to go on; null at the end of a run.
    sa.Column("place", UUID),
    sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
    sa.PrimaryKeyConstraint("name"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("key_id", sa.Text, nullable=False),
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("name", sa.Text, nullable=False),
    sa.Column("scopes", ARRAY(sa.Text), nullable=False),
    # Salt and hash. The one before is good until the overlap of a rotation ends.
    sa.Column("digest", sa.LargeBinary, nullable=False),
    sa.Column("digest_before", sa.LargeBinary),
    sa.Column("overlap_until", sa.TIMESTAMP(timezone=True)),
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("revoked_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("last_used_at", sa.TIMESTAMP(timezone=True)),
    _time("created_at"),
    sa.PrimaryKeyConstraint("key_id"),
    sa.CheckConstraint("(digest_before IS NULL) = (overlap_until IS NULL)", name="overlap"),
)

VIEWS = {
    "task_documents": """
SELECT t.task_id, t.owner, t.context_id, t.state AS status, t.status_message, t.status_timestamp,
       (SELECT coalesce(jsonb_agg(CASE e.kind WHEN 'message' THEN e.payload
                                              ELSE e.payload #> '{status,message}' END ORDER BY e.seq), '[]'::jsonb)
          FROM task_events e
         WHERE e.task_id = t.task_id AND e.attempt <> ALL (t.lost_attempts)
           AND (e.kind = 'message'
                OR (e.kind = 'status' AND e.seq <> t.status_seq AND e.payload #> '{status,message}' IS NOT NULL))
       ) AS history,
       (SELECT coalesce(jsonb_agg(a.artifact ORDER BY a.first_seq), '[]'::jsonb)
          FROM (SELECT min(c.opened) AS first_seq,
                       jsonb_set((array_agg(c.artifact ORDER BY c.seq) FILTER (WHERE c.seq = c.base))[1], '{parts}',
                                 jsonb_agg(p.part ORDER BY c.seq, p.ord)) AS artifact
                  FROM (SELECT e.seq, e.payload -> 'artifact' AS artifact,
                               e.payload #>> '{artifact,artifactId}' AS artifact_id,
                               min(e.seq) OVER same AS opened,
                               max(e.seq) FILTER (WHERE NOT coalesce((e.payload ->> 'append')::boolean, false))
                                   OVER same AS base
                          FROM task_events e
                         WHERE e.task_id = t.task_id AND e.kind = 'artifact' AND e.attempt <> ALL (t.lost_attempts)
                        WINDOW same AS (PARTITION BY e.payload #>> '{artifact,artifactId}')) c
                 CROSS JOIN LATERAL jsonb_array_elements(c.artifact -> 'parts') WITH ORDINALITY AS p(part, ord)
                 WHERE c.seq >= c.base
                 GROUP BY c.artifact_id) a
       ) AS artifacts,
       t.metadata, t.created_at, t.updated_at
  FROM tasks t
""",
    "context_documents": """
SELECT c.owner, c.context_id,
       (SELECT coalesce(jsonb_agg(m.payload ORDER BY m.position, m.seq), '[]'::jsonb)
          FROM (SELECT t.position, e.seq,
                       CASE e.kind WHEN 'message' THEN e.payload ELSE e.payload #> '{status,message}' END AS payload
                  FROM tasks t
                  JOIN task_events e ON e.task_id = t.task_id AND e.attempt <> ALL (t.lost_attempts)
                 WHERE t.owner = c.owner AND t.context_id = c.context_id
                   AND (e.kind = 'message' OR (e.kind = 'status' AND e.payload #> '{status,message}' IS NOT NULL))
                UNION ALL
                SELECT a.position, 0, a.payload
                  FROM context_messages a
                 WHERE a.owner = c.owner AND a.context_id = c.context_id) m
       ) AS messages,
       c.metadata, c.created_at, c.updated_at
  FROM contexts c
""",
}
"""The document shape for psql, reports and backups: what the tables say, as an object a task and an object a context."""

for _name, _query in VIEWS.items():
    for _when, _ddl in (
        ("after_create", f"CREATE VIEW {_name} AS {_query}"),
        ("before_drop", f"DROP VIEW IF EXISTS {_name}"),
    ):
        sa.event.listen(metadata, _when, sa.DDL(_ddl))  # type: ignore[no-untyped-call]

OUTBOX = """
CREATE FUNCTION perdure_tell_webhooks() RETURNS trigger LANGUAGE plpgsql
   SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
AS $$
BEGIN
    IF EXISTS (SELECT FROM added JOIN webhook_configs c ON c.task_id = added.task_id) THEN
        WITH told AS (
                SELECT a.task_id, a.seq, a.kind FROM added a
                 WHERE (a.kind = 'artifact' AND coalesce((a.payload ->> 'lastChunk')::boolean, false))
                    OR (a.kind = 'status' AND (a.payload #>> '{status,state}' <> 'TASK_STATE_WORKING'
                                               OR (a.payload -> 'metadata' IS NULL
                                                   AND a.payload #> '{status,message}' IS NULL)))),
            lines AS (
                UPDATE webhook_configs c
                   SET due_at = CASE WHEN c.disabled IS NULL THEN coalesce(c.due_at, clock_timestamp()) END
                 WHERE c.task_id IN (SELECT task_id FROM told)
                RETURNING c.task_id, c.config_id)
        INSERT INTO webhook_deliveries (task_id, config_id, seq, owner, kind)
        SELECT told.task_id, lines.config_id, told.seq, t.owner, told.kind
          FROM told JOIN lines ON lines.task_id = told.task_id JOIN tasks t ON t.task_id = told.task_id;
    END IF;
    RETURN NULL;
END
$$
"""
"""The one place that fills the outbox: no statement that writes an event can forget it, and it is the same transaction. Of
the task's statuses at work only the first one of a turn is told, which says nothing more; the others are progress. The row
of the line is written even where it stays as it is: whoever ends a delivery holds it while it looks whether another one
waits. The plan is fixed, since it would be made while the tables are small and kept when they are not."""

OUTBOX_TRIGGER = """
CREATE TRIGGER perdure_tell_webhooks AFTER INSERT ON task_events REFERENCING NEW TABLE AS added
   FOR EACH STATEMENT EXECUTE FUNCTION perdure_tell_webhooks()
"""
for _when, _ddl in (
    ("after_create", OUTBOX.replace("%", "%%")),
    ("after_create", OUTBOX_TRIGGER),
    ("after_drop", "DROP FUNCTION IF EXISTS perdure_tell_webhooks"),
):
    sa.event.listen(metadata, _when, sa.DDL(_ddl))  # type: ignore[no-untyped-call]

# ---------------------------------------------------------------------- row-level security
#
# The policies are there always, and cost nothing until `perdure migrate row-security on` puts them into force
# (perdure.storage.row_security).

OWNERLESS = {
    "webhook_endpoints": "who fails to take deliveries: workers alone look at it",
    "workers": "processes, not tasks: a front door counts them",
    "operator_actions": "what operators did, told to operators",
    "retention_runs": "how far the workers have come with what is old",
    "concurrency_limits": "counters that the turns of all owners share, by the keys that the agent's author chose",
}
"""Tables without a policy, and why: what stands in them is nobody's."""

_OWNER = "(SELECT NULLIF(current_setting('perdure.owner', true), ''))"


def policy(table: sa.Table) -> str:
    """The statement that makes a table's policy: the rows of the owner in `perdure.owner` are seen and written, no others.

    What belongs to a task is its owner's. Whether it may be written is asked of a function: a send writes the task and its first
    event in one statement, whose snapshot does not show the task yet.
    """
    if "owner" in table.columns:
        return f"CREATE POLICY perdure_owner ON {table.name} USING (owner = {_OWNER})"
    whose = f"(SELECT t.owner FROM tasks t WHERE t.task_id = {table.name}.task_id)"  # noqa: S608 -- our own name
    return f"CREATE POLICY perdure_owner ON {table.name} USING ({whose} = {_OWNER}) WITH CHECK (perdure_owns(task_id))"


FUNCTIONS = {
    "perdure_owns(uuid)": """
CREATE FUNCTION perdure_owns(task uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM tasks t WHERE t.task_id = task AND t.owner = NULLIF(current_setting('perdure.owner', true), ''));
END $$
""",
    "perdure_least_rank(smallint)": """
CREATE FUNCTION perdure_least_rank(of_priority smallint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT w.rank FROM tasks w WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority
     ORDER BY w.priority DESC, w.rank LIMIT 1;
END
""",
    "perdure_least_rank(text,smallint)": """
CREATE FUNCTION perdure_least_rank(of_agent text, of_priority smallint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT CASE WHEN of_agent = '' THEN (
        SELECT w.rank FROM tasks w
         WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority AND w.agent = ''
         ORDER BY w.priority DESC, w.rank LIMIT 1)
    ELSE (
        SELECT w.rank FROM tasks w
         WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority
           AND w.agent = of_agent AND w.agent <> ''
         ORDER BY w.priority DESC, w.rank LIMIT 1) END;
END
""",
    "perdure_count_waiting(bigint)": """
CREATE FUNCTION perdure_count_waiting(up_to bigint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT count(*) FROM (SELECT FROM tasks WHERE state = 'submitted' AND lease_token IS NULL LIMIT up_to) t;
END
""",
    "perdure_owner_of_key(text)": """
CREATE FUNCTION perdure_owner_of_key(id text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT k.owner FROM api_keys k WHERE k.key_id = id;
END
""",
    "perdure_notices(uuid[])": """
CREATE FUNCTION perdure_notices(task_ids uuid[]) RETURNS TABLE (task_id uuid, last_seq bigint, state text)
LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT id, t.last_seq, t.state FROM unnest(task_ids) AS id LEFT JOIN tasks t ON t.task_id = id;
END
""",
}
"""What a front door may know across owners, and no more: functions with the rights of the tables' owner, their names bound when
they are made. `perdure_owns` alone has no rights of its own."""

WALLED = [table for table in metadata.sorted_tables if table.name not in OWNERLESS]
"""The tables whose rows belong to an owner."""

for _when, _ddl in (
    *(("after_create", function) for function in FUNCTIONS.values()),
    *(("after_create", policy(table)) for table in WALLED),
    *(("before_drop", f"DROP FUNCTION IF EXISTS {signature} CASCADE") for signature in FUNCTIONS),
):
    sa.event.listen(metadata, _when, sa.DDL(_ddl))  # type: ignore[no-untyped-call]
