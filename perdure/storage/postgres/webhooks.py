"""Webhooks: configs, whose secrets are sealed, and the outbox. A trigger puts deliveries into it (`schema.webhooks.OUTBOX`).

Whoever ends a delivery locks its line (the config's row) and looks for the next one in a new statement; whoever adds one writes
that row too. So no delivery is left behind without a due time. The order of locks: task, config, delivery, endpoint.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import asyncpg

from perdure.errors import PushNotificationNotSupported, TaskNotFound, WebhookConfigNotFound
from perdure.security.vault import Vault
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.database import T, Work
from perdure.storage.postgres.reads import numbered
from perdure.storage.postgres.records import Row, event_of, task_of
from perdure.storage.postgres.statements import BARE
from perdure.storage.postgres.webhook_statements import (
    ATTEMPTS,
    BLAME,
    CLAIM,
    CLOSE,
    DELETE,
    DELIVERIES,
    ENABLE,
    END,
    ENDPOINTS,
    EVENTS,
    FORGET,
    HOLD,
    LET_GO,
    LIST,
    LOAD,
    RECORD,
    REPLAY,
    RESEAL,
    RESEAL_NEXT,
    SAVE,
    UNSEND,
)
from perdure.storage.webhooks import (
    Breaker,
    ClaimedDelivery,
    Delivered,
    Delivery,
    DeliveryAttempt,
    DeliveryCursor,
    DeliveryPage,
    DeliveryQuery,
    DeliveryState,
    Disabled,
    Endpoint,
    Later,
    Verdict,
    WebhookConfig,
    WebhookConfigPage,
    endpoint_of,
)
from perdure.tasks import Event, Task


def with_webhooks(
    work: Work[T], owner: str, webhooks: Sequence[WebhookConfig], vault: Vault | None
) -> Work[T]:
    """The work of a send and the configs that came with it, in one transaction; none are stored where the send stored
    nothing."""
    if not webhooks:
        return work

    async def both(connection: Any, again: bool) -> T:
        found: T | None = None
        try:
            async with connection.transaction():
                found = await work(connection, again)
                if not isinstance(found, UUID):
                    for config in webhooks:
                        await connection.execute(SAVE, config.task_id, owner, *_sealed(owner, config, vault))
        except asyncpg.InFailedSQLTransactionError:
            if found is None:
                # Else the task is there already, which it found out by an error of the transaction.
                raise
        return found

    return both


def _sealed(owner: str, config: WebhookConfig, vault: Vault | None) -> tuple[str, ...]:
    if vault is None:
        if config.url:
            raise PushNotificationNotSupported(
                "this server has no key to keep the secrets of push notifications with (WEBHOOKS__KEYS)"
            )
        url = token = credentials = ""
    else:
        url, token, credentials = map(vault.seal, (config.url, config.token, config.credentials))
    endpoint = endpoint_of(owner, config)
    return config.config_id, url, token, config.scheme, credentials, config.version, endpoint


class Webhooks(Statements):
    """See `perdure.storage.webhooks.Webhooks`."""

    _vault: Vault | None

    # ------------------------------------------------------------------ configs

    async def save_webhook_config(self, owner: str, config: WebhookConfig) -> WebhookConfig:
        try:
            row = await self._row(
                SAVE, config.task_id, owner, *_sealed(owner, config, self._vault), owner=owner
            )
        except asyncpg.ForeignKeyViolationError:  # it was there, and is being deleted
            row = None
        if row is None:
            raise TaskNotFound(config.task_id)
        return config

    async def load_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> WebhookConfig:
        await self._own(owner, task_id)
        row = await self._row(LOAD, task_id, owner, config_id, owner=owner) if config_id else None
        if row is None:
            raise WebhookConfigNotFound(config_id)
        return self._config(row)

    async def list_webhook_configs(
        self, owner: str, task_id: UUID, *, page_size: int = 50, after: str | None = None
    ) -> WebhookConfigPage:
        await self._own(owner, task_id)
        rows = await self._rows(LIST, task_id, owner, after or "", page_size + 1, owner=owner)
        configs = [self._config(row) for row in rows[:page_size]]
        return WebhookConfigPage(configs, configs[-1].config_id if len(rows) > page_size else None)

    async def delete_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> None:
        await self._own(owner, task_id)
        if config_id:
            await self._rows(DELETE, task_id, owner, config_id, owner=owner)

    def _config(self, row: Row) -> WebhookConfig:
        opened = self._vault.open if self._vault else str
        return WebhookConfig(
            config_id=row["config_id"],
            task_id=row["task_id"],
            url=opened(row["url"]),
            token=opened(row["token"]),
            scheme=row["scheme"],
            credentials=opened(row["credentials"]),
            version=row["version"],
            endpoint=row["endpoint"],
        )

    # ------------------------------------------------------------------ delivering

    async def claim_deliveries(
        self, token: UUID, *, lease: float, limit: int, per_endpoint: int, breaker: Breaker
    ) -> Sequence[ClaimedDelivery]:
        rows = await self._rows(CLAIM, token, lease, limit, per_endpoint, breaker.failures)
        for row in rows:
            if row["delivery_id"] is None:  # nothing waits in it any more
                await self._let_go(row["task_id"], row["config_id"], token)
        return [self._claimed(row, token) for row in rows if row["delivery_id"] is not None]

    def _claimed(self, row: Row, token: UUID) -> ClaimedDelivery:
        return ClaimedDelivery(
            delivery_id=row["delivery_id"],
            owner=row["owner"],
            seq=row["seq"],
            attempt=row["attempts"],
            tries=row["tries"],
            failing_for=row["failing_for"],
            config=self._config(row),
            token=token,
            trace_contexts=row["trace_contexts"] or (),
        )

    async def delivery_events(
        self, task_id: UUID, seq: int, *, whole: bool
    ) -> tuple[Task, Sequence[Event]] | None:
        async def read(connection: Any, again: bool) -> tuple[Task, Sequence[Event]] | None:
            owner = await connection.fetchval("SELECT owner FROM tasks WHERE task_id = $1", task_id)
            bare = owner and await connection.fetchrow(BARE, task_id, owner)
            if bare is None:
                return None
            rows = await connection.fetch(EVENTS, task_id, seq, whole)
            return task_of(bare), [event_of(row) for row in rows]

        return await self._workers_database.run(read)

    async def settle_delivery(
        self,
        claimed: ClaimedDelivery,
        attempt: DeliveryAttempt,
        verdict: Verdict,
        *,
        breaker: Breaker,
        blame: bool | None,
    ) -> bool:
        line = claimed.config.task_id, claimed.config.config_id

        async def settle(connection: Any, again: bool) -> bool:
            async with connection.transaction():
                held = await connection.fetchval(HOLD, *line, claimed.token)
                await connection.execute(RECORD, claimed.delivery_id, *_record(attempt))
                if not held:
                    return False
                if (state := _state(verdict)) is not None:
                    await connection.execute(END, claimed.delivery_id, state.value)
                await connection.execute(
                    LET_GO,
                    *line,
                    verdict.reason if isinstance(verdict, Disabled) else None,
                    verdict.seconds if isinstance(verdict, Later) else 0.0,
                    not isinstance(verdict, Delivered),
                )
                await _judge(connection, claimed.config.endpoint, breaker, blame)
                return True

        return await self._workers_database.run(settle)

    async def release_deliveries(self, claimed: Collection[ClaimedDelivery]) -> None:
        for one in claimed:
            await self._let_go(one.config.task_id, one.config.config_id, one.token, one.delivery_id)

    async def _let_go(self, task_id: UUID, config_id: str, token: UUID, unsent: UUID | None = None) -> None:
        async def let_go(connection: Any, again: bool) -> None:
            async with connection.transaction():
                if await connection.fetchval(HOLD, task_id, config_id, token):
                    if unsent is not None:
                        await connection.execute(UNSEND, unsent)
                    await connection.execute(LET_GO, task_id, config_id, None, 0.0, None)

        await self._workers_database.run(let_go)

    # ------------------------------------------------------------------ looking, and sending again

    async def list_deliveries(
        self, query: DeliveryQuery, *, page_size: int = 50, after: DeliveryCursor | None = None
    ) -> DeliveryPage:
        cursor = (after.time, after.delivery_id) if after else (None, None)
        where, given = filters(query, 4)
        statement = DELIVERIES.replace("{where}", where)
        rows = await self._rows(statement, page_size + 1, *cursor, *given, owner=query.owner)
        found = [delivery_of(row) for row in rows[:page_size]]
        more = len(rows) > page_size
        return DeliveryPage(
            found, DeliveryCursor(found[-1].created_at, found[-1].delivery_id) if more else None
        )

    async def delivery_attempts(self, owner: str | None, delivery_id: UUID) -> Sequence[DeliveryAttempt]:
        return [attempt_of(row) for row in await self._rows(ATTEMPTS, owner, delivery_id, owner=owner)]

    async def replay_deliveries(self, query: DeliveryQuery, *, limit: int = 1000) -> int:
        where, given = filters(query, 2)
        row = await self._row(REPLAY.replace("{where}", where), limit, *given, owner=query.owner)
        return row["count"] if row else 0

    async def enable_webhook(self, owner: str | None, task_id: UUID, config_id: str) -> bool:
        return await self._row(ENABLE, owner, task_id, config_id, owner=owner) is not None

    async def list_endpoints(self, *, limit: int = 1000) -> Sequence[Endpoint]:
        return [Endpoint(**dict(row)) for row in await self._rows(ENDPOINTS, limit)]

    async def forget_deliveries(self, *, older_than: float, limit: int = 1000) -> int:
        return len(await self._rows(FORGET, older_than, limit))

    async def reseal_webhooks(self) -> int:
        vault, place, done = self._vault, (UUID(int=0), ""), 0
        if vault is None:
            return 0

        async def some(connection: Any, again: bool) -> list[Row]:
            async with connection.transaction():
                rows = list(await connection.fetch(RESEAL_NEXT, *place))
                for row in rows:
                    secrets = [vault.seal(vault.open(row[name])) for name in ("url", "token", "credentials")]
                    await connection.execute(RESEAL, row["task_id"], row["config_id"], *secrets)
            return rows

        while rows := await self._workers_database.run(some):
            place, done = (rows[-1]["task_id"], rows[-1]["config_id"]), done + len(rows)
        return done


async def _judge(connection: Any, endpoint: str, breaker: Breaker, blame: bool | None) -> None:
    if blame:
        await connection.execute(BLAME, endpoint, breaker.failures, breaker.pause, breaker.longest)
    elif blame is not None:
        await connection.execute(CLOSE, endpoint)


def _state(verdict: Verdict) -> DeliveryState | None:
    """Where the delivery ends, if it does."""
    if isinstance(verdict, Later | Disabled):
        return None
    return DeliveryState.DELIVERED if isinstance(verdict, Delivered) else DeliveryState.FAILED


def _record(attempt: DeliveryAttempt) -> tuple[int, datetime, float, int | None, str, str]:
    return (
        attempt.attempt,
        attempt.started_at,
        attempt.seconds,
        attempt.status,
        attempt.error,
        attempt.answer,
    )


def filters(query: DeliveryQuery, first: int) -> tuple[str, tuple[Any, ...]]:
    """The conditions that were asked for, with their parameters from `$first` on, and these."""
    asked: list[tuple[str, Any]] = [
        ("d.owner = {n} AND d.config_id <> ''", query.owner),
        ("d.task_id = {n}", query.task_id),
        ("d.config_id = {n}", query.config_id),
        ("d.delivery_id = {n}", query.delivery_id),
        ("d.state = {n}", query.state and query.state.value),
        ("d.created_at >= {n}", query.since),
        ("d.created_at < {n}", query.until),
    ]
    given = [(condition, value) for condition, value in asked if value is not None]
    return numbered([condition for condition, _ in given], first), tuple(value for _, value in given)


def attempt_of(row: Row) -> DeliveryAttempt:
    """A row of webhook_attempts."""
    return DeliveryAttempt(
        attempt=row["attempt"],
        started_at=row["started_at"],
        seconds=row["seconds"],
        status=row["status"],
        error=row["error"],
        answer=row["answer"],
    )


def delivery_of(row: Row) -> Delivery:
    """A row of DELIVERIES."""
    state = DeliveryState(row["state"])
    return Delivery(
        delivery_id=row["delivery_id"],
        task_id=row["task_id"],
        config_id=row["config_id"],
        owner=row["owner"],
        seq=row["seq"],
        kind=row["kind"],
        state=state,
        attempts=row["attempts"],
        created_at=row["created_at"],
        due_at=row["due_at"],
        delivered_at=row["ended_at"] if state is DeliveryState.DELIVERED else None,
        endpoint=row["endpoint"],
        disabled=row["disabled"],
        last=attempt_of(row) if row["attempt"] is not None else None,
    )
