"""An only agent's conversations become those of one of several, with all that is in them (docs/decisions/038).

A batch is one transaction, and locks as everybody does: the conversations, in the order of their keys, then their tasks, then
what is told to webhooks. Which of them may go is asked in a new statement, which sees what was committed before the locks. Who
sends or claims meanwhile waits, and finds them at the other agent, or no more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perdure.owners import owner_at
from perdure.storage.postgres.base import Statements

Key = tuple[str, str]
"""Owner and context id."""
FIRST: Key = ("", "")

_OF_ONLY = "strpos(owner, chr(31)) = 0"
# $1 owner, $2 context_id: after this one; $3 how many
PAGE = f"""
SELECT owner, context_id FROM contexts WHERE {_OF_ONLY} AND (owner, context_id) > ($1, $2)
 ORDER BY owner, context_id LIMIT $3
"""
COUNT = f"""
SELECT (SELECT count(*) FROM contexts WHERE {_OF_ONLY}) AS conversations, (SELECT count(*) FROM tasks WHERE {_OF_ONLY}) AS tasks
"""

# Of all that follow: $1 owners, $2 context_ids
_THESE = "(owner, context_id) IN (SELECT * FROM unnest($1::text[], $2::text[]))"
LOCK_CONTEXTS = f"SELECT FROM contexts WHERE {_THESE} ORDER BY owner, context_id FOR UPDATE"
LOCK_TASKS = f"SELECT task_id FROM tasks WHERE {_THESE} ORDER BY task_id FOR UPDATE"
# $1 task_ids
LOCK_WEBHOOKS = "SELECT FROM webhook_configs WHERE task_id = ANY ($1) ORDER BY task_id, config_id FOR UPDATE"
# No turn runs in it, and nothing of it is being told to a webhook: whoever does that knows it by its owner.
FREE = f"""
SELECT c.owner, c.context_id FROM (SELECT * FROM contexts WHERE {_THESE}) c
 WHERE c.running_task IS NULL
   AND NOT EXISTS (SELECT FROM tasks t WHERE t.owner = c.owner AND t.context_id = c.context_id AND t.lease_token IS NOT NULL)
   AND NOT EXISTS (SELECT FROM tasks t JOIN webhook_configs w ON w.task_id = t.task_id
                    WHERE t.owner = c.owner AND t.context_id = c.context_id AND w.lease_token IS NOT NULL)
"""
# And $3 what an owner at the agent begins with. A conversation of the same name is there already: it is not touched.
ADD = f"""
INSERT INTO contexts (owner, context_id, metadata, last_position, waiting, created_at, updated_at)
SELECT $3::text || owner, context_id, metadata, last_position, waiting, created_at, updated_at FROM contexts WHERE {_THESE}
 ORDER BY owner, context_id
ON CONFLICT DO NOTHING RETURNING substr(owner, length($3::text) + 1) AS owner, context_id
"""
# And $4 the agent. Ranks are reckoned within an agent: what waits stands beside the first of those that wait there.
MOVE_TASKS = f"""
UPDATE tasks t SET owner = $3::text || owner, agent = $4::text,
       rank = (SELECT coalesce(min(w.rank), 0) FROM tasks w WHERE w.agent = $4::text AND w.agent <> '' AND w.priority = t.priority
                                                             AND w.state = 'submitted' AND w.lease_token IS NULL)
 WHERE {_THESE} RETURNING t.task_id
"""
MOVE_MESSAGES = f"UPDATE context_messages SET owner = $3::text || owner WHERE {_THESE}"
DROP = f"DELETE FROM contexts WHERE {_THESE}"
# $1 task_ids, $2 what an owner at the agent begins with
MOVE_KEYS = """
UPDATE idempotency_keys k SET owner = $2::text || k.owner
 WHERE k.task_id = ANY ($1)
   AND NOT EXISTS (SELECT FROM idempotency_keys o WHERE o.owner = $2::text || k.owner AND o.key = k.key)
"""
MOVE_DELIVERIES = "UPDATE webhook_deliveries SET owner = $2::text || owner WHERE task_id = ANY ($1)"
MOVE_ATTEMPTS = """
UPDATE webhook_attempts a SET owner = $2::text || a.owner FROM webhook_deliveries d
 WHERE d.delivery_id = a.delivery_id AND d.task_id = ANY ($1)
"""
# Its own address is one endpoint for each owner; one that the settings name is nobody's.
MOVE_ENDPOINTS = """
UPDATE webhook_configs w SET endpoint = left(w.endpoint, -length(c.caller)) || $2::text || c.caller
  FROM (SELECT task_id, substr(owner, length($2::text) + 1) AS caller FROM tasks WHERE task_id = ANY ($1)) c
 WHERE w.task_id = c.task_id AND right(w.endpoint, length(c.caller) + 1) = ' ' || c.caller
"""


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a batch: how many went, how many are `busy` (again later), how many have a namesake at the agent and stay.
    `last`: the batch goes on after it; None when there was nothing more."""

    conversations: int = 0
    tasks: int = 0
    busy: int = 0
    namesakes: int = 0
    last: Key | None = None


class Moving(Statements):
    """For operators of a database that was an only agent's."""

    async def count_of_only_agent(self) -> tuple[int, int]:
        """How many conversations and tasks an only agent has."""
        row = await self._row(COUNT)
        return (row["conversations"], row["tasks"]) if row else (0, 0)

    async def move_to_agent(self, agent: str, *, after: Key = FIRST, limit: int = 100) -> Moved:
        """Move the next `limit` conversations of an only agent to the one of several that is called `agent`."""

        async def move(connection: Any, again: bool) -> Moved:
            async with connection.transaction():
                found = [tuple(row) for row in await connection.fetch(PAGE, *after, limit)]
                return await _moved(connection, agent, found) if found else Moved()

        return await self._workers_database.run(move)


async def _moved(connection: Any, agent: str, found: Sequence[Key]) -> Moved:
    await connection.execute(LOCK_CONTEXTS, *_columns(found))
    held = await connection.fetch(LOCK_TASKS, *_columns(found))
    await connection.execute(LOCK_WEBHOOKS, [row["task_id"] for row in held])
    free = await _keys(connection, FREE, found)
    prefix = owner_at(agent, "")
    going = await _keys(connection, ADD, free, prefix)
    tasks = await connection.fetch(MOVE_TASKS, *_columns(going), prefix, agent)
    await connection.execute(MOVE_MESSAGES, *_columns(going), prefix)
    moved = [row["task_id"] for row in tasks]
    for statement in (MOVE_KEYS, MOVE_ATTEMPTS, MOVE_DELIVERIES, MOVE_ENDPOINTS):
        await connection.execute(statement, moved, prefix)
    await connection.execute(DROP, *_columns(going))
    return Moved(len(going), len(moved), len(found) - len(free), len(free) - len(going), found[-1])


async def _keys(connection: Any, statement: str, keys: Sequence[Key], *arguments: str) -> list[Key]:
    return [tuple(row) for row in await connection.fetch(statement, *_columns(keys), *arguments)]


def _columns(keys: Sequence[Key]) -> tuple[list[str], list[str]]:
    return [owner for owner, _ in keys], [context_id for _, context_id in keys]
