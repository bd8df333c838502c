"""Scheduling: priorities, fair shares, expiry, limits; idempotency keys; the results of checkpoints."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

oldest_code = "0003"
"""Code from before does not count what runs under a limit."""


def upgrade() -> None:
    """Add columns, all with defaults, and tables."""
    op.create_table(
        "concurrency_limits",
        sa.Column("limit_key", sa.Text(), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=False),
        sa.Column("running", sa.Integer(), server_default=sa.text("0"), nullable=False),
        sa.CheckConstraint("running >= 0", name=op.f("ck_concurrency_limits_running")),
        sa.PrimaryKeyConstraint("limit_key", name=op.f("pk_concurrency_limits")),
    )
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.Text(), nullable=False),
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["task_id"],
            ["tasks.task_id"],
            name=op.f("fk_idempotency_keys_task_id"),
            ondelete="CASCADE",
            initially="DEFERRED",
            deferrable=True,
        ),
        sa.PrimaryKeyConstraint("owner", "key", name=op.f("pk_idempotency_keys")),
    )
    op.create_index("ix_idempotency_keys_created_at", "idempotency_keys", ["created_at"], unique=False)
    op.create_index("ix_idempotency_keys_task_id", "idempotency_keys", ["task_id"], unique=False)
    op.create_table(
        "task_steps",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("turn", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("occurrence", sa.Integer(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_task_steps_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "turn", "name", "occurrence", name=op.f("pk_task_steps")),
    )
    op.add_column("tasks", sa.Column("turns", sa.Integer(), server_default=sa.text("0"), nullable=False))
    op.add_column("tasks", sa.Column("expires_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column("tasks", sa.Column("deadline_at", sa.TIMESTAMP(timezone=True), nullable=True))
    op.add_column(
        "tasks", sa.Column("priority", sa.SmallInteger(), server_default=sa.text("0"), nullable=False)
    )
    op.add_column("tasks", sa.Column("rank", sa.BigInteger(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "tasks", sa.Column("parallel", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "tasks",
        sa.Column("limit_keys", ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    )
    op.drop_index("ix_tasks_due", table_name="tasks")
    op.create_index(
        "ix_tasks_due",
        "tasks",
        [sa.literal_column("priority DESC"), "rank", "due_at", "task_id"],
        unique=False,
        postgresql_where=sa.text("state = 'submitted' AND lease_token IS NULL"),
    )
    op.create_index(
        "ix_tasks_expiry",
        "tasks",
        [sa.literal_column("LEAST(expires_at, deadline_at)")],
        unique=False,
        postgresql_where=sa.text("state = 'submitted' AND LEAST(expires_at, deadline_at) IS NOT NULL"),
    )
    op.create_index(
        "ix_tasks_rank",
        "tasks",
        ["owner", "priority", "rank"],
        unique=False,
        postgresql_where=sa.text("state = 'submitted' AND lease_token IS NULL"),
    )


def downgrade() -> None:
    """Take them away."""
    for name in ("ix_tasks_rank", "ix_tasks_expiry", "ix_tasks_due"):
        op.drop_index(name, table_name="tasks")
    op.create_index(
        "ix_tasks_due",
        "tasks",
        ["due_at", "task_id"],
        postgresql_where=sa.text("state = 'submitted' AND lease_token IS NULL"),
    )
    for name in ("limit_keys", "parallel", "rank", "priority", "deadline_at", "expires_at", "turns"):
        op.drop_column("tasks", name)
    for name in ("task_steps", "idempotency_keys", "concurrency_limits"):
        op.drop_table(name)
