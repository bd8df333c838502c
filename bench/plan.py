"""Which measurements there are, in which order, and their targets. `quick` ones are the headline ratios."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from perdure.local import LocalServices

from . import draining, end_to_end, growth, limits, pickup, queues, small, tokens
from .results import Results, percentile
from .servers import A2A_SDK, ALL, FASTA2A, OURS

DRAIN = "drain of no-op"
ARQ = "arq"


@dataclass(frozen=True)
class Scale:
    """How much of it."""

    quick: bool

    @property
    def rounds(self) -> int:
        """How often what varies is repeated."""
        return 1 if self.quick else 3

    @property
    def seconds(self) -> float:
        """Of load."""
        return 3.0 if self.quick else 5.0

    @property
    def backlog(self) -> int:
        """Tasks that wait for a worker."""
        return 2000 if self.quick else 10_000


@dataclass(frozen=True)
class Measurement:
    """One step of a run."""

    name: str
    what: str
    run: Callable[[Results, LocalServices, Scale], Awaitable[None]]
    quick: bool = False


async def _end_to_end(results: Results, services: LocalServices, scale: Scale) -> None:
    subjects = (OURS, A2A_SDK, FASTA2A) if scale.quick else ALL
    await end_to_end.end_to_end(results, services, subjects, rounds=scale.rounds, seconds=scale.seconds)
    flood, sends = "flood, 64 clients", "blocking, 64 clients"
    results.at_least(
        "flood against a2a-sdk with DatabaseTaskStore", 40, (flood, OURS.name), (flood, A2A_SDK.name)
    )
    results.at_least("flood against fasta2a in memory", 1.1, (flood, OURS.name), (flood, FASTA2A.name))
    results.at_least(
        "blocking sends, 64 clients, against a2a-sdk", 25, (sends, OURS.name), (sends, A2A_SDK.name)
    )
    results.at_most("blocking sends, 64 clients: p99", 150, (f"{sends}: p99", OURS.name), "ms")
    results.at_most("a blocking send, 1 client: p50", 10, ("blocking, 1 client: p50", OURS.name), "ms")


async def _limits(results: Results, services: LocalServices, scale: Scale) -> None:
    lives = "lives of a task by pgbench"
    for clients in (32,) if scale.quick else (1, 8, 32):
        found = [
            await limits.lives(services, clients, seconds=int(scale.seconds)) for _ in range(scale.rounds)
        ]
        results.add(lives, f"pgbench, {clients} clients", "/s", found)
    if not scale.quick:
        for connections in (1, 16):
            results.add(
                "SET by redis-benchmark", f"Redis, {connections} connections", "/s",
                [limits.redis_commands(services, connections)],
            )  # fmt: skip
    results.at_least(
        "flood against pgbench's lives at 32 clients", 0.5,
        ("flood, 64 clients", OURS.name), (lives, "pgbench, 32 clients"),
    )  # fmt: skip


async def _cost(results: Results, services: LocalServices, scale: Scale) -> None:
    await end_to_end.cost(results, services, tasks=scale.backlog)
    results.at_most("commits a task under load", 0.3, ("commits a task under load", OURS.name), "")


async def _drain(results: Results, services: LocalServices, scale: Scale) -> None:
    ours, arq = [], []
    for _ in range(scale.rounds):
        ours.append(await draining.drain(services, scale.backlog))
        arq.append((await queues.drain(services, ARQ, scale.backlog)).drained)
    results.add(DRAIN, OURS.name, "/s", ours, "each task written twice to Postgres")
    results.add(DRAIN, ARQ, "/s", arq, "stores nothing; poll 10 ms, 100 jobs")
    results.at_least("drain of a backlog against plain arq", 1.0, (DRAIN, OURS.name), (DRAIN, ARQ))


async def _pickup(results: Results, services: LocalServices, scale: Scale) -> None:
    work = "pick-up, idle worker"
    times = 100 if scale.quick else 300
    waited = await pickup.picked_up(services, times=times)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        results.add(f"{work}: {name}", OURS.name, "ms", [percentile(waited, share)])
    results.at_most(f"{work}: p99", 5, (f"{work}: p99", OURS.name), "ms")
    if scale.quick:
        return
    busy = "pick-up, 1,000 turns in flight"
    waited = await pickup.picked_up(services, in_flight=1000, times=times)
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        results.add(f"{busy}: {name}", OURS.name, "ms", [percentile(waited, share)])
    results.at_most(f"{busy}: p99", 10, (f"{busy}: p99", OURS.name), "ms")
    results.add("processor of an idle worker", OURS.name, "%", [await pickup.idle_cpu(services)])
    results.at_most("processor of an idle worker", 0.5, ("processor of an idle worker", OURS.name), "%")


async def _peers(results: Results, services: LocalServices, scale: Scale) -> None:
    for number, queue in enumerate(queues.QUEUES, 1):
        print(f"  {queue} ({number} of {len(queues.QUEUES)})", file=sys.stderr, flush=True)
        try:
            drained = await queues.drain(services, queue, 5008)
            results.add("sent, 16 at a time", queue, "/s", [drained.sent])
            if queue != ARQ:
                results.add(DRAIN, queue, "/s", [drained.drained])
            waited, idle = await queues.picked_up(services, queue, 100)
            results.add("pick-up, idle worker: p50", queue, "ms", [percentile(waited, 0.5)])
            results.add("pick-up, idle worker: p99", queue, "ms", [percentile(waited, 0.99)])
            results.add("processor of an idle worker", queue, "%", [idle])
        except RuntimeError as error:  # theirs, not ours: said, and the others go on
            results.failures.append(f"{queue}: {error}")


async def _two_workers(results: Results, services: LocalServices, scale: Scale) -> None:
    for work, text, tasks in (("50 ms handlers", "sleep 0.05", 5000), ("no-op", "hello", 5000)):
        slots = {"WORKER__SLOTS": "20"} if text.startswith("sleep") else {}
        for workers in (1, 2):
            found = [await draining.drain(services, tasks, workers=workers, text=text, **slots)]
            results.add(f"drain of {work}", f"{workers} worker{'s' * (workers - 1)}", "/s", found)
    waits, quick = "drain of 50 ms handlers", "drain of no-op"
    results.at_least(
        "two workers against one, 50 ms handlers", 1.7, (waits, "2 workers"), (waits, "1 worker")
    )
    results.at_least("two workers against one, no-op", 1.0, (quick, "2 workers"), (quick, "1 worker"))


async def _waiting(results: Results, services: LocalServices, scale: Scale) -> None:
    work = "1,000 turns that wait: memory over idle"
    results.add(work, OURS.name, "MB", [await draining.waiting_memory(services, 1000)])
    results.at_most(work, 100, (work, OURS.name), "MB")


async def _streams(results: Results, services: LocalServices, scale: Scale) -> None:
    each, fan_out = await small.streams(services, 2000)
    results.add("2,000 open streams: memory of each", OURS.name, "KB", [each])
    results.add("2,000 open streams: an event to all, p99", OURS.name, "ms", [fan_out])
    results.at_most(
        "2,000 open streams: memory of each", 40, ("2,000 open streams: memory of each", OURS.name), "KB"
    )
    fan = "2,000 open streams: an event to all, p99"
    results.at_most(fan, 50, (fan, OURS.name), "ms")


async def _events(results: Results, services: LocalServices, scale: Scale) -> None:
    for streams, each in tokens.LOADS:
        await tokens.events(results, services, streams, each)


async def _growth(results: Results, services: LocalServices, scale: Scale) -> None:
    found = await growth.appends(services, (10, 100, 1000, 10_000))
    for each in found:
        results.add("append to a task: time", f"{each.messages:,} messages", "ms", [each.milliseconds])
        results.add("append to a task: WAL", f"{each.messages:,} messages", "bytes", [each.wal_bytes])
    for what, unit in (("time", "ms"), ("WAL", "bytes")):
        work = f"append to a task: {what}"
        limit = 1.5 * (results.of(work, "10 messages") or 0)
        results.at_most(
            f"{work} at 10,000 messages, 1.5 x that at 10", limit, (work, "10,000 messages"), unit
        )


async def _pages(results: Results, services: LocalServices, scale: Scale) -> None:
    found = await growth.pages(services, 1_000_000)
    work = "page of 50 among 1,000,000 tasks"
    for name, value in (
        ("page 1", found.first),
        ("page 1,000", found.far),
        ("total, up to its cap", found.total),
    ):
        results.add(work, name, "ms", [value])
    for name in ("page 1", "page 1,000"):
        results.at_most(f"{work}: {name}", 5, (work, name), "ms")
    results.at_least(f"{work}: page 1 against page 1,000", 0.5, (work, "page 1"), (work, "page 1,000"))
    results.at_least(f"{work}: page 1,000 against page 1", 0.5, (work, "page 1,000"), (work, "page 1"))


async def _memory(results: Results, services: LocalServices, scale: Scale) -> None:
    door, worker = await small.memory_over_imports(services)
    for name, value in (("front door", door), ("worker", worker)):
        results.add("memory over the bare imports", name, "MB", [value])
        results.at_most(
            f"memory over the bare imports, {name}", 40, ("memory over the bare imports", name), "MB"
        )
    for size, door, worker in await growth.memory(services, (10_000, 100_000)):
        results.add(f"memory after {size:,} tasks", "front door", "MB", [door])
        results.add(f"memory after {size:,} tasks", "worker", "MB", [worker])
    for name in ("front door", "worker"):
        grown = results.of("memory after 10,000 tasks", name) or 0
        one = ("memory after 100,000 tasks", name)
        results.at_most(
            f"memory after 100,000 tasks, 1.1 x that after 10,000, {name}", 1.1 * grown, one, "MB"
        )


async def _start(results: Results, services: LocalServices, scale: Scale) -> None:
    for work, value, limit in (
        ("import perdure", small.import_seconds(), 0.25),
        ("perdure --help", small.help_seconds(), 0.4),
    ):
        results.add(work, OURS.name, "s", [value])
        results.at_most(work, limit, (work, OURS.name), "s")


MEASUREMENTS = (
    Measurement("end-to-end", "sends over HTTP, ours and the peers", _end_to_end, quick=True),
    Measurement("limits", "pgbench and redis-benchmark", _limits, quick=True),
    Measurement("drain", "a backlog, beside plain arq", _drain, quick=True),
    Measurement("pickup", "from ring to handler", _pickup, quick=True),
    Measurement("cost", "commits and processor time of a task", _cost),
    Measurement("queues", "the job queues", _peers),
    Measurement("workers", "two workers beside one", _two_workers),
    Measurement("waiting", "a thousand turns that wait", _waiting),
    Measurement("streams", "two thousand open streams", _streams),
    Measurement("events", "agents that stream tokens", _events),
    Measurement("growth", "a task that grows", _growth),
    Measurement("pages", "a million tasks", _pages),
    Measurement("start", "import and --help", _start),
    Measurement("memory", "memory, at first and after 100,000 tasks", _memory),
)
