"""Row-level security: the policies, and what a front door may know in spite of them.

They are there always, and cost nothing until `perdure migrate row-security on` puts them into force
(perdure.storage.row_security).
"""

from __future__ import annotations

import sqlalchemy as sa

from perdure.storage.schema import operating, tasks, webhooks  # noqa: F401 -- a policy is made for every table that is there
from perdure.storage.schema.base import metadata

OWNERLESS = {
    "webhook_endpoints": "who fails to take deliveries: workers alone look at it",
    "workers": "processes, not tasks: a front door counts them",
    "operator_actions": "what operators did, told to operators",
    "retention_runs": "how far the workers have come with what is old",
    "concurrency_limits": "counters that the turns of all owners share, by the keys that the agent's author chose",
}
"""Tables without a policy, and why: what stands in them is nobody's."""

_OWNER = "(SELECT NULLIF(current_setting('perdure.owner', true), ''))"


def policy(table: sa.Table) -> str:
    """The statement that makes a table's policy: the rows of the owner in `perdure.owner` are seen and written, no others.

    What belongs to a task is its owner's. Whether it may be written is asked of a function: a send writes the task and its first
    event in one statement, whose snapshot does not show the task yet.
    """
    if "owner" in table.columns:
        return f"CREATE POLICY perdure_owner ON {table.name} USING (owner = {_OWNER})"
    whose = f"(SELECT t.owner FROM tasks t WHERE t.task_id = {table.name}.task_id)"  # noqa: S608 -- our own name
    return f"CREATE POLICY perdure_owner ON {table.name} USING ({whose} = {_OWNER}) WITH CHECK (perdure_owns(task_id))"


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
    "perdure_least_rank(text,smallint)": """
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
"""What a front door may know across owners, and no more: functions with the rights of the tables' owner, their names bound when
they are made. `perdure_owns` alone has no rights of its own."""

WALLED = [table for table in metadata.sorted_tables if table.name not in OWNERLESS]
"""The tables whose rows belong to an owner."""

for _when, _ddl in (
    *(("after_create", function) for function in FUNCTIONS.values()),
    *(("after_create", policy(table)) for table in WALLED),
    *(("before_drop", f"DROP FUNCTION IF EXISTS {signature} CASCADE") for signature in FUNCTIONS),
):
    sa.event.listen(metadata, _when, sa.DDL(_ddl))  # type: ignore[no-untyped-call]
