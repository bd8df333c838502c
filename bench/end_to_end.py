"""Send over HTTP, durable, a worker, completed, read back: ours in its three modes beside the peers, with what a task costs."""

from __future__ import annotations

from collections.abc import Sequence

import asyncpg
import psutil  # type: ignore[import-untyped]

from perdure.local import LocalServices

from .dialects import V1
from .load import blocking, flood
from .ours import stack
from .results import Results, percentile
from .servers import Subject

CLIENTS = 64


async def end_to_end(
    results: Results, services: LocalServices, subjects: Sequence[Subject], *, rounds: int, seconds: float
) -> None:
    """Each subject by turns, so that a change of the machine's mood meets all. (One client first: a2a-sdk makes its table at the
    first request, and two at once are in each other's way.)"""
    found: dict[tuple[str, str, str], list[float]] = {}

    def keep(work: str, subject: Subject, unit: str, value: float) -> None:
        found.setdefault((work, subject.name, unit), []).append(value)

    for _ in range(rounds):
        for subject in subjects:
            async with subject.serve(services, 1) as url:
                await blocking(url, subject.dialect, clients=1, seconds=1)  # warm
                alone = await blocking(url, subject.dialect, clients=1, seconds=seconds)
                keep("blocking, 1 client: p50", subject, "ms", percentile(alone.milliseconds, 0.5))
                many = await blocking(url, subject.dialect, clients=CLIENTS, seconds=seconds)
                keep("blocking, 64 clients", subject, "/s", many.per_second)
                keep("blocking, 64 clients: p50", subject, "ms", percentile(many.milliseconds, 0.5))
                keep("blocking, 64 clients: p99", subject, "ms", percentile(many.milliseconds, 0.99))
                tasks = max(int(many.per_second * seconds), 2 * CLIENTS)
                fast = await flood(url, subject.dialect, clients=CLIENTS, tasks=tasks)
                keep("flood, 64 clients", subject, "/s", fast.per_second)
    notes = {subject.name: subject.note for subject in subjects}
    for (work, name, unit), values in found.items():
        results.add(work, name, unit, values, notes[name])


async def cost(results: Results, services: LocalServices, *, tasks: int) -> None:
    """Commits, and microseconds of processor time of front door, worker and Postgres, for a task under load."""
    async with stack(services) as made:
        with made.front_door() as (door, url), made.worker() as worker:
            await blocking(url, V1, clients=4, seconds=1)
            before = await commits(made.database_url)
            cpu = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            await flood(url, V1, clients=CLIENTS, tasks=tasks)
            ends = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            done = await commits(made.database_url) - before
            results.add("commits a task under load", "Perdure", "", [done / tasks])
            for name, begin, end in zip(("front door", "worker", "Postgres"), cpu, ends, strict=True):
                results.add("processor time a task", f"Perdure, {name}", "us", [1e6 * (end - begin) / tasks])


async def commits(database_url: str) -> int:
    """Of everybody; what the server knows of them is up to a second old, so wait for it."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.execute("SELECT pg_sleep(1.5)")
        found: int = await connection.fetchval(
            "SELECT xact_commit FROM pg_stat_database WHERE datname = current_database()"
        )
        return found
    finally:
        await connection.close()


async def of_postgres(database_url: str) -> float:
    """Seconds of processor time of the server's processes that live: those of connections that are closed are not in it."""
    connection = await asyncpg.connect(database_url)
    try:
        server = psutil.Process(await connection.fetchval("SELECT pg_backend_pid()")).parent()
        return sum(sum(each.cpu_times()[:2]) for each in server.children())
    finally:
        await connection.close()
