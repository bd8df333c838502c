"""The outbox in memory: a line of deliveries for each webhook config, and the breakers of endpoints. Nothing here locks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from uuid import UUID, uuid4

from perdure.storage.webhooks import Breaker, DeliveryAttempt, DeliveryState, WebhookConfig
from perdure.tasks import ArtifactChunk, Message, StatusChange, TaskState


@dataclass(slots=True, eq=False)
class Parcel:
    """A delivery."""

    seq: int
    kind: str
    created_at: datetime
    delivery_id: UUID = field(default_factory=uuid4)
    state: DeliveryState = DeliveryState.WAITING
    tries: int = 0
    attempts: int = 0
    ended_at: datetime | None = None
    records: list[DeliveryAttempt] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Line:
    """A config with its deliveries, in the order of their events."""

    owner: str
    config: WebhookConfig
    disabled: str | None = None
    failing_since: datetime | None = None
    due_at: datetime | None = None
    token: UUID | None = None
    lease_until: datetime | None = None
    parcels: list[Parcel] = field(default_factory=list)

    @property
    def head(self) -> Parcel | None:
        """The only one that may be sent."""
        return next((parcel for parcel in self.parcels if parcel.state is DeliveryState.WAITING), None)

    def held(self, now: datetime) -> bool:
        """Somebody may be sending its head."""
        return self.lease_until is not None and self.lease_until > now

    def let_go(self, due_at: datetime) -> None:
        """Nobody is; the head, if there is one, is due then."""
        self.token = self.lease_until = None
        self.due_at = due_at if self.head is not None and self.disabled is None else None


@dataclass(slots=True)
class Failing:
    """An endpoint that failed."""

    failures: int = 0
    open_until: datetime | None = None


def is_told(body: Message | ArtifactChunk | StatusChange) -> bool:
    """Changes of state, but not progress: of the statuses at work only the first one of a turn, which says nothing more. Finished
    artifacts, but not their pieces."""
    match body:
        case StatusChange(state=TaskState.WORKING):
            return body.message is None and not body.metadata
        case StatusChange():
            return True
        case ArtifactChunk():
            return body.last_chunk
    return False


class Outbox:
    """All lines, and what is known of endpoints."""

    def __init__(self) -> None:
        self.lines: dict[tuple[UUID, str], Line] = {}
        self.failing: dict[str, Failing] = {}

    def forget(self, task_id: UUID, config_ids: Iterable[str]) -> None:
        """They are gone."""
        for config_id in config_ids:
            self.lines.pop((task_id, config_id), None)

    def due(self, now: datetime, limit: int, per_endpoint: int, breaker: Breaker) -> Iterator[Line]:
        """Lines whose heads may be sent, the longest due first."""
        held = Counter(line.config.endpoint for line in self.lines.values() if line.held(now))
        waiting = [(line.due_at, key, line) for key, line in self.lines.items() if line.due_at is not None]
        for due_at, _, line in sorted(waiting, key=lambda entry: entry[:2]):
            if limit <= 0 or due_at > now:
                return
            endpoint = line.config.endpoint
            if not line.held(now) and held[endpoint] < self._room(endpoint, now, per_endpoint, breaker):
                held[endpoint] += 1
                limit -= 1
                yield line

    def _room(self, endpoint: str, now: datetime, per_endpoint: int, breaker: Breaker) -> int:
        failing = self.failing.get(endpoint)
        if failing is None:
            return per_endpoint
        if failing.open_until is not None and failing.open_until > now:
            return 0
        return 1 if failing.failures >= breaker.failures else per_endpoint

    def half_open(self, endpoint: str, until: datetime, breaker: Breaker) -> None:
        """One tries; nobody else until then."""
        failing = self.failing.get(endpoint)
        if failing is not None and failing.failures >= breaker.failures:
            failing.open_until = until

    def judge(self, endpoint: str, now: datetime, breaker: Breaker, blame: bool | None) -> None:
        """An attempt has ended."""
        if blame:
            failing = self.failing.setdefault(endpoint, Failing())
            failing.failures += 1
            beyond = failing.failures - breaker.failures
            if beyond >= 0:
                pause = min(breaker.pause * 2.0 ** min(beyond, 20), breaker.longest)
                failing.open_until = now + timedelta(seconds=pause)
        elif blame is not None:
            self.failing.pop(endpoint, None)
