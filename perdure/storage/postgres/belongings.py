"""What belongs to a task: feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

import asyncpg

from perdure.errors import InvalidParams, TaskNotFound
from perdure.ids import new_token
from perdure.storage import Feedback
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.records import dumps, feedback_of
from perdure.stored.storable import require_storable

# The owner is in every statement, also after `_own`: what is somebody else's is not found by any of them.

# $1 feedback_id, $2 task_id, $3 owner, $4 text, $5 rating or null, $6 metadata
STORE_FEEDBACK = """
INSERT INTO task_feedback (feedback_id, task_id, feedback, rating, metadata)
SELECT $1, t.task_id, $4, $5, $6 FROM tasks t WHERE t.task_id = $2 AND t.owner = $3
RETURNING feedback_id, task_id, feedback, rating, metadata, created_at
"""
# $1 task_id, $2 owner
LOAD_FEEDBACK = """
SELECT f.feedback_id, f.task_id, f.feedback, f.rating, f.metadata, f.created_at
  FROM task_feedback f JOIN tasks t ON t.task_id = f.task_id
 WHERE f.task_id = $1 AND t.owner = $2 ORDER BY f.created_at, f.feedback_id
"""


class Belongings(Statements):
    """See `Storage`."""

    async def store_feedback(
        self,
        owner: str,
        task_id: UUID,
        *,
        text: str,
        rating: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Feedback:
        require_storable(text)
        if rating is not None and not 1 <= rating <= 5:
            raise InvalidParams("rating", "must be a whole number from 1 to 5")
        told = (text, rating, dumps(dict(metadata or {})))
        try:
            row = await self._row(STORE_FEEDBACK, new_token(), task_id, owner, *told, owner=owner)
        except asyncpg.ForeignKeyViolationError:  # it was there, and is being deleted
            row = None
        if row is None:
            raise TaskNotFound(task_id)
        return feedback_of(row)

    async def load_feedback(self, owner: str, task_id: UUID) -> Sequence[Feedback]:
        await self._own(owner, task_id)
        return [feedback_of(row) for row in await self._rows(LOAD_FEEDBACK, task_id, owner, owner=owner)]
