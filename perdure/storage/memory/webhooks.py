"""Webhooks in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from perdure.errors import WebhookConfigNotFound
from perdure.storage.memory.base import Locked
from perdure.storage.memory.outbox import Line, Parcel
from perdure.storage.webhooks import (
    GLOBAL,
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
)
from perdure.tasks import ArtifactChunk, Event, Task


class Webhooks(Locked):
    """See `perdure.storage.webhooks.Webhooks`."""

    # ------------------------------------------------------------------ configs

    async def save_webhook_config(self, owner: str, config: WebhookConfig) -> WebhookConfig:
        with self._lock:
            self._ledger.add_webhook(self._ledger.row(owner, config.task_id), config)
            return config

    async def load_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> WebhookConfig:
        with self._lock:
            line = self._ledger.row(owner, task_id).webhooks.get(config_id)
            if line is None or config_id == GLOBAL:
                raise WebhookConfigNotFound(config_id)
            return line.config

    async def list_webhook_configs(
        self, owner: str, task_id: UUID, *, page_size: int = 50, after: str | None = None
    ) -> WebhookConfigPage:
        with self._lock:
            lines = self._ledger.row(owner, task_id).webhooks
            rest = sorted(config_id for config_id in lines if config_id > (after or GLOBAL))
            page = rest[:page_size]
            return WebhookConfigPage(
                configs=[lines[config_id].config for config_id in page],
                next=page[-1] if len(rest) > len(page) else None,
            )

    async def delete_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> None:
        with self._lock:
            row = self._ledger.row(owner, task_id)
            if config_id != GLOBAL and config_id in row.webhooks:
                del row.webhooks[config_id]
                self._ledger.outbox.forget(task_id, [config_id])

    # ------------------------------------------------------------------ delivering

    async def claim_deliveries(
        self, token: UUID, *, lease: float, limit: int, per_endpoint: int, breaker: Breaker
    ) -> Sequence[ClaimedDelivery]:
        with self._lock:
            outbox, now = self._ledger.outbox, self._ledger.now()
            until = now + timedelta(seconds=lease)
            claimed = []
            for line in list(outbox.due(now, limit, per_endpoint, breaker)):
                if (parcel := line.head) is None:
                    line.let_go(now)
                    continue
                line.token, line.lease_until = token, until
                parcel.attempts += 1
                parcel.tries += 1
                outbox.half_open(line.config.endpoint, until, breaker)
                traced = self._ledger.tasks[line.config.task_id].trace_contexts
                claimed.append(_claimed(line, parcel, now, token, traced))
            return claimed

    async def delivery_events(
        self, task_id: UUID, seq: int, *, whole: bool
    ) -> tuple[Task, Sequence[Event]] | None:
        with self._lock:
            row = self._ledger.tasks.get(task_id)
            if row is None or seq > row.last_seq:
                return None
            own = next(row.events(seq - 1, 1))  # or what it was folded into
            events = (
                event for event in row.events() if event.seq <= own.seq and (whole or _same(event, own))
            )
            return row.bare_task(), [
                event
                for event in events
                if event.attempt == own.attempt or event.attempt not in row.lost_attempts
            ]

    async def settle_delivery(
        self,
        claimed: ClaimedDelivery,
        attempt: DeliveryAttempt,
        verdict: Verdict,
        *,
        breaker: Breaker,
        blame: bool | None,
    ) -> bool:
        with self._lock:
            found = self._sent(claimed)
            if found is None:
                return False
            line, parcel = found
            parcel.records.append(attempt)
            if line.token != claimed.token:
                return False
            now = self._ledger.now()
            _end(line, parcel, verdict, now)
            self._ledger.outbox.judge(line.config.endpoint, now, breaker, blame)
            return True

    async def release_deliveries(self, claimed: Collection[ClaimedDelivery]) -> None:
        with self._lock:
            for one in claimed:
                found = self._sent(one)
                if found is None or found[0].token != one.token:
                    continue
                line, parcel = found
                parcel.attempts -= 1
                parcel.tries = max(parcel.tries - 1, 0)  # they may have begun anew meanwhile
                line.let_go(self._ledger.now())

    def _sent(self, claimed: ClaimedDelivery) -> tuple[Line, Parcel] | None:
        line = self._ledger.outbox.lines.get((claimed.config.task_id, claimed.config.config_id))
        parcels = line.parcels if line else []
        parcel = next((one for one in parcels if one.delivery_id == claimed.delivery_id), None)
        return (line, parcel) if line and parcel else None

    # ------------------------------------------------------------------ looking, and sending again

    async def list_deliveries(
        self, query: DeliveryQuery, *, page_size: int = 50, after: DeliveryCursor | None = None
    ) -> DeliveryPage:
        with self._lock:
            found = sorted(
                (delivery_of(line, parcel) for line, parcel in self._found(query)), key=_order, reverse=True
            )
            place = (after.time, after.delivery_id) if after else None
            rest = [delivery for delivery in found if place is None or _order(delivery) < place]
            page = rest[:page_size]
            return DeliveryPage(page, DeliveryCursor(*_order(page[-1])) if len(rest) > len(page) else None)

    async def delivery_attempts(self, owner: str | None, delivery_id: UUID) -> Sequence[DeliveryAttempt]:
        with self._lock:
            found = self._found(DeliveryQuery(owner=owner, delivery_id=delivery_id))
            return [record for _, parcel in found for record in parcel.records]

    async def replay_deliveries(self, query: DeliveryQuery, *, limit: int = 1000) -> int:
        with self._lock:
            now = self._ledger.now()
            chosen = [
                (line, parcel)
                for line, parcel in self._found(query)
                if parcel.state is not DeliveryState.WAITING or line.disabled is None
            ]
            chosen.sort(key=lambda found: (found[1].created_at, found[1].delivery_id))
            for line, parcel in chosen[:limit]:
                parcel.state, parcel.ended_at, parcel.tries = DeliveryState.WAITING, None, 0
                line.due_at = now if line.disabled is None else None
            return len(chosen[:limit])

    async def enable_webhook(self, owner: str | None, task_id: UUID, config_id: str) -> bool:
        with self._lock:
            line = self._ledger.outbox.lines.get((task_id, config_id))
            if line is None or (owner is not None and (owner != line.owner or config_id == GLOBAL)):
                return False
            line.disabled = line.failing_since = None
            line.due_at = self._ledger.now()
            for parcel in line.parcels:
                if parcel.state is DeliveryState.WAITING:
                    parcel.tries = 0
            return True

    async def list_endpoints(self, *, limit: int = 1000) -> Sequence[Endpoint]:
        with self._lock:
            outbox = self._ledger.outbox
            names = {line.config.endpoint for line in outbox.lines.values() if line.head or line.disabled}
            return [self._endpoint(name) for name in sorted(names | set(outbox.failing))[:limit]]

    def _endpoint(self, name: str) -> Endpoint:
        outbox = self._ledger.outbox
        lines = [line for line in outbox.lines.values() if line.config.endpoint == name]
        waiting = [
            parcel for line in lines for parcel in line.parcels if parcel.state is DeliveryState.WAITING
        ]
        failing = outbox.failing.get(name)
        return Endpoint(
            endpoint=name,
            waiting=len(waiting),
            failures=failing.failures if failing else 0,
            open_until=failing.open_until if failing else None,
            disabled=sum(line.disabled is not None for line in lines),
            oldest=min((parcel.created_at for parcel in waiting), default=None),
        )

    async def forget_deliveries(self, *, older_than: float, limit: int = 1000) -> int:
        with self._lock:
            since = self._ledger.now() - timedelta(seconds=older_than)
            gone = 0
            for line in self._ledger.outbox.lines.values():
                old = [parcel for parcel in line.parcels if parcel.ended_at and parcel.ended_at < since]
                for parcel in old[: limit - gone]:
                    line.parcels.remove(parcel)
                    gone += 1
            return gone

    async def reseal_webhooks(self) -> int:
        return 0

    def _found(self, query: DeliveryQuery) -> Iterator[tuple[Line, Parcel]]:
        for line in self._ledger.outbox.lines.values():
            for parcel in line.parcels:
                if _matches(line, parcel, query):
                    yield line, parcel


def _same(event: Event, own: Event) -> bool:
    """Whether it is the event itself, or an earlier piece of its artifact."""
    if isinstance(own.body, ArtifactChunk) and isinstance(event.body, ArtifactChunk):
        return event.body.artifact.artifact_id == own.body.artifact.artifact_id
    return event.seq == own.seq


def _claimed(
    line: Line, parcel: Parcel, now: datetime, token: UUID, trace_contexts: Sequence[str]
) -> ClaimedDelivery:
    return ClaimedDelivery(
        delivery_id=parcel.delivery_id,
        owner=line.owner,
        seq=parcel.seq,
        attempt=parcel.attempts,
        tries=parcel.tries,
        failing_for=(now - line.failing_since).total_seconds() if line.failing_since else 0.0,
        config=line.config,
        token=token,
        trace_contexts=trace_contexts,
    )


def _end(line: Line, parcel: Parcel, verdict: Verdict, now: datetime) -> None:
    if isinstance(verdict, Disabled):
        line.disabled = verdict.reason
    elif not isinstance(verdict, Later):
        delivered = isinstance(verdict, Delivered)
        parcel.state = DeliveryState.DELIVERED if delivered else DeliveryState.FAILED
        parcel.ended_at = now
    line.failing_since = None if isinstance(verdict, Delivered) else line.failing_since or now
    line.let_go(now + timedelta(seconds=verdict.seconds if isinstance(verdict, Later) else 0.0))


def _matches(line: Line, parcel: Parcel, query: DeliveryQuery) -> bool:
    if query.owner is not None and line.config.config_id == GLOBAL:
        return False
    pairs = (
        (query.owner, line.owner),
        (query.task_id, line.config.task_id),
        (query.config_id, line.config.config_id),
        (query.delivery_id, parcel.delivery_id),
        (query.state, parcel.state),
    )
    if any(wanted is not None and wanted != found for wanted, found in pairs):
        return False
    after = query.since is None or parcel.created_at >= query.since
    return after and (query.until is None or parcel.created_at < query.until)


def delivery_of(line: Line, parcel: Parcel) -> Delivery:
    """As it is shown."""
    return Delivery(
        delivery_id=parcel.delivery_id,
        task_id=line.config.task_id,
        config_id=line.config.config_id,
        owner=line.owner,
        seq=parcel.seq,
        kind=parcel.kind,
        state=parcel.state,
        attempts=parcel.attempts,
        created_at=parcel.created_at,
        due_at=line.due_at if parcel is line.head else None,
        delivered_at=parcel.ended_at if parcel.state is DeliveryState.DELIVERED else None,
        endpoint=line.config.endpoint,
        disabled=line.disabled or "",
        last=parcel.records[-1] if parcel.records else None,
    )


def _order(delivery: Delivery) -> tuple[datetime, UUID]:
    return delivery.created_at, delivery.delivery_id
