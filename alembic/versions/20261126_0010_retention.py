"""Whose logs have been trimmed, and how far retention has come."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column, which rewrites nothing, and a table."""
    op.add_column(
        "tasks", sa.Column("trimmed", sa.Boolean(), server_default=sa.text("false"), nullable=False)
    )
    op.create_table(
        "retention_runs",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("token", sa.UUID()),
        sa.Column("lease_until", sa.TIMESTAMP(timezone=True)),
        sa.Column("place", sa.UUID()),
        sa.Column("ended_at", sa.TIMESTAMP(timezone=True)),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_retention_runs")),
    )


def downgrade() -> None:
    """Take both away. A trimmed log reads the same."""
    op.drop_table("retention_runs")
    op.drop_column("tasks", "trimmed")
