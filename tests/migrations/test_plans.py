"""What the statements of every task read: a few rows by an index, however much waits and whatever the statistics say.

Statistics are taken at a quiet moment, of many tasks that have ended and none that waits; then ten thousand come within seconds.
Looked at are the plans that Postgres keeps for prepared statements.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from perdure.storage.postgres import callers, claims, reads, statements, turns
from perdure.storage.postgres.database import PLANS

OF_EVERY_TASK = {
    "submit": statements.SUBMIT,
    "submit all": callers.SUBMIT_ALL,
    "claim": claims.CLAIM,
    "claim of an agent": claims.CLAIM_OF,
    "renew": turns.RENEW,
    "write": turns.WRITE,
    "settle": turns.SETTLE,
    "release": turns.RELEASE,
    "continue": statements.CONTINUE,
    "cancel": statements.CANCEL,
    "load": reads.LOAD,
    "events since": reads.EVENTS_SINCE,
    "conversations": reads.CONVERSATIONS,
}
BIG = {"tasks", "contexts", "task_events"}


HISTORY = """
INSERT INTO contexts (owner, context_id, last_position) SELECT 'ada', n::text, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO tasks (task_id, owner, context_id, position, state, last_seq, attempt)
SELECT gen_random_uuid(), 'ada', n::text, 1, 'completed', 3, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
SELECT task_id, seq, seq, 'status', 1, '{}' FROM tasks, generate_series(1, 3) AS seq;
ANALYZE;
"""


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """With the settings of ours."""
    connection = await asyncpg.connect(database_url, server_settings=dict(PLANS))
    await connection.execute(HISTORY)
    yield connection
    await connection.close()


async def plan_of(connection: asyncpg.Connection, statement: str) -> Any:
    """The plan that is used whatever the parameters are (EXPLAIN's GENERIC_PLAN, which the simple protocol alone takes)."""
    quoted = await connection.fetchval(
        "SELECT quote_literal($1::text)", f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {statement}"
    )
    await connection.execute(
        f"DO $do$ DECLARE found json; BEGIN EXECUTE {quoted} INTO found; "
        "PERFORM set_config('test.plan', found::text, false); END $do$"
    )
    return json.loads(await connection.fetchval("SELECT current_setting('test.plan')"))[0]["Plan"]


def nodes(plan: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[Any, tuple[str, ...]]]:
    """Every node, with the kinds of those above it."""
    yield plan, above
    for inner in plan.get("Plans", ()):
        yield from nodes(inner, (*above, plan["Node Type"]))


async def test_no_statement_of_every_task_reads_all_that_waits(connection: asyncpg.Connection) -> None:
    read_whole = {}
    for name, statement in OF_EVERY_TASK.items():
        scans = [
            (node, above)
            for node, above in nodes(await plan_of(connection, statement))
            if node.get("Relation Name") in BIG
        ]
        assert scans
        for node, above in scans:
            bounded = (
                "Index Cond" in node
                or "Recheck Cond" in node
                or "Limit" in above
                or node["Node Type"] == "ModifyTable"
            )
            only_limited = (
                node["Alias"] == "w"
            )  # who waits for a limit's place is looked for among all that wait, for it alone
            if not bounded and not only_limited:
                read_whole[name] = f"{node['Alias']} by {node.get('Index Name', node['Node Type'])}"
    assert read_whole == {}
