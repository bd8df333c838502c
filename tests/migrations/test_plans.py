"""What the statements of every task read: a few rows by an index, however much waits and whatever the statistics say.

A plan is made by the statistics of some moment and kept, and then ten thousand tasks come within seconds. Looked at are the plans
that Postgres keeps for prepared statements.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Iterator
from typing import Any

import asyncpg
import pytest

from perdure.storage.postgres import caller_statements, callers, claims, reads, turns
from perdure.storage.postgres.database import PLANS

OF_EVERY_TASK = {
    "submit": caller_statements.SUBMIT,
    "submit all": callers.SUBMIT_ALL,
    "claim": claims.CLAIM,
    "claim of an agent": claims.CLAIM_OF,
    "renew": turns.RENEW,
    "write": turns.WRITE,
    "settle": turns.SETTLE,
    "release": turns.RELEASE,
    "continue": caller_statements.CONTINUE,
    "cancel": caller_statements.CANCEL,
    "load": reads.LOAD,
    "events since": reads.EVENTS_SINCE,
    "conversations": reads.CONVERSATIONS,
}
BIG = {"tasks", "contexts", "task_events"}


ENDED = """
INSERT INTO contexts (owner, context_id, last_position) SELECT 'ada', n::text, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO tasks (task_id, owner, context_id, position, state, last_seq, attempt)
SELECT gen_random_uuid(), 'ada', n::text, 1, 'completed', 3, 1 FROM generate_series(1, 3000) AS n;
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
SELECT task_id, seq, seq, 'status', 1, '{}' FROM tasks, generate_series(1, 3) AS seq;
"""
WAITING = """
INSERT INTO contexts (owner, context_id, last_position, waiting) SELECT 'ada', 'w' || n, 1, 1 FROM generate_series(1, 300) AS n;
INSERT INTO tasks (task_id, owner, context_id, position)
SELECT gen_random_uuid(), 'ada', 'w' || n, 1 FROM generate_series(1, 300) AS n;
INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload)
SELECT task_id, 1, 1, 'message', 0, '{}' FROM tasks WHERE state = 'submitted';
"""
MOMENTS = {
    "never looked at": "",
    "many that have ended": f"{ENDED}; ANALYZE",
    "a few that wait": f"{WAITING}; ANALYZE",
    "some of both": f"{ENDED}; {WAITING}; ANALYZE",
}


@pytest.fixture(params=list(MOMENTS.values()), ids=list(MOMENTS))
async def connection(database_url: str, request: pytest.FixtureRequest) -> AsyncIterator[asyncpg.Connection]:
    """With the settings of ours, and the statistics of such a moment."""
    connection = await asyncpg.connect(database_url, server_settings=dict(PLANS))
    if request.param:
        await connection.execute(request.param)
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


KEYS = re.compile(r"\b(task_id|context_id|lease_token) = ")
"""What has few rows, whatever happens."""


def bounded(node: Any, above: tuple[str, ...]) -> bool:
    """Whether it reads by a key, or stops when there is enough: it does not where everything has to be sorted first."""
    if KEYS.search(node.get("Index Cond", "")):
        return True
    stops = "Limit" in above and "Sort" not in above[len(above) - above[::-1].index("Limit") :]
    return stops and node["Node Type"] in ("Index Scan", "Index Only Scan")


async def test_no_statement_of_every_task_reads_all_that_waits(connection: asyncpg.Connection) -> None:
    read_whole = {}
    for name, statement in OF_EVERY_TASK.items():
        scans = [
            (node, above)
            for node, above in nodes(await plan_of(connection, statement))
            if node.get("Relation Name") in BIG and node["Node Type"] != "ModifyTable"
        ]
        assert scans
        for node, above in scans:
            # Who waits for a limit's place is looked for among all that wait, for it alone.
            only_limited = node["Alias"] == "w" and name in ("settle", "release")
            if not bounded(node, above) and not only_limited:
                read_whole[name, node["Alias"]] = (
                    f"{node['Node Type']} {node.get('Index Name')} {node.get('Index Cond')}"
                )
    assert read_whole == {}
