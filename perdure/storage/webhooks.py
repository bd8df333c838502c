"""Webhooks in the port: where a task's changes are told (its configs), and the outbox of what is to be told.

A task's changes are its changes of state (not progress) and its finished artifacts (not their pieces). For each of them and
each config that the task has at that moment a *delivery* is stored in the transaction that makes the change. The deliveries of
a config are a line: only its first may be sent, so that they arrive in the order of their events.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol
from uuid import UUID

from perdure.security.egress import Refused, read_url
from perdure.tasks import Event, Task

GLOBAL = ""
"""The id of the config that stands for the operator's own webhook: no caller can spell it. Its address and secrets are those
of the settings at the time of each attempt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WebhookConfig:
    """An A2A TaskPushNotificationConfig (1.0, section 4.3.1). `url`, `credentials` and `token` are secrets.

    `version` is that of the protocol in which it was made, and is spoken to it. `endpoint` is what shares a breaker and a
    limit of requests: by default the URL's origin, for its owner.
    """

    config_id: str
    task_id: UUID
    url: str = field(repr=False)
    token: str = field(default="", repr=False)
    scheme: str = ""
    credentials: str = field(default="", repr=False)
    version: str = "1.0"
    endpoint: str = field(default="", compare=False)


def endpoint_of(owner: str, config: WebhookConfig) -> str:
    """What shares a breaker and a limit. The owner is in it: nobody can have another caller's deliveries held back."""
    if config.endpoint:
        return config.endpoint
    try:
        return f"{read_url(config.url).origin} {owner}"
    except Refused:
        return owner


