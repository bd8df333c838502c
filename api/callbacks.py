"""Push notification configs of callers, and what was told to them: an operation of each, over Storage and Queue."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

import structlog

from perdure.agent import AgentConfig
from perdure.errors import (
    InvalidParams,
    PushNotificationNotSupported,
    QueueUnavailable,
    TooMuch,
    WebhookConfigNotFound,
)
from perdure.ids import callback_id, new_token, task_id_of
from perdure.queue import Queue
from perdure.security.egress import Egress, Refused
from perdure.settings import ServerSettings
from perdure.storage import IdempotencyKey, Storage, WebhookConfig, WebhookConfigPage
from perdure.storage.webhooks import DeliveryAttempt, DeliveryCursor, DeliveryPage, DeliveryQuery

from .auth import Caller
from .wire.asked import Callback

log = structlog.get_logger(__name__)

CONFIGS_PER_READ = 100


class Callbacks:
    """What they raise is listed in `perdure.errors`."""

    def __init__(
        self,
        storage: Storage,
        queue: Queue,
        settings: ServerSettings,
        config: AgentConfig,
        egress: Egress,
        agent: str,
    ) -> None:
        self._storage = storage
        self._queue = queue
        self._settings = settings
        self._config = config
        self._egress = egress
        self._agent = agent

    # ------------------------------------------------------------------ configs

    async def save(self, caller: Caller, task_id: str, callback: Callback) -> WebhookConfig:
        """Add a push notification config, or replace the one with its id."""
        self.allow(callback)
        config = config_of(task_id_of(task_id), callback)
        await self.need_room(caller, config)
        return await self._storage.save_webhook_config(caller.owner, config)

    async def load(self, caller: Caller, task_id: str, config_id: str) -> WebhookConfig:
        """One config; without a `config_id` (0.3) the one that was set without an id, else the first."""
        self._need()
        found = task_id_of(task_id)
        if config_id:
            return await self._storage.load_webhook_config(caller.owner, found, config_id)
        try:
            return await self._storage.load_webhook_config(caller.owner, found, task_id)
        except WebhookConfigNotFound:
            page = await self._storage.list_webhook_configs(caller.owner, found, page_size=1)
            if not page.configs:
                raise
            return page.configs[0]

    async def list_all(
        self, caller: Caller, task_id: str, *, page_size: int | None, after: str | None
    ) -> WebhookConfigPage:
        """A page of a task's configs; all that follow `after` if `page_size` is None."""
        self._need()
        found = task_id_of(task_id)
        page = await self._storage.list_webhook_configs(
            caller.owner, found, page_size=page_size or CONFIGS_PER_READ, after=after
        )
        if page_size is not None:
            return page
        configs = list(page.configs)
        while page.next is not None:
            page = await self._storage.list_webhook_configs(
                caller.owner, found, page_size=CONFIGS_PER_READ, after=page.next
            )
            configs += page.configs
        return WebhookConfigPage(tuple(configs), None)

    async def enable(self, caller: Caller, task_id: str, config_id: str) -> None:
        """Send to a config again that was disabled. `TaskNotFound`, `WebhookConfigNotFound`."""
        self._need()
        found = task_id_of(task_id)
        await self._storage.load_webhook_config(caller.owner, found, config_id)
        await self._storage.enable_webhook(caller.owner, found, config_id)
        await self._ring_deliveries()

    async def delete(self, caller: Caller, task_id: str, config_id: str) -> None:
        """Delete a config; nothing happens if it is not there."""
        self._need()
        await self._storage.delete_webhook_config(caller.owner, task_id_of(task_id), config_id)

    def allow(self, callback: Callback) -> None:
        """Refuse at once what no delivery would be sent to: `PushNotificationNotSupported`, `InvalidParams`. What a name
        resolves to is checked at each attempt."""
        self._need()
        try:
            self._egress.check_url(callback.url)
        except Refused as error:
            raise InvalidParams(callback.place, str(error)) from None

    async def need_room(self, caller: Caller, config: WebhookConfig) -> None:
        """`TooMuch` if the task has all the configs that it may have, and this is another one."""
        most = self._settings.max_push_configs
        page = await self._storage.list_webhook_configs(caller.owner, config.task_id, page_size=most)
        if len(page.configs) == most and config.config_id not in {each.config_id for each in page.configs}:
            raise TooMuch(f"a task has at most {most} push notification configs: delete one first")

    # ------------------------------------------------------------------ deliveries

    async def deliveries(
        self, query: DeliveryQuery, *, page_size: int, after: DeliveryCursor | None
    ) -> DeliveryPage:
        """A page of what was or is to be told to the caller's webhooks; the query names him."""
        return await self._storage.list_deliveries(query, page_size=page_size, after=after)

    async def attempts(self, caller: Caller, delivery_id: UUID) -> Sequence[DeliveryAttempt]:
        """How the attempts of one delivery went; none for one that is not the caller's."""
        return await self._storage.delivery_attempts(caller.owner, delivery_id)

    async def replay(self, query: DeliveryQuery) -> int:
        """Send now what the query chooses; how many."""
        number = await self._storage.replay_deliveries(query)
        await self._ring_deliveries()
        return number

    async def _ring_deliveries(self) -> None:
        try:
            await self._queue.ring_deliveries(self._agent)
        except QueueUnavailable as error:  # workers look every second anyway
            log.debug("queue.unavailable", error=str(error))

    def _need(self) -> None:
        if not self._config.capabilities.push_notifications:
            raise PushNotificationNotSupported("push notifications are switched off for this agent")


def config_of(task_id: UUID, callback: Callback, key: IdempotencyKey | None = None) -> WebhookConfig:
    """What is stored of it; of a send with an idempotency key the same when that is repeated."""
    made = callback_id(task_id, key.key) if key else str(new_token())
    return WebhookConfig(
        config_id=callback.config_id or made,
        task_id=task_id,
        url=callback.url,
        token=callback.token,
        scheme=callback.scheme,
        credentials=callback.credentials,
        version=callback.version,
    )
