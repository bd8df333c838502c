"""Forgetting the limits that nobody counts against any more, in Postgres.

A submit that finds a limit's row keeps hold of it (FOR KEY SHARE) until its task is there. So a row that can be locked here is
named by no task that is on its way; and whether one that is there names it is asked in a second statement, which sees all of
them. Whoever submits meanwhile waits for this transaction, finds the row gone and makes it anew.
"""

from __future__ import annotations

from typing import Any

from perdure.storage.postgres.base import Statements

# $1 after which key, $2 how many
UNUSED = """
SELECT limit_key FROM concurrency_limits WHERE limit_key > $1 AND running = 0
 ORDER BY limit_key LIMIT $2 FOR UPDATE SKIP LOCKED
"""
# $1 keys. The conditions are those of indexes: nothing is read of tasks that have ended.
FORGET_UNUSED = """
WITH open AS (
        SELECT limit_keys FROM tasks WHERE state = 'submitted' AND lease_token IS NULL
         UNION ALL SELECT limit_keys FROM tasks WHERE state IN ('input-required', 'auth-required')
         UNION ALL SELECT limit_keys FROM tasks WHERE lease_token IS NOT NULL),
    named AS (
        SELECT DISTINCT key FROM open, unnest(open.limit_keys) AS key WHERE open.limit_keys && $1::text[])
DELETE FROM concurrency_limits l WHERE l.limit_key = ANY ($1) AND NOT EXISTS (SELECT FROM named WHERE key = l.limit_key)
RETURNING l.limit_key
"""


class Limits(Statements):
    """See `Storage`."""

    async def forget_limits(self, *, batch: int = 1000) -> int:
        keys, forgotten = await self._forget_some("", batch)
        while len(keys) == batch:
            keys, more = await self._forget_some(keys[-1], batch)
            forgotten += more
        return forgotten

    async def _forget_some(self, after: str, batch: int) -> tuple[list[str], int]:
        """The keys that were looked at, and how many of them went."""

        async def forget(connection: Any, again: bool) -> tuple[list[str], int]:
            async with connection.transaction():
                keys = [row["limit_key"] for row in await connection.fetch(UNUSED, after, batch)]
                return keys, len(await connection.fetch(FORGET_UNUSED, keys)) if keys else 0

        return await self._workers_database.run(forget)
