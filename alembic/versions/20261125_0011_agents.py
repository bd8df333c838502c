"""Several agents: whose task a task is, and whom a worker serves."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import ARRAY

revision = "0011"
down_revision = "0008"
branch_labels = None
depends_on = None

_LEAST_RANK = """
CREATE FUNCTION perdure_least_rank(of_agent text, of_priority smallint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT CASE WHEN of_agent = '' THEN (
        SELECT w.rank FROM tasks w
         WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority AND w.agent = ''
         ORDER BY w.priority DESC, w.rank LIMIT 1)
    ELSE (
        SELECT w.rank FROM tasks w
         WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority
           AND w.agent = of_agent AND w.agent <> ''
         ORDER BY w.priority DESC, w.rank LIMIT 1) END;
END
"""


def upgrade() -> None:
    """Add columns with defaults and a function. What is there stays: processes of the version before go on as they are, with the
    tasks of their only agent."""
    op.add_column("tasks", sa.Column("agent", sa.Text(), server_default=sa.text("''::text"), nullable=False))
    op.add_column(
        "workers",
        sa.Column("agents", ARRAY(sa.Text()), server_default=sa.text("'{}'::text[]"), nullable=False),
    )
    op.execute(_LEAST_RANK)
    op.execute("REVOKE EXECUTE ON FUNCTION perdure_least_rank(text, smallint) FROM PUBLIC")


def downgrade() -> None:
    """Drop them again. An older version would take the tasks of named agents for those of its only one: they are deleted."""
    op.execute("DELETE FROM contexts c USING tasks t WHERE t.owner = c.owner AND t.agent <> ''")
    op.execute("DROP FUNCTION perdure_least_rank(text, smallint)")
    op.drop_column("workers", "agents")
    op.drop_column("tasks", "agent")
