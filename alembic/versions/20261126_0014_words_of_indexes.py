"""Indexes that only those statements can have that say their words."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None

_WAITS = "state = 'submitted' AND lease_token IS NULL"
_PAGE = "ON tasks (owner, status_timestamp DESC, task_id DESC)"
_STATE = "ON tasks (owner, state, status_timestamp DESC, task_id DESC)"
_CONTEXT = "ON tasks (owner, context_id, position)"
_LINE = f"{_CONTEXT} WHERE state = 'submitted'"
_RANK = f"ON tasks (owner, priority, rank) WHERE {_WAITS}"
_CONTEXTS = "ON contexts (owner, updated_at DESC, context_id DESC)"

NEW = {
    "ix_tasks_owner_page": f"{_PAGE} WHERE status_timestamp > '-infinity'",
    "ix_tasks_owner_state": f"{_STATE} WHERE status_timestamp > '-infinity'",
    "ix_tasks_conversation": "ON tasks (context_id, owner, position)",
    "ix_tasks_line_of_context": "ON tasks (context_id, owner, position) WHERE state = 'submitted' AND context_id <> ''",
    "ix_tasks_owner_rank": f"{_RANK} AND rank >= 0",
    "ix_contexts_owner_page": f"{_CONTEXTS} WHERE updated_at > '-infinity'",
}
OLD = {
    "ix_tasks_page": _PAGE,
    "ix_tasks_state": _STATE,
    "ix_tasks_context": _CONTEXT,
    "ix_tasks_line": _LINE,
    "ix_tasks_rank": _RANK,
    "ix_contexts_page": _CONTEXTS,
}
UNIQUE = {"ix_tasks_conversation", "ix_contexts_owner_page", "ix_tasks_context", "ix_contexts_page"}


def upgrade() -> None:
    """Older code still finds everything, though it reads more than it should, for as long as it is there."""
    _replace(OLD, NEW)


def downgrade() -> None:
    """As it was."""
    _replace(NEW, OLD)


def _replace(old: dict[str, str], new: dict[str, str]) -> None:
    with op.get_context().autocommit_block():
        for gone, (name, what) in zip(old, new.items(), strict=True):
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}")  # of a try that broke off
            unique = "UNIQUE " if name in UNIQUE else ""
            op.execute(f"CREATE {unique}INDEX CONCURRENTLY {name} {what}")
            op.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {gone}")
