"""What operators see: who ran an attempt, why it failed, how workers are, and what was done by hand."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _now(name: str) -> sa.Column[object]:
    return sa.Column(
        name, sa.TIMESTAMP(timezone=True), server_default=sa.text("clock_timestamp()"), nullable=False
    )


def _empty() -> sa.TextClause:
    return sa.text("''::text")


def upgrade() -> None:
    """Add the tables and columns. None of them rewrites a table."""
    op.add_column("task_events", sa.Column("worker", sa.Text(), nullable=True))
    op.create_index(
        "ix_tasks_interrupted",
        "tasks",
        ["task_id"],
        postgresql_where=sa.text("state IN ('input-required', 'auth-required')"),
    )
    op.add_column("workers", sa.Column("name", sa.Text(), server_default=_empty(), nullable=False))
    op.add_column("workers", sa.Column("loop_lag", sa.Float(), server_default=sa.text("0"), nullable=False))
    op.add_column(
        "workers", sa.Column("asked_to_drain", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.add_column(
        "workers",
        sa.Column("counters", postgresql.JSONB(), server_default=sa.text("'{}'::jsonb"), nullable=False),
    )
    op.create_table(
        "task_failures",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("error_class", sa.Text(), nullable=False),
        sa.Column("message", sa.Text(), server_default=_empty(), nullable=False),
        sa.Column("traceback", sa.Text(), server_default=_empty(), nullable=False),
        sa.Column("worker", sa.Text(), server_default=_empty(), nullable=False),
        _now("created_at"),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_task_failures_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "attempt", name=op.f("pk_task_failures")),
    )
    op.create_index("ix_task_failures_created_at", "task_failures", ["created_at"])
    op.create_index("ix_task_failures_fingerprint", "task_failures", ["fingerprint", "task_id"])
    op.create_table(
        "operator_actions",
        sa.Column("action_id", sa.UUID(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("target", sa.Text(), nullable=False),
        sa.Column("result", sa.Text(), server_default=_empty(), nullable=False),
        _now("created_at"),
        sa.PrimaryKeyConstraint("action_id", name=op.f("pk_operator_actions")),
    )


def downgrade() -> None:
    """Drop them."""
    op.drop_table("operator_actions")
    op.drop_table("task_failures")
    for column in ("counters", "asked_to_drain", "loop_lag", "name"):
        op.drop_column("workers", column)
    op.drop_index("ix_tasks_interrupted", table_name="tasks")
    op.drop_column("task_events", "worker")
