"""Row-level security: the policies and functions that `perdure migrate row-security on` puts into force.

Until then they cost nothing: the policies of a table without row security are not read.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

OWNED = ("contexts", "context_messages", "tasks", "idempotency_keys", "api_keys")
OF_TASKS = ("task_events", "task_feedback", "webhook_configs", "task_steps", "task_failures")
OWNER = "(SELECT NULLIF(current_setting('perdure.owner', true), ''))"

FUNCTIONS = {
    "perdure_owns(uuid)": """
CREATE FUNCTION perdure_owns(task uuid) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    RETURN EXISTS (SELECT FROM tasks t WHERE t.task_id = task AND t.owner = NULLIF(current_setting('perdure.owner', true), ''));
END $$
""",
    "perdure_least_rank(smallint)": """
CREATE FUNCTION perdure_least_rank(of_priority smallint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT w.rank FROM tasks w WHERE w.state = 'submitted' AND w.lease_token IS NULL AND w.priority = of_priority
     ORDER BY w.priority DESC, w.rank LIMIT 1;
END
""",
    "perdure_count_waiting(bigint)": """
CREATE FUNCTION perdure_count_waiting(up_to bigint) RETURNS bigint LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT count(*) FROM (SELECT FROM tasks WHERE state = 'submitted' AND lease_token IS NULL LIMIT up_to) t;
END
""",
    "perdure_owner_of_key(text)": """
CREATE FUNCTION perdure_owner_of_key(id text) RETURNS text LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT k.owner FROM api_keys k WHERE k.key_id = id;
END
""",
    "perdure_notices(uuid[])": """
CREATE FUNCTION perdure_notices(task_ids uuid[]) RETURNS TABLE (task_id uuid, last_seq bigint, state text)
LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT id, t.last_seq, t.state FROM unnest(task_ids) AS id LEFT JOIN tasks t ON t.task_id = id;
END
""",
}


def upgrade() -> None:
    """Create the functions, then the policies."""
    for signature, statement in FUNCTIONS.items():
        op.execute(statement)
        op.execute(f"REVOKE EXECUTE ON FUNCTION {signature} FROM PUBLIC")
    for table in OWNED:
        op.execute(f"CREATE POLICY perdure_owner ON {table} USING (owner = {OWNER})")
    for table in OF_TASKS:
        op.execute(
            f"CREATE POLICY perdure_owner ON {table} "  # noqa: S608 -- our own names
            f"USING ((SELECT t.owner FROM tasks t WHERE t.task_id = {table}.task_id) = {OWNER}) "
            "WITH CHECK (perdure_owns(task_id))"
        )


def downgrade() -> None:
    """Put row security out of force and drop all of it."""
    for table in (*OWNED, *OF_TASKS):
        op.execute(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY, DISABLE ROW LEVEL SECURITY")
        for policy in ("perdure_owner", "perdure_workers", "perdure_functions"):
            op.execute(f"DROP POLICY IF EXISTS {policy} ON {table}")
    for signature in FUNCTIONS:
        op.execute(f"DROP FUNCTION {signature}")
