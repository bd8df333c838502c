"""What Prometheus reads, of this process: the front door's at `/metrics`, a worker's on its health port (WORKER__HEALTH_PORT).

Names are Prometheus's: seconds, and `_total` for what only grows. Counting costs about a microsecond; nothing here waits. `agent`
is the name of one of several; that of an only agent is empty, which to Prometheus is no label at all.
"""

from __future__ import annotations

from functools import cache

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

from perdure.tasks import TaskState

CONTENT_TYPE = CONTENT_TYPE_LATEST
REGISTRY = CollectorRegistry()
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)
GCCollector(registry=REGISTRY)

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
_FEW = (1, 2, 4, 8, 16, 32, 64)

# ---------------------------------------------------------------------- turns, in the process that runs them

WAIT = Histogram(
    "perdure_task_wait_seconds",
    "From the time at which a task was sent to its first claim",
    ["agent"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
RUN = Histogram(
    "perdure_turn_run_seconds",
    "From a claim to the end of its turn",
    ["outcome", "agent"],
    buckets=_SECONDS,
    registry=REGISTRY,
)
ATTEMPTS = Counter(
    "perdure_attempts",
    "Turns that ended: a state of the task, or why the turn was given back (retry, timeout, deploy, late, canceled), "
    "lost, abandoned",
    ["outcome", "agent"],
    registry=REGISTRY,
)
CLAIMS = Counter("perdure_claims", "Looks for a task to run", ["result"], registry=REGISTRY)  # task, nothing
LOST_LEASES = Counter("perdure_lost_leases", "Leases that a renewal found lost", registry=REGISTRY)
FENCED_WRITES = Counter(
    "perdure_fenced_writes",
    "Writes that were refused because the task was held by somebody else, or canceled",
    registry=REGISTRY,
)
SWEEPS = Counter("perdure_sweeps", "Looks after leases", registry=REGISTRY)
RESCUES = Counter("perdure_rescues", "Tasks taken from workers that died", registry=REGISTRY)
EXPIRED = Counter(
    "perdure_expired_tasks", "Tasks that failed because they were not done in time", registry=REGISTRY
)
RUNG_AGAIN = Counter("perdure_rung_again", "Tasks that the bell had forgotten", registry=REGISTRY)
PRUNED = Counter(
    "perdure_pruned_tasks",
    "Tasks that were deleted when they had been kept long enough",
    ["state"],
    registry=REGISTRY,
)
TRIMMED = Counter("perdure_trimmed_tasks", "Tasks whose logs were trimmed", registry=REGISTRY)
SLOTS = Gauge("perdure_slots", "Turns that this process runs at once at most", registry=REGISTRY)
SLOTS_USED = Gauge("perdure_slots_used", "Turns that run in this process", registry=REGISTRY)
DRAINING = Gauge("perdure_draining", "1 while this process begins no more turns", registry=REGISTRY)
LOOP_LAG = Gauge(
    "perdure_event_loop_lag_seconds", "How late the event loop was at the last look", registry=REGISTRY
)

# ---------------------------------------------------------------------- webhooks, in the process that sends them

DELIVERIES = Counter(
    "perdure_webhook_attempts",
    "Attempts to tell a webhook: delivered, later, givenup, disabled; lost to another process",
    ["outcome"],
    registry=REGISTRY,
)
DELIVERY_SECONDS = Histogram(
    "perdure_webhook_attempt_seconds", "How long they took", buckets=_SECONDS, registry=REGISTRY
)

# ---------------------------------------------------------------------- the storage, in every process

POOL_SIZE = Gauge("perdure_pool_connections_max", "Connections to Postgres at most", registry=REGISTRY)
POOL_USED = Gauge("perdure_pool_connections_used", "Connections to Postgres in use", registry=REGISTRY)
BATCH = Histogram(
    "perdure_batch_size",
    "How many asked together in one statement",
    ["statement"],
    buckets=_FEW,
    registry=REGISTRY,
)

# ---------------------------------------------------------------------- the fleet, as a front door sees it

TASKS = Gauge("perdure_tasks", "Tasks that have not ended", ["state", "agent"], registry=REGISTRY)
OLDEST_WAITING = Gauge(
    "perdure_oldest_waiting_seconds",
    "How long the due task that nobody runs has been due, and whose conversation is free: the alarm; 0 when none waits",
    registry=REGISTRY,
)
WEBHOOKS_WAITING = Gauge("perdure_webhook_waiting", "Deliveries that wait", registry=REGISTRY)
OLDEST_DELIVERY = Gauge(
    "perdure_webhook_oldest_waiting_seconds",
    "How long the oldest delivery has waited; 0 when none does",
    registry=REGISTRY,
)
WORKERS = Gauge("perdure_workers", "Workers alive", ["draining"], registry=REGISTRY)
BLOCKED_WORKERS = Gauge(
    "perdure_blocked_workers",
    "Workers that keep their tasks and give no sign of life: a handler holds their event loop",
    registry=REGISTRY,
)
WORKER_SLOTS = Gauge("perdure_worker_slots", "Slots of all workers alive", ["used"], registry=REGISTRY)
RETENTION_AGE = Gauge(
    "perdure_retention_last_run_seconds",
    "How long ago the workers last had looked through all tasks for old ones; 0 where they need not",
    registry=REGISTRY,
)
STORAGE_UP = Gauge("perdure_storage_up", "1 while the storage answers this front door", registry=REGISTRY)
QUEUE_UP = Gauge("perdure_queue_up", "1 while Redis answers this front door", registry=REGISTRY)
OPEN_STREAMS = Gauge("perdure_open_streams", "Event streams that are open", registry=REGISTRY)

OPEN_STATES = tuple(state for state in TaskState if not state.terminal)
"""The values of `state`."""


@cache
def wait_of(agent: str) -> Histogram:
    """`WAIT` of an agent. Kept: finding a child by its labels takes longer than counting."""
    return WAIT.labels(agent)


@cache
def turns_of(agent: str, outcome: str) -> tuple[Counter, Histogram]:
    """`ATTEMPTS` and `RUN` of an agent's turns that ended so."""
    return ATTEMPTS.labels(outcome, agent), RUN.labels(outcome, agent)


def exposed() -> bytes:
    """What `/metrics` answers."""
    return generate_latest(REGISTRY)
