"""Two indexes that nobody reads, and room in the pages of conversations."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0010"
branch_labels = None
depends_on = None

contract = "no statement has ever looked for metadata"


def upgrade() -> None:
    """Every change of a task's state wrote into them. A conversation's slot is taken and freed within its page."""
    op.drop_index("ix_tasks_metadata", table_name="tasks", postgresql_using="gin")
    op.drop_index("ix_contexts_metadata", table_name="contexts", postgresql_using="gin")
    op.execute("ALTER TABLE contexts SET (fillfactor = 70)")


def downgrade() -> None:
    """Build them again."""
    op.execute("ALTER TABLE contexts RESET (fillfactor)")
    op.create_index("ix_contexts_metadata", "contexts", ["metadata"], postgresql_using="gin")
    op.create_index("ix_tasks_metadata", "tasks", ["metadata"], postgresql_using="gin")
