"""What belongs to a task: feedback and webhook configs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from uuid import UUID

from perdure.errors import InvalidParams, TaskNotFound, WebhookConfigNotFound
from perdure.ids import new_token
from perdure.storable import require_storable
from perdure.storage import Feedback, WebhookConfig, WebhookConfigPage
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.records import dumps, feedback_of, webhook_config_of

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

# $1 task_id, $2 owner, $3 config_id, $4 url, $5 token, $6 scheme, $7 credentials
SAVE_WEBHOOK_CONFIG = """
INSERT INTO webhook_configs (task_id, config_id, url, token, scheme, credentials)
SELECT t.task_id, $3, $4, $5, $6, $7 FROM tasks t WHERE t.task_id = $1 AND t.owner = $2
ON CONFLICT (task_id, config_id) DO UPDATE
   SET url = excluded.url, token = excluded.token, scheme = excluded.scheme, credentials = excluded.credentials
RETURNING config_id
"""
# $1 task_id, $2 owner, $3 config_id; or $3 the last one of the page before, or null, $4 rows
_CONFIG = """
SELECT w.task_id, w.config_id, w.url, w.token, w.scheme, w.credentials
  FROM webhook_configs w JOIN tasks t ON t.task_id = w.task_id WHERE w.task_id = $1 AND t.owner = $2"""
LOAD_WEBHOOK_CONFIG = f"{_CONFIG} AND w.config_id = $3"
LIST_WEBHOOK_CONFIGS = f"{_CONFIG} AND ($3::text IS NULL OR w.config_id > $3) ORDER BY w.config_id LIMIT $4"
DELETE_WEBHOOK_CONFIG = """
DELETE FROM webhook_configs w USING tasks t
 WHERE w.task_id = $1 AND w.config_id = $3 AND t.task_id = w.task_id AND t.owner = $2
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
        row = await self._row(
            STORE_FEEDBACK,
            new_token(),
            task_id,
            owner,
            text,
            rating,
            dumps(dict(metadata or {})),
            owner=owner,
        )
        if row is None:
            raise TaskNotFound(task_id)
        return feedback_of(row)

    async def load_feedback(self, owner: str, task_id: UUID) -> Sequence[Feedback]:
        await self._own(owner, task_id)
        return [feedback_of(row) for row in await self._rows(LOAD_FEEDBACK, task_id, owner, owner=owner)]

    async def save_webhook_config(self, owner: str, config: WebhookConfig) -> WebhookConfig:
        row = await self._row(
            SAVE_WEBHOOK_CONFIG,
            config.task_id,
            owner,
            config.config_id,
            config.url,
            config.token,
            config.scheme,
            config.credentials,
            owner=owner,
        )
        if row is None:
            raise TaskNotFound(config.task_id)
        return config

    async def load_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> WebhookConfig:
        await self._own(owner, task_id)
        row = await self._row(LOAD_WEBHOOK_CONFIG, task_id, owner, config_id, owner=owner)
        if row is None:
            raise WebhookConfigNotFound(config_id)
        return webhook_config_of(row)

    async def list_webhook_configs(
        self, owner: str, task_id: UUID, *, page_size: int = 50, after: str | None = None
    ) -> WebhookConfigPage:
        await self._own(owner, task_id)
        rows = await self._rows(LIST_WEBHOOK_CONFIGS, task_id, owner, after, page_size + 1, owner=owner)
        configs = [webhook_config_of(row) for row in rows[:page_size]]
        return WebhookConfigPage(configs, configs[-1].config_id if len(rows) > page_size else None)

    async def delete_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> None:
        await self._own(owner, task_id)
        await self._rows(DELETE_WEBHOOK_CONFIG, task_id, owner, config_id, owner=owner)
