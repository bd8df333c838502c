"""Webhooks: configs, whose secrets are sealed, and the outbox. Deliveries are put into it by a trigger (`schema.OUTBOX`).

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
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.database import T, Work
from perdure.storage.postgres.records import Row, event_of, task_of
from perdure.storage.postgres.statements import BARE
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
from perdure.vault import Vault

_COLUMNS = "task_id, config_id, url, token, scheme, credentials, version, endpoint"

# $1 task_id, $2 owner, $3 config_id, $4 url, $5 token, $6 scheme, $7 credentials, $8 version, $9 endpoint. What waits is due at
# once; an empty line is put in order by its next claim.
SAVE = f"""
INSERT INTO webhook_configs AS c ({_COLUMNS})
SELECT t.task_id, $3, $4, $5, $6, $7, $8, $9 FROM tasks t WHERE t.task_id = $1 AND t.owner = $2
ON CONFLICT (task_id, config_id) DO UPDATE
   SET url = excluded.url, token = excluded.token, scheme = excluded.scheme, credentials = excluded.credentials,
       version = excluded.version, endpoint = excluded.endpoint,
       disabled = NULL, failing_since = NULL, due_at = clock_timestamp()
RETURNING c.config_id
"""
# $1 task_id, $2 owner, $3 config_id; or $3 the last one of the page before, or '', $4 rows
_CONFIG = f"""
SELECT w.{_COLUMNS.replace(", ", ", w.")}
  FROM webhook_configs w JOIN tasks t ON t.task_id = w.task_id WHERE w.task_id = $1 AND t.owner = $2"""
LOAD = f"{_CONFIG} AND w.config_id = $3"
LIST = f"{_CONFIG} AND w.config_id > $3 ORDER BY w.config_id LIMIT $4"
DELETE = """
DELETE FROM webhook_configs w USING tasks t
 WHERE w.task_id = $1 AND w.config_id = $3 AND t.task_id = w.task_id AND t.owner = $2
"""

# $1 token, $2 lease in seconds, $3 limit, $4 most of one endpoint, $5 failures that open a breaker. Endpoints are found one
# by one in the index, so that the longest line costs no more than the shortest.
CLAIM = f"""
WITH RECURSIVE lined(endpoint) AS (
        (SELECT c.endpoint FROM webhook_configs c WHERE c.due_at IS NOT NULL ORDER BY c.endpoint LIMIT 1)
        UNION ALL
        SELECT (SELECT c.endpoint FROM webhook_configs c
                 WHERE c.due_at IS NOT NULL AND c.endpoint > lined.endpoint ORDER BY c.endpoint LIMIT 1)
          FROM lined WHERE lined.endpoint IS NOT NULL),
    open AS (
        SELECT lined.endpoint,
               CASE WHEN e.failures >= $5 THEN 1 ELSE $4 END
               - (SELECT count(*) FROM webhook_configs h WHERE h.endpoint = lined.endpoint AND h.lease_token IS NOT NULL
                                                           AND h.lease_until > clock_timestamp()) AS room
          FROM lined LEFT JOIN webhook_endpoints e ON e.endpoint = lined.endpoint
         WHERE lined.endpoint IS NOT NULL AND (e.open_until IS NULL OR e.open_until <= clock_timestamp())),
    picked AS (
        SELECT due.task_id, due.config_id
          FROM open CROSS JOIN LATERAL (
               SELECT c.task_id, c.config_id, c.due_at FROM webhook_configs c
                WHERE c.endpoint = open.endpoint AND c.due_at <= clock_timestamp()
                  AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
                ORDER BY c.due_at LIMIT greatest(open.room, 0)) due
         ORDER BY due.due_at LIMIT $3),
    locked AS (
        SELECT c.task_id, c.config_id FROM webhook_configs c JOIN picked USING (task_id, config_id)
         WHERE c.due_at <= clock_timestamp() AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
         ORDER BY c.task_id, c.config_id FOR NO KEY UPDATE OF c SKIP LOCKED),
    held AS (
        UPDATE webhook_configs c SET lease_token = $1, lease_until = clock_timestamp() + make_interval(secs => $2)
          FROM locked WHERE c.task_id = locked.task_id AND c.config_id = locked.config_id
        RETURNING c.*),
    half AS (
        UPDATE webhook_endpoints e SET open_until = clock_timestamp() + make_interval(secs => $2)
         WHERE e.failures >= $5 AND e.endpoint IN (SELECT endpoint FROM held)),
    sent AS (
        UPDATE webhook_deliveries d SET attempts = d.attempts + 1, tries = d.tries + 1
          FROM held CROSS JOIN LATERAL (
               SELECT w.delivery_id FROM webhook_deliveries w
                WHERE w.task_id = held.task_id AND w.config_id = held.config_id AND w.state = 'waiting'
                ORDER BY w.seq LIMIT 1) head
         WHERE d.delivery_id = head.delivery_id AND d.state = 'waiting'
        RETURNING d.delivery_id, d.task_id, d.config_id, d.seq, d.owner, d.attempts, d.tries)
