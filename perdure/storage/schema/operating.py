"""Workers, why attempts failed, what operators did, API keys."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, UUID

from perdure.storage.schema.base import json_column, metadata, time_column

workers = sa.Table(
    "workers",
    metadata,
    sa.Column("worker_id", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("slots", sa.Integer, nullable=False),
    sa.Column("running", sa.Integer, nullable=False),
    sa.Column("draining", sa.Boolean, nullable=False, server_default=sa.text("false")),
    time_column("started_at"),
    time_column("beat_at"),
    sa.Column("name", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("loop_lag", sa.Float, nullable=False, server_default=sa.text("0")),
    # By an operator; its next beat reads it.
    sa.Column("asked_to_drain", sa.Boolean, nullable=False, server_default=sa.text("false")),
    json_column("counters"),
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
    time_column("created_at"),
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
    time_column("created_at"),
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
    time_column("created_at"),
    sa.PrimaryKeyConstraint("key_id"),
    sa.CheckConstraint("(digest_before IS NULL) = (overlap_until IS NULL)", name="overlap"),
)
