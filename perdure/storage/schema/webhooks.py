"""Push notification configs, what is to be told to them, and the trigger that writes it down."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import UUID

from perdure.storage.schema.base import count_column, metadata, time_column

webhook_configs = sa.Table(
    "webhook_configs",
    metadata,
    sa.Column("task_id", UUID, nullable=False),
    sa.Column("config_id", sa.Text, nullable=False),
    sa.Column("url", sa.Text, nullable=False),
    sa.Column("token", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("scheme", sa.Text, nullable=False, server_default=sa.text("''::text")),
    sa.Column("credentials", sa.Text, nullable=False, server_default=sa.text("''::text")),
    time_column("created_at"),
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
    count_column("attempts"),
    count_column("tries"),
    time_column("created_at"),
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