SELECT held.{_COLUMNS.replace(", ", ", held.")}, sent.delivery_id, sent.seq, sent.owner, sent.attempts, sent.tries,
       coalesce(extract(epoch FROM clock_timestamp() - held.failing_since), 0)::float8 AS failing_for,
       (SELECT t.trace_contexts FROM tasks t WHERE t.task_id = held.task_id) AS trace_contexts
  FROM held LEFT JOIN sent ON sent.task_id = held.task_id AND sent.config_id = held.config_id
"""

# $1 task_id, $2 config_id, $3 token
HOLD = """
SELECT true FROM webhook_configs WHERE task_id = $1 AND config_id = $2 AND lease_token = $3 FOR NO KEY UPDATE
"""
# $1 delivery_id, $2 attempt, $3 started_at, $4 seconds, $5 status, $6 error, $7 answer
RECORD = """
INSERT INTO webhook_attempts (delivery_id, attempt, started_at, seconds, status, error, answer, owner)
SELECT d.delivery_id, $2, $3, $4, $5, $6, $7, d.owner FROM webhook_deliveries d WHERE d.delivery_id = $1
ON CONFLICT DO NOTHING
"""
# $1 delivery_id, $2 state
END = "UPDATE webhook_deliveries SET state = $2, ended_at = clock_timestamp() WHERE delivery_id = $1"
UNSEND = """
UPDATE webhook_deliveries SET attempts = attempts - 1, tries = greatest(tries - 1, 0) WHERE delivery_id = $1
"""  # its tries may have begun anew meanwhile
# $1 task_id, $2 config_id, $3 why it is disabled or null, $4 seconds until the next attempt, $5 the delivery failed, or null
# where nothing was sent
LET_GO = """
UPDATE webhook_configs c
   SET lease_token = NULL, lease_until = NULL, disabled = coalesce($3, c.disabled),
       failing_since = CASE WHEN $5::boolean IS NULL THEN c.failing_since
                            WHEN $5 THEN coalesce(c.failing_since, clock_timestamp()) END,
       due_at = CASE WHEN $3::text IS NULL AND c.disabled IS NULL
                      AND EXISTS (SELECT FROM webhook_deliveries w WHERE w.task_id = c.task_id AND w.config_id = c.config_id
                                                                     AND w.state = 'waiting')
                     THEN clock_timestamp() + make_interval(secs => $4) END
 WHERE c.task_id = $1 AND c.config_id = $2
"""
# $1 endpoint, $2 failures that open it, $3 pause, $4 longest
BLAME = """
INSERT INTO webhook_endpoints AS e (endpoint, failures, open_until)
VALUES ($1, 1, CASE WHEN $2 <= 1 THEN clock_timestamp() + make_interval(secs => $3) END)
ON CONFLICT (endpoint) DO UPDATE
   SET failures = e.failures + 1,
       open_until = CASE WHEN e.failures + 1 >= $2
                         THEN clock_timestamp() + make_interval(secs => least($3 * 2 ^ least(e.failures + 1 - $2, 20), $4)) END
