"""The trace contexts of the requests that brought a task's messages."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0009"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add a column. Processes of before go on without it: what they store is not traced."""
    op.add_column("tasks", sa.Column("trace_contexts", ARRAY(sa.Text()), nullable=True))


def downgrade() -> None:
    """Take it away."""
    op.drop_column("tasks", "trace_contexts")
