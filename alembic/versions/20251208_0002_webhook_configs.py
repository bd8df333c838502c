"""Webhook configs: where A2A push notifications of a task are sent."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create the table."""
    op.create_table(
        "webhook_configs",
        sa.Column("task_id", sa.UUID(), nullable=False),
        sa.Column("config_id", sa.Text(), nullable=False),
        sa.Column("url", sa.Text(), nullable=False),
        sa.Column("token", sa.Text(), server_default=sa.text("''::text"), nullable=False),
        sa.Column("scheme", sa.Text(), server_default=sa.text("''::text"), nullable=False),
        sa.Column("credentials", sa.Text(), server_default=sa.text("''::text"), nullable=False),
        sa.Column(
            "created_at",
            sa.TIMESTAMP(timezone=True),
            server_default=sa.text("clock_timestamp()"),
            nullable=False,
        ),
        sa.ForeignKeyConstraint(
            ["task_id"], ["tasks.task_id"], name=op.f("fk_webhook_configs_task_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("task_id", "config_id", name=op.f("pk_webhook_configs")),
    )


def downgrade() -> None:
    """Drop the table."""
    op.drop_table("webhook_configs")
