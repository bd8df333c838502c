"""What must be true in the database between any two transactions. Each statement finds what is not."""

from __future__ import annotations

import asyncpg

HELD = "t.lease_token IS NOT NULL"
WRONG = {
    "a task without its first event, or whose first event is no message": """
        SELECT t.task_id FROM tasks t LEFT JOIN task_events e ON e.task_id = t.task_id AND e.first_seq = 1
         WHERE e.kind IS DISTINCT FROM 'message'
    """,
    "a gap in the numbers of a task's events": """
        SELECT e.task_id
          FROM (SELECT task_id, first_seq, lag(seq, 1, 0::bigint) OVER (PARTITION BY task_id ORDER BY seq) AS before
                  FROM task_events) e
         WHERE e.first_seq <> e.before + 1
    """,
    "a task whose last number is not that of its last event": """
        SELECT t.task_id FROM tasks t WHERE t.last_seq <> (SELECT max(seq) FROM task_events e WHERE e.task_id = t.task_id)
    """,
    "a task whose status is no status": """
        SELECT t.task_id FROM tasks t JOIN task_events e ON e.task_id = t.task_id AND e.seq = t.status_seq
         WHERE t.status_seq > 0 AND e.kind <> 'status'
    """,
    "a context that counts other tasks than those that wait in it": """
        SELECT c.context_id FROM contexts c
         WHERE c.waiting <> (SELECT count(*) FROM tasks t WHERE t.owner = c.owner AND t.context_id = c.context_id
                                AND t.state = 'submitted' AND NOT t.parallel)
    """,
    "a context whose slot is that of a task that nobody holds": f"""
        SELECT c.context_id FROM contexts c
         WHERE c.running_task IS NOT NULL
           AND NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = c.running_task AND {HELD})
    """,
    "a context with nothing in it": """
        SELECT c.context_id FROM contexts c
         WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.owner = c.owner AND t.context_id = c.context_id)
           AND NOT EXISTS (SELECT FROM context_messages m WHERE m.owner = c.owner AND m.context_id = c.context_id)
    """,
    "a limit that counts other tasks than those that run under it": f"""
        SELECT l.limit_key FROM concurrency_limits l
         WHERE l.running <> (SELECT count(*) FROM tasks t WHERE l.limit_key = ANY (t.limit_keys) AND {HELD})
    """,
    "a task that was begun and is held by nobody": """
        SELECT t.task_id FROM tasks t WHERE t.state = 'working' AND t.lease_until < clock_timestamp() - interval '10 seconds'
    """,
}


async def wrong(database_url: str) -> dict[str, list[str]]:
    """What is not as it must be; empty if all is well."""
    connection = await asyncpg.connect(database_url)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            found = {
                what: [str(row[0]) for row in await connection.fetch(statement)]
                for what, statement in WRONG.items()
            }
    finally:
        await connection.close()
    return {what: rows for what, rows in found.items() if rows}
