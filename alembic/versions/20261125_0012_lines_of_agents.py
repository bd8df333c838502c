"""The line of each of several agents: an index that is empty where there is one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Build it beside writers, anew where an earlier try was broken off."""
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_tasks_agent_due")
        op.create_index(
            "ix_tasks_agent_due",
            "tasks",
            ["agent", sa.text("priority DESC"), "rank", "due_at", "task_id"],
            postgresql_where=sa.text("state = 'submitted' AND lease_token IS NULL AND agent <> ''"),
            postgresql_concurrently=True,
        )


def downgrade() -> None:
    """Drop it again."""
    op.drop_index("ix_tasks_agent_due", "tasks")
