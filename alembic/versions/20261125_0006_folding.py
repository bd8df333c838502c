"""Which tasks have streamed artifacts that are to be folded."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column and its index. What was streamed before stays as it is."""
    op.add_column(
        "tasks", sa.Column("streamed", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_index(
        "ix_tasks_streamed",
        "tasks",
        ["status_timestamp"],
        unique=False,
        postgresql_where=sa.text("streamed"),
    )


def downgrade() -> None:
    """Take both away. What was folded can be read by what there was before."""
    op.drop_index("ix_tasks_streamed", table_name="tasks", postgresql_where=sa.text("streamed"))
    op.drop_column("tasks", "streamed")
