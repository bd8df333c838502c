"""What belongs to a task in memory: feedback."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import orjson

from perdure.errors import InvalidParams
from perdure.storage import Feedback
from perdure.storage.memory.base import Locked
from perdure.storage.memory.drafts import to_json


class Belongings(Locked):
    """See `Storage`."""

    async def store_feedback(
        self,
        owner: str,
        task_id: UUID,
        *,
        text: str,
        rating: int | None = None,
        metadata: Mapping[str, object] | None = None,
    ) -> Feedback:
        if rating is not None and rating not in range(1, 6):
            raise InvalidParams("rating", "is a whole number from 1 to 5")
        with self._lock:
            row = self._ledger.row(owner, task_id)
            kept = to_json({"text": text, "metadata": dict(metadata or {})})
            feedback = Feedback(
                feedback_id=uuid4(),
                task_id=task_id,
                text=text,
                rating=rating,
                metadata={},
                created_at=self._ledger.now(),
            )
            row.feedback.append((feedback, kept))
            return feedback_of(feedback, kept)

    async def load_feedback(self, owner: str, task_id: UUID) -> Sequence[Feedback]:
        with self._lock:
            return [
                feedback_of(feedback, kept) for feedback, kept in self._ledger.row(owner, task_id).feedback
            ]


def feedback_of(feedback: Feedback, kept: bytes) -> Feedback:
    """As it is shown."""
    return replace(feedback, metadata=orjson.loads(kept)["metadata"])
