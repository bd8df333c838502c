"""Webhook deliveries: the outbox that a trigger fills, its attempts, and the breakers of endpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import UUID

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_TIME = sa.TIMESTAMP(timezone=True)

_FUNCTION = """
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
_TRIGGER = """
CREATE TRIGGER perdure_tell_webhooks AFTER INSERT ON task_events REFERENCING NEW TABLE AS added
   FOR EACH STATEMENT EXECUTE FUNCTION perdure_tell_webhooks()
"""
_OWNER = "(SELECT NULLIF(current_setting('perdure.owner', true), ''))"
# Those of before, so that they share breakers and limits as new ones do.
_ENDPOINTS = """
UPDATE webhook_configs c SET endpoint = coalesce(lower(substring(c.url FROM '^[A-Za-z]+://[^/?#]+')), '') || ' ' || t.owner
  FROM tasks t WHERE t.task_id = c.task_id
"""


def _text(name: str, default: str = "") -> sa.Column[str]:
    return sa.Column(name, sa.Text(), server_default=sa.text(f"'{default}'::text"), nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer(), server_default=sa.text("0"), nullable=False)


def upgrade() -> None:
    """Add columns, all with defaults or null, tables and the trigger."""
    for column in (
        _text("version", "1.0"),
        _text("endpoint"),
        sa.Column("disabled", sa.Text()),
        sa.Column("failing_since", _TIME),
        sa.Column("due_at", _TIME),
        sa.Column("lease_token", UUID()),
        sa.Column("lease_until", _TIME),
    ):
        op.add_column("webhook_configs", column)
    op.execute(_ENDPOINTS)
    op.create_check_constraint(
        op.f("ck_webhook_configs_version"), "webhook_configs", "version IN ('1.0', '0.3')"
    )
    op.create_check_constraint(
        op.f("ck_webhook_configs_disabled_is_not_due"),
        "webhook_configs",
        "disabled IS NULL OR due_at IS NULL",
    )
    op.create_index(
        "ix_webhook_configs_due",
        "webhook_configs",
        ["endpoint", "due_at"],
        postgresql_where=sa.text("due_at IS NOT NULL"),
    )
    op.create_index(
        "ix_webhook_configs_held",
        "webhook_configs",
        ["endpoint"],
        postgresql_where=sa.text("lease_token IS NOT NULL"),
    )
    _deliveries()
    op.create_table(
        "webhook_attempts",
        sa.Column("delivery_id", UUID(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("started_at", _TIME, nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("status", sa.Integer()),
        _text("error"),
        _text("answer"),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("delivery_id", "attempt", name=op.f("pk_webhook_attempts")),
        sa.ForeignKeyConstraint(
            ["delivery_id"],
            ["webhook_deliveries.delivery_id"],
            name=op.f("fk_webhook_attempts_delivery_id"),
            ondelete="CASCADE",
        ),
    )
    op.create_table(
        "webhook_endpoints",
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.Column("open_until", _TIME),
        sa.PrimaryKeyConstraint("endpoint", name=op.f("pk_webhook_endpoints")),
    )
    for table in ("webhook_deliveries", "webhook_attempts"):
        op.execute(f"CREATE POLICY perdure_owner ON {table} USING (owner = {_OWNER})")
    op.execute(_FUNCTION)
    op.execute(_TRIGGER)


def _deliveries() -> None:
    op.create_table(
        "webhook_deliveries",
        sa.Column("delivery_id", UUID(), server_default=sa.text("gen_random_uuid()"), nullable=False),
        sa.Column("task_id", UUID(), nullable=False),
        sa.Column("config_id", sa.Text(), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        _text("state", "waiting"),
        _count("attempts"),
        _count("tries"),
        sa.Column("created_at", _TIME, server_default=sa.text("clock_timestamp()"), nullable=False),
        sa.Column("ended_at", _TIME),
        sa.PrimaryKeyConstraint("delivery_id", name=op.f("pk_webhook_deliveries")),
        sa.ForeignKeyConstraint(
            ["task_id", "config_id"],
            ["webhook_configs.task_id", "webhook_configs.config_id"],
            name=op.f("fk_webhook_deliveries_task_id_config_id"),
            ondelete="CASCADE",
        ),
        sa.CheckConstraint(
            "state IN ('waiting', 'delivered', 'failed')", name=op.f("ck_webhook_deliveries_state")
        ),
        sa.CheckConstraint(
            "(state = 'waiting') = (ended_at IS NULL)", name=op.f("ck_webhook_deliveries_ended")
        ),
    )
    line = ["task_id", "config_id", "seq"]
    op.create_index("ix_webhook_deliveries_line", "webhook_deliveries", line, unique=True)
    op.create_index(
        "ix_webhook_deliveries_waiting",
        "webhook_deliveries",
        line,
        postgresql_where=sa.text("state = 'waiting'"),
    )
    newest = [sa.text("created_at DESC"), sa.text("delivery_id DESC")]
    op.create_index("ix_webhook_deliveries_owner", "webhook_deliveries", ["owner", *newest])
    op.create_index("ix_webhook_deliveries_page", "webhook_deliveries", newest)
    op.create_index(
        "ix_webhook_deliveries_ended",
        "webhook_deliveries",
        ["ended_at"],
        postgresql_where=sa.text("ended_at IS NOT NULL"),
    )


def downgrade() -> None:
    """Drop them again. Configs that are sealed or the operator's own mean nothing to an older version."""
    op.execute("DROP TRIGGER perdure_tell_webhooks ON task_events")
    op.execute("DROP FUNCTION perdure_tell_webhooks")
    for table in ("webhook_endpoints", "webhook_attempts", "webhook_deliveries"):
        op.drop_table(table)
    op.execute("DELETE FROM webhook_configs WHERE config_id = '' OR url LIKE 'fernet:%'")
    op.drop_index("ix_webhook_configs_held", "webhook_configs")
    op.drop_index("ix_webhook_configs_due", "webhook_configs")
    for name in ("disabled_is_not_due", "version"):
        op.drop_constraint(op.f(f"ck_webhook_configs_{name}"), "webhook_configs")
    for column in (
        "lease_until",
        "lease_token",
        "due_at",
        "failing_since",
        "disabled",
        "endpoint",
        "version",
    ):
        op.drop_column("webhook_configs", column)
