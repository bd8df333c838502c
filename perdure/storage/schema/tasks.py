"""Conversations, their tasks, and what belongs to a task."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, UUID

from perdure.storage.schema.base import count_column, json_column, metadata, time_column
from perdure.tasks import TaskState

_STATES = ", ".join(f"'{state}'" for state in TaskState)
_WAITS = "state = 'submitted' AND lease_token IS NULL"
_EVER = "> '-infinity'"
"""Of every time. Indexes are partial by words that are true of every row: only a statement that says the words can have them. Of
several that would do Postgres takes what looks small at the moment, and keeps to it when it is not small any more."""

contexts = sa.Table(
    "contexts",
    metadata,
    sa.Column("owner", sa.Text, nullable=False),
    sa.Column("context_id", sa.Text, nullable=False),
    json_column("metadata"),
    # The place that was drawn last: tasks and appended messages of a context are in the order of their places.
    count_column("last_position", sa.BigInteger),
    # The conversation's slot: the task whose turn runs, until its holder has let go of it.
    sa.Column("running_task", UUID),
    # How many of its tasks are submitted. Whoever frees the slot reads it under the row's lock: no lost wake-up.
    count_column("waiting"),
    time_column("created_at"),
    time_column("updated_at"),
    sa.PrimaryKeyConstraint("owner", "context_id"),
    sa.CheckConstraint("waiting >= 0", name="waiting"),
    sa.CheckConstraint("char_length(context_id) BETWEEN 1 AND 512", name="context_id"),
    sa.Index(
        "ix_contexts_owner_page",
        "owner",
        sa.text("updated_at DESC"),
        sa.text("context_id DESC"),
        unique=True,
        postgresql_where=sa.text(f"updated_at {_EVER}"),
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
    time_column("created_at"),
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
    time_column("status_timestamp"),
    # The number of the event that made the present status; 0 until there is one.
    count_column("status_seq", sa.BigInteger),
    json_column("metadata"),
    # The fencing token: grows with every claim.
    count_column("attempt"),
    # Attempts that never settled: their events are kept, and left out of every view.
    sa.Column("lost_attempts", ARRAY(sa.Integer), nullable=False, server_default=sa.text("'{}'::integer[]")),
    count_column("failures"),
    count_column("crashes"),
    sa.Column("lease_holder", sa.Text),
    sa.Column("lease_token", UUID),
    # In no index: a renewal is then an update of one page (HOT).
    sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
    # The last write of the attempt that was kept: the same number again is the same write.
    count_column("write_no"),
    count_column("last_seq", sa.BigInteger),
    # The caller's newest message, and the newest one that a turn was given: unequal means unread.
    count_column("message_seq", sa.BigInteger),
    count_column("read_seq", sa.BigInteger),
    time_column("due_at"),
    count_column("dispatch"),
    time_column("dispatched_at"),
    time_column("created_at"),
    time_column("updated_at"),
    # How many turns have settled: the results of checkpoints belong to one of them, whatever its attempt.
    count_column("turns"),
    # Not before this: a message's own wish, or the wait for a retry.
    # A task that has not started by then, or has not ended by then, fails.
    sa.Column("expires_at", sa.TIMESTAMP(timezone=True)),
    sa.Column("deadline_at", sa.TIMESTAMP(timezone=True)),
    # Higher ones go first; within a priority the owners take turns (see `rank` in the statements).
    count_column("priority", sa.SmallInteger),
    count_column("rank", sa.BigInteger),
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
    sa.Index(
        "ix_tasks_owner_page",
        "owner",
        sa.text("status_timestamp DESC"),
        sa.text("task_id DESC"),
        postgresql_where=sa.text(f"status_timestamp {_EVER}"),
    ),
    sa.Index(
        "ix_tasks_owner_state",
        "owner",
        "state",
        sa.text("status_timestamp DESC"),
        sa.text("task_id DESC"),
        postgresql_where=sa.text(f"status_timestamp {_EVER}"),
    ),
    sa.Index("ix_tasks_conversation", "context_id", "owner", "position", unique=True),
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
    sa.Index(
        "ix_tasks_owner_rank",
        "owner",
        "priority",
        "rank",
        postgresql_where=sa.text(f"{_WAITS} AND rank >= 0"),
    ),
    sa.Index(
        "ix_tasks_expiry",
        sa.text("LEAST(expires_at, deadline_at)"),
        postgresql_where=sa.text("state = 'submitted' AND LEAST(expires_at, deadline_at) IS NOT NULL"),
    ),
    sa.Index(
        "ix_tasks_line_of_context",
        "context_id",
        "owner",
        "position",
        postgresql_where=sa.text("state = 'submitted' AND context_id <> ''"),
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
    time_column("created_at"),
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
    json_column("metadata"),
    time_column("created_at"),
    sa.PrimaryKeyConstraint("feedback_id"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
    sa.CheckConstraint("rating BETWEEN 1 AND 5", name="rating"),
    sa.Index("ix_task_feedback_task", "task_id", "created_at", "feedback_id"),
)

concurrency_limits = sa.Table(
    "concurrency_limits",
    metadata,
    sa.Column("limit_key", sa.Text, nullable=False),
    sa.Column("max_running", sa.Integer, nullable=False),
    count_column("running"),
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
    time_column("created_at"),
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
    time_column("created_at"),
    sa.PrimaryKeyConstraint("task_id", "turn", "name", "occurrence"),
    sa.ForeignKeyConstraint(["task_id"], ["tasks.task_id"], ondelete="CASCADE"),
)