@dataclass(frozen=True, slots=True)
class WebhookConfigPage:
    """Configs in the order of their ids; `next` is the last id, None on the last page."""

    configs: Sequence[WebhookConfig]
    next: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimedDelivery:
    """The right to send the first delivery of a line once. `delivery_id` is the same at every attempt."""

    delivery_id: UUID
    owner: str
    seq: int
    """The event that it tells of."""
    attempt: int
    """1, 2, ... over the whole life of the delivery."""
    tries: int
    """The same since it was last replayed, or its config enabled."""
    failing_for: float
    """Seconds since the line's first failure after its last success."""
    config: WebhookConfig
    token: UUID
    trace_contexts: Sequence[str] = ()
    """As in `ClaimedTurn`."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """The receiver has it."""


@dataclass(frozen=True, slots=True)
class Later:
    """Not yet: again in `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class GivenUp:
    """It was tried often enough; the line goes on with the next one."""


@dataclass(frozen=True, slots=True)
class Disabled:
    """Nothing more is sent to this config until it is enabled: why."""

    reason: str


Verdict = Delivered | Later | GivenUp | Disabled


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryAttempt:
    """What became of one attempt: an answer's `status` and the head of its text, or an `error`."""

    attempt: int
    started_at: datetime
    seconds: float
    status: int | None = None
    error: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Breaker:
    """After `failures` in a row an endpoint is left alone for `pause` seconds, twice as long after each further one, at most
    `longest`; then one delivery tries."""

    failures: int = 5
    pause: float = 30.0
    longest: float = 600.0


class DeliveryState(Enum):
    """Where a delivery stands."""

    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"  # given up


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One thing to tell one config. `kind` is the event's: status or artifact; `due_at` is the time of the next attempt,
    None where others of its line go before it, it has an end, or its config is disabled."""

    delivery_id: UUID
    task_id: UUID
    config_id: str
    owner: str
    seq: int
    kind: str
    state: DeliveryState
    attempts: int
    created_at: datetime
    due_at: datetime | None
    delivered_at: datetime | None
    endpoint: str
    disabled: str
    """Why its config is disabled; empty if it is not."""
    last: DeliveryAttempt | None = None


@dataclass(frozen=True, slots=True)
class DeliveryCursor:
    """A place in a page of deliveries: everything after it is older."""

    time: datetime
    delivery_id: UUID


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryQuery:
    """Filters of deliveries. `owner` None: everybody's and those of the operator's own webhook, for operators. `since` is
    inclusive, `until` exclusive; both by creation."""

    owner: str | None
    task_id: UUID | None = None
    config_id: str | None = None
    delivery_id: UUID | None = None
    state: DeliveryState | None = None
    since: datetime | None = None
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class DeliveryPage:
    """Newest first."""

    deliveries: Sequence[Delivery]
    next: DeliveryCursor | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """What is sent where: how many deliveries wait, how many failures in a row there were, until when it is left alone."""

    endpoint: str
    waiting: int
    failures: int
    open_until: datetime | None
    disabled: int
    """How many of its configs are disabled."""
    oldest: datetime | None
    """When the oldest waiting delivery was stored."""


class Webhooks(Protocol):
    """What `perdure.storage.Storage` says about webhooks; its rules hold here as well."""

    # ------------------------------------------------------------------ configs

    async def save_webhook_config(self, owner: str, config: WebhookConfig) -> WebhookConfig:
        """Add it, or replace the one with its id, which enables it again: deliveries that wait go to the new address.
        `TaskNotFound`."""

    async def load_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> WebhookConfig:
        """`TaskNotFound`, `WebhookConfigNotFound`."""

    async def list_webhook_configs(
        self, owner: str, task_id: UUID, *, page_size: int = 50, after: str | None = None
    ) -> WebhookConfigPage:
        """Without the operator's own. `TaskNotFound`."""

    async def delete_webhook_config(self, owner: str, task_id: UUID, config_id: str) -> None:
        """With its deliveries. Nothing happens if it is not there. `TaskNotFound`."""

    # ------------------------------------------------------------------ delivering

    async def claim_deliveries(
        self, token: UUID, *, lease: float, limit: int, per_endpoint: int, breaker: Breaker
    ) -> Sequence[ClaimedDelivery]:
        """Take the first deliveries of lines that are due, at most `limit`, the longest due first; none of a disabled
        config; of each endpoint so many that at most `per_endpoint` are held by anybody, none while its breaker is open, and
        one while it is half open. A claim lasts `lease` seconds; then the delivery is due again."""

    async def delivery_events(
        self, task_id: UUID, seq: int, *, whole: bool
    ) -> tuple[Task, Sequence[Event]] | None:
        """What a delivery tells of event `seq`: the task without history and artifacts, and the event itself; for an
        artifact all its pieces up to `seq`, with `whole` all events up to `seq`. Lost turns are left out, but for the
        event's own. None if the task is gone."""

    async def settle_delivery(
        self,
        claimed: ClaimedDelivery,
        attempt: DeliveryAttempt,
        verdict: Verdict,
        *,
        breaker: Breaker,
        blame: bool | None,
    ) -> bool:
        """Record an attempt and what follows. `blame`: it failed by the endpoint's own fault, which its breaker counts;
        False closes the breaker, None says nothing about it. False if the claim had been lost: then only the attempt is
        recorded."""

    async def release_deliveries(self, claimed: Collection[ClaimedDelivery]) -> None:
        """They were not sent, and are due at once."""

    # ------------------------------------------------------------------ looking, and sending again

    async def list_deliveries(
        self, query: DeliveryQuery, *, page_size: int = 50, after: DeliveryCursor | None = None
    ) -> DeliveryPage:
        """With the last attempt of each. Unknown ids give an empty page."""

    async def delivery_attempts(self, owner: str | None, delivery_id: UUID) -> Sequence[DeliveryAttempt]:
        """Oldest first; `owner` as in a `DeliveryQuery`."""

    async def replay_deliveries(self, query: DeliveryQuery, *, limit: int = 1000) -> int:
        """Let them be sent now, the oldest first, under their ids; how many. Those that have an end are sent again; of those that
        wait the line is due at once, which keeps its order. Tries begin anew. What waits for a disabled config is left alone."""

    async def enable_webhook(self, owner: str | None, task_id: UUID, config_id: str) -> bool:
        """Send to a config now, beginning with what waits, whose tries begin anew; one that was disabled is so no more. False if
        there is no such config."""

    async def list_endpoints(self, *, limit: int = 1000) -> Sequence[Endpoint]:
        """Those with something waiting, failing or disabled, for operators."""

    async def forget_deliveries(self, *, older_than: float, limit: int = 1000) -> int:
        """Delete deliveries that had their end more than `older_than` seconds ago, with their attempts; how many."""

    async def reseal_webhooks(self) -> int:
        """Seal every stored secret anew, with the newest key; how many configs."""