"""
CLOSE = "DELETE FROM webhook_endpoints WHERE endpoint = $1"

# $1 task_id, $2 seq, $3 whole. An event that was folded is inside of the next one that is there.
EVENTS = """
SELECT e.task_id, e.seq, e.first_seq, e.kind, e.attempt, e.payload, e.created_at
  FROM (SELECT * FROM task_events WHERE task_id = $1 AND seq >= $2 ORDER BY seq LIMIT 1) own
  JOIN tasks t ON t.task_id = own.task_id JOIN task_events e ON e.task_id = own.task_id
 WHERE e.seq <= own.seq AND (e.attempt = own.attempt OR e.attempt <> ALL (t.lost_attempts))
   AND (e.seq = own.seq OR $3 OR (own.kind = 'artifact' AND e.kind = 'artifact'
                                  AND e.payload #>> '{artifact,artifactId}' = own.payload #>> '{artifact,artifactId}'))
 ORDER BY e.seq
"""

# $1 owner, $2 task_id, $3 config_id, $4 delivery_id, $5 state, $6 since, $7 until: each null for any
_WANTED = """($1::text IS NULL OR (d.owner = $1 AND d.config_id <> '')) AND ($2::uuid IS NULL OR d.task_id = $2)
           AND ($3::text IS NULL OR d.config_id = $3) AND ($4::uuid IS NULL OR d.delivery_id = $4)
           AND ($5::text IS NULL OR d.state = $5)
           AND ($6::timestamptz IS NULL OR d.created_at >= $6) AND ($7::timestamptz IS NULL OR d.created_at < $7)"""
# $8 rows, $9 $10 cursor or null
DELIVERIES = f"""
SELECT d.*, c.endpoint, coalesce(c.disabled, '') AS disabled,
       CASE WHEN d.state = 'waiting' AND d.seq = (SELECT min(w.seq) FROM webhook_deliveries w
                                                   WHERE w.task_id = d.task_id AND w.config_id = d.config_id
                                                     AND w.state = 'waiting') THEN c.due_at END AS due_at,
       a.attempt, a.started_at, a.seconds, a.status, a.error, a.answer
  FROM webhook_deliveries d JOIN webhook_configs c ON c.task_id = d.task_id AND c.config_id = d.config_id
  LEFT JOIN LATERAL (SELECT * FROM webhook_attempts a WHERE a.delivery_id = d.delivery_id
                      ORDER BY a.attempt DESC LIMIT 1) a ON true
 WHERE {_WANTED} AND ($9::timestamptz IS NULL OR (d.created_at, d.delivery_id) < ($9, $10::uuid))
 ORDER BY d.created_at DESC, d.delivery_id DESC LIMIT $8
"""
# $1 owner or null, $2 delivery_id
ATTEMPTS = """
SELECT a.* FROM webhook_attempts a JOIN webhook_deliveries d ON d.delivery_id = a.delivery_id
 WHERE d.delivery_id = $2 AND ($1::text IS NULL OR (d.owner = $1 AND d.config_id <> '')) ORDER BY a.attempt
"""
# $8 limit. One whose state is another by the time that its line is held was settled or replayed meanwhile: it is left alone.
REPLAY = f"""
WITH chosen AS (
        SELECT d.delivery_id, d.task_id, d.config_id, d.state
          FROM webhook_deliveries d JOIN webhook_configs w ON w.task_id = d.task_id AND w.config_id = d.config_id
         WHERE {_WANTED} AND (d.state <> 'waiting' OR w.disabled IS NULL) ORDER BY d.created_at, d.delivery_id LIMIT $8),
    lines AS (
        SELECT c.task_id, c.config_id FROM webhook_configs c
         WHERE (c.task_id, c.config_id) IN (SELECT task_id, config_id FROM chosen)
         ORDER BY c.task_id, c.config_id FOR NO KEY UPDATE),
    again AS (
        UPDATE webhook_deliveries d SET state = 'waiting', ended_at = NULL, tries = 0
          FROM chosen JOIN lines USING (task_id, config_id)
         WHERE d.delivery_id = chosen.delivery_id AND d.state = chosen.state
        RETURNING d.task_id, d.config_id),
    due AS (
        UPDATE webhook_configs c SET due_at = CASE WHEN c.disabled IS NULL THEN clock_timestamp() END
          FROM (SELECT DISTINCT task_id, config_id FROM again) line
         WHERE c.task_id = line.task_id AND c.config_id = line.config_id)
SELECT count(*) FROM again
"""
# $1 owner or null, $2 task_id, $3 config_id
ENABLE = """
WITH enabled AS (
        UPDATE webhook_configs c SET disabled = NULL, failing_since = NULL, due_at = clock_timestamp()
          FROM tasks t
         WHERE c.task_id = $2 AND c.config_id = $3 AND t.task_id = c.task_id
           AND ($1::text IS NULL OR (t.owner = $1 AND c.config_id <> ''))
        RETURNING c.task_id, c.config_id),
    anew AS (
        UPDATE webhook_deliveries d SET tries = 0 FROM enabled
         WHERE d.task_id = enabled.task_id AND d.config_id = enabled.config_id AND d.state = 'waiting' AND d.tries > 0)
SELECT true FROM enabled
"""
# $1 limit
ENDPOINTS = """
WITH waiting AS (
        SELECT c.endpoint, count(*) AS waiting, min(d.created_at) AS oldest
          FROM webhook_deliveries d JOIN webhook_configs c USING (task_id, config_id)
         WHERE d.state = 'waiting' GROUP BY 1),
    disabled AS (SELECT c.endpoint, count(*) AS disabled FROM webhook_configs c WHERE c.disabled IS NOT NULL GROUP BY 1)
SELECT endpoint, coalesce(w.waiting, 0) AS waiting, w.oldest, coalesce(e.failures, 0) AS failures, e.open_until,
       coalesce(x.disabled, 0) AS disabled
  FROM waiting w FULL JOIN webhook_endpoints e USING (endpoint) FULL JOIN disabled x USING (endpoint)
 ORDER BY endpoint LIMIT $1
"""
# $1 seconds, $2 limit
FORGET = """
DELETE FROM webhook_deliveries WHERE delivery_id IN (
    SELECT delivery_id FROM webhook_deliveries WHERE ended_at < clock_timestamp() - make_interval(secs => $1)
     ORDER BY ended_at LIMIT $2 FOR UPDATE SKIP LOCKED)
RETURNING true
"""
# $1 $2 the last one's task_id and config_id; in one transaction with the UPDATEs, so that no config changes in between
RESEAL_NEXT = f"""
SELECT {_COLUMNS} FROM webhook_configs
 WHERE (task_id, config_id) > ($1, $2) ORDER BY task_id, config_id LIMIT 100 FOR NO KEY UPDATE
"""
RESEAL = (
    "UPDATE webhook_configs SET url = $3, token = $4, credentials = $5 WHERE task_id = $1 AND config_id = $2"
)


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
            if (
                found is None
            ):  # else the task is there already, which it found out by an error of the transaction
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
        rows = await self._rows(DELIVERIES, *_wanted(query), page_size + 1, *cursor, owner=query.owner)
        found = [delivery_of(row) for row in rows[:page_size]]
        more = len(rows) > page_size
        return DeliveryPage(
            found, DeliveryCursor(found[-1].created_at, found[-1].delivery_id) if more else None
        )

    async def delivery_attempts(self, owner: str | None, delivery_id: UUID) -> Sequence[DeliveryAttempt]:
        return [attempt_of(row) for row in await self._rows(ATTEMPTS, owner, delivery_id, owner=owner)]

    async def replay_deliveries(self, query: DeliveryQuery, *, limit: int = 1000) -> int:
        row = await self._row(REPLAY, *_wanted(query), limit, owner=query.owner)
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


def _wanted(query: DeliveryQuery) -> tuple[Any, ...]:
    return (
        query.owner,
        query.task_id,
        query.config_id,
        query.delivery_id,
        query.state and query.state.value,
        query.since,
        query.until,
    )


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
