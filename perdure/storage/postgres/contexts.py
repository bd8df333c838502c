"""Conversations in Postgres."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from perdure.errors import ContextNotFound
from perdure.storage import Context, ContextPage, Cursor
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.reads import CONVERSATIONS
from perdure.storage.postgres.records import Row, changed_metadata, context_of, conversation_of, message_json
from perdure.storage.postgres.statements import UNCOUNT
from perdure.storage.writes import complete
from perdure.tasks import Message, Notice

# $1 owner, $2 context_id
LOAD_CONTEXT = """
SELECT c.context_id, c.owner, c.metadata, c.created_at, c.updated_at, c.last_position,
       coalesce((SELECT array_agg(t.task_id ORDER BY t.position) FROM tasks t
                  WHERE t.owner = c.owner AND t.context_id = c.context_id), '{}') AS task_ids
  FROM contexts c WHERE c.owner = $1 AND c.context_id = $2
"""

# $1 owner, $2 rows, $3 $4 cursor or null
LIST_CONTEXTS = """
SELECT c.context_id, c.owner, c.metadata, c.created_at, c.updated_at, '{}'::uuid[] AS task_ids FROM contexts c
 WHERE c.owner = $1 AND c.updated_at > '-infinity'
   AND (c.updated_at, c.context_id) < (coalesce($3::timestamptz, 'infinity'), coalesce($4::text, ''))
 ORDER BY c.updated_at DESC, c.context_id DESC LIMIT $2
"""

# $1 owner, $2 context_id, $3 messages: a place each; ones whose id was appended before are left out
APPEND_MESSAGES = """
WITH place AS (
        INSERT INTO contexts AS c (owner, context_id, last_position) VALUES ($1, $2, cardinality($3::jsonb[]))
        ON CONFLICT (owner, context_id) DO UPDATE
           SET last_position = c.last_position + cardinality($3::jsonb[]), updated_at = clock_timestamp()
        RETURNING last_position)
INSERT INTO context_messages (owner, context_id, position, payload)
SELECT $1, $2, place.last_position - cardinality($3) + m.ord, m.payload
  FROM place, unnest($3::jsonb[]) WITH ORDINALITY AS m(payload, ord)
 WHERE NOT EXISTS (SELECT FROM context_messages b WHERE b.owner = $1 AND b.context_id = $2
                                                    AND b.payload -> 'messageId' = m.payload -> 'messageId')
   AND NOT EXISTS (SELECT FROM unnest($3) WITH ORDINALITY AS b(payload, ord)
                    WHERE b.ord < m.ord AND b.payload -> 'messageId' = m.payload -> 'messageId')
"""

# $1 owner, $2 context_id, $3 metadata, $4 keys to remove
UPDATE_CONTEXT = """
UPDATE contexts SET metadata = (metadata || $3::jsonb) - $4::text[], updated_at = clock_timestamp()
 WHERE owner = $1 AND context_id = $2
RETURNING context_id, owner, metadata, created_at, updated_at, '{}'::uuid[] AS task_ids
"""

# $1 owner, $2 context_id; in one transaction, the context's row first
LOCK_CONTEXT = "SELECT FROM contexts WHERE owner = $1 AND context_id = $2 FOR UPDATE"
CLEAR_TASKS = f"""
WITH gone AS (
        DELETE FROM tasks WHERE owner = $1 AND context_id = $2 RETURNING task_id, last_seq, limit_keys, lease_token),
    let_go AS (SELECT * FROM gone WHERE lease_token IS NOT NULL),{UNCOUNT}
SELECT task_id, last_seq FROM gone
"""
CLEAR_CONTEXT = "DELETE FROM contexts WHERE owner = $1 AND context_id = $2"


class Contexts(Statements):
    """See `Storage`."""

    async def load_context(
        self, owner: str, context_id: str, *, history_length: int | None = None
    ) -> Context:
        async def load(connection: Any, again: bool) -> Context | None:
            row = await connection.fetchrow(LOAD_CONTEXT, owner, context_id)
            if row is None:
                return None
            limit = 2**31 if history_length is None else history_length
            nowhere = (UUID(int=0), 0)  # no task whose log is cut short: a turn's own is
            asked = (owner, context_id, row["last_position"], *nowhere, limit)
            rows = await connection.fetch(CONVERSATIONS, *([value] for value in asked))
            return context_of(row, conversation_of(rows, limit))

        context = await self._database.run(load, owner=owner)
        if context is None:
            raise ContextNotFound(context_id)
        return context

    async def list_contexts(
        self, owner: str, *, page_size: int = 50, after: Cursor | None = None
    ) -> ContextPage:
        at, key = (after.time, after.key) if after else (None, None)
        rows = await self._rows(LIST_CONTEXTS, owner, page_size + 1, at, key, owner=owner)
        contexts = [context_of(row) for row in rows[:page_size]]
        more = len(rows) > page_size
        return ContextPage(
            contexts, Cursor(contexts[-1].updated_at, contexts[-1].context_id) if more else None
        )

    async def append_messages(self, owner: str, context_id: str, messages: Sequence[Message]) -> None:
        payloads = [message_json(complete(message, context_id)) for message in messages]
        await self._rows(APPEND_MESSAGES, owner, context_id, payloads, owner=owner)

    async def update_context(self, owner: str, context_id: str, metadata: Mapping[str, Any]) -> Context:
        row = await self._row(UPDATE_CONTEXT, owner, context_id, *changed_metadata(metadata), owner=owner)
        if row is None:
            raise ContextNotFound(context_id)
        return context_of(row)

    async def clear_context(self, owner: str, context_id: str) -> Sequence[Notice]:
        async def clear(connection: Any, again: bool) -> Sequence[Row] | None:
            async with connection.transaction():
                if await connection.fetchrow(LOCK_CONTEXT, owner, context_id) is None:
                    return [] if again else None
                rows: Sequence[Row] = await connection.fetch(CLEAR_TASKS, owner, context_id)
                await connection.execute(CLEAR_CONTEXT, owner, context_id)
            return rows

        rows = await self._database.run(clear, owner=owner)
        if rows is None:
            raise ContextNotFound(context_id)
        return [Notice(row["task_id"], row["last_seq"], None) for row in rows]
