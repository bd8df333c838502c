"""Conversations in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from perdure.storage import Context, ContextPage, Cursor
from perdure.storage.memory.base import Locked
from perdure.storage.memory.conversations import ContextRow
from perdure.storage.memory.drafts import draft, merged
from perdure.storage.writes import complete
from perdure.tasks import Message, Notice


class Contexts(Locked):
    """See `Storage`."""

    async def load_context(
        self, owner: str, context_id: str, *, history_length: int | None = None
    ) -> Context:
        with self._lock:
            context = self._ledger.context(owner, context_id)
            task_ids = [row.task_id for row in context.tasks()]
            return context.context(task_ids, context.said(limit=history_length))

    async def list_contexts(
        self, owner: str, *, page_size: int = 50, after: Cursor | None = None
    ) -> ContextPage:
        with self._lock:
            rows = sorted(self._ledger.contexts.get(owner, {}).values(), key=_context_cursor, reverse=True)
            rest = [row for row in rows if after is None or _context_cursor(row) < (after.time, after.key)]
            page = rest[:page_size]
            return ContextPage(
                contexts=[row.context() for row in page],
                next=Cursor(*_context_cursor(page[-1])) if len(rest) > len(page) else None,
            )

    async def append_messages(self, owner: str, context_id: str, messages: Sequence[Message]) -> None:
        with self._lock:
            drafts = [draft(complete(message, context_id)) for message in messages]
            self._ledger.touch(owner, context_id, self._ledger.now()).bring(drafts)

    async def update_context(self, owner: str, context_id: str, metadata: Mapping[str, object]) -> Context:
        with self._lock:
            context = self._ledger.context(owner, context_id)
            context.metadata = merged(context.metadata, metadata)
            context.updated_at = self._ledger.now()
            return context.context()

    async def clear_context(self, owner: str, context_id: str) -> Sequence[Notice]:
        with self._lock:
            rows = self._ledger.context(owner, context_id).tasks()
            del self._ledger.contexts[owner][context_id]
            for row in rows:
                self._ledger.forget(row)
            return [Notice(row.task_id, row.last_seq, None) for row in rows]


def _context_cursor(row: ContextRow) -> tuple[datetime, str]:
    return row.updated_at, row.context_id
