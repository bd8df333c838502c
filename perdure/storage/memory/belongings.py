"""What belongs to a task in memory: feedback and webhook configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from uuid import UUID, uuid4

import orjson

from perdure.errors import InvalidParams, WebhookConfigNotFound
from perdure.storage import Feedback, WebhookConfig, WebhookConfigPage
from perdure.storage.memory.base import Locked
from perdure.storage.memory.rows import to_json


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
            return _feedback(feedback, kept)

    async def load_feedback(self, owner: str, task_id: UUID) -> Sequence[Feedback]:
        with self._lock:
            return [_feedback(feedback, kept) for feedback, kept in self._ledger.row(owner, task_id).feedback]

    async def save_webhook_config(self, owner: str, config: WebhookConfig) -> WebhookConfig:
        with self._lock:
            self._ledger.row(owner, config.task_id).webhooks[config.config_id] = config
            return config

    async def load_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> WebhookConfig:
        with self._lock:
            config = self._ledger.row(owner, task_id).webhooks.get(config_id)
            if config is None:
                raise WebhookConfigNotFound(config_id)
            return config

    async def list_webhook_configs(
        self, owner: str, task_id: UUID, *, page_size: int = 50, after: str | None = None
    ) -> WebhookConfigPage:
        with self._lock:
            configs = self._ledger.row(owner, task_id).webhooks
            rest = sorted(config_id for config_id in configs if after is None or config_id > after)
            page = rest[:page_size]
            return WebhookConfigPage(
                configs=[configs[config_id] for config_id in page],
                next=page[-1] if len(rest) > len(page) else None,
            )

    async def delete_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> None:
        with self._lock:
            self._ledger.row(owner, task_id).webhooks.pop(config_id, None)


def _feedback(feedback: Feedback, kept: bytes) -> Feedback:
    return replace(feedback, metadata=orjson.loads(kept)["metadata"])
