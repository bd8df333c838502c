"""Agents that stream as models do: what their events cost under load, and how long a token of a lone stream is on its way."""

from __future__ import annotations

import asyncio
import sys
from urllib.parse import urlsplit

import orjson

from perdure.local import LocalServices

from .end_to_end import commits, of_postgres
from .followers import Followed
from .ours import stack
from .results import Results, percentile

AGENT = "tokens"
PACE = 50
"""Tokens a second of each stream."""
LONE = 500
"""Tokens of a lone stream."""
STREAMS, TOKENS = 64, 150
"""What is streamed at once, each to a client of its own."""


async def lone(services: LocalServices) -> list[float]:
    """Milliseconds from a token's emission to its arrival at the client, nothing else going on."""
    async with stack(services) as made:
        with made.front_door(AGENT) as (_, url), made.worker(AGENT):
            await _followed(url, 1, 50)  # warm
            return (await _followed(url, 1, LONE)).milliseconds


async def load(results: Results, services: LocalServices) -> None:
    """Many streams at once: events and tokens a second, what each event costs, and how long a token takes then."""
    async with stack(services, WORKER__SLOTS=str(STREAMS)) as made:
        with made.front_door(AGENT) as (door, url), made.worker(AGENT) as worker:
            await _followed(url, STREAMS, 20)  # warm
            before = await commits(made.database_url)
            cpu = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            found = await _followed(url, STREAMS, TOKENS)
            ends = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            done = await commits(made.database_url) - before
    work = f"{STREAMS} streams of {PACE} tokens a second"
    results.add(work, "tokens", "/s", [found.tokens / found.seconds])
    results.add(work, "events", "/s", [found.events / found.seconds])
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        results.add(f"{work}: {name} of a token", "Perdure", "ms", [percentile(found.milliseconds, share)])
    results.add(f"{work}: commits an event", "Perdure", "", [done / found.events])
    for name, begin, end in zip(("front door", "worker", "Postgres"), cpu, ends, strict=True):
        spent = 1e6 * (end - begin)
        results.add(f"{work}: processor time an event", f"Perdure, {name}", "us", [spent / found.events])
        results.add(f"{work}: processor time a token", f"Perdure, {name}", "us", [spent / found.tokens])


async def _followed(url: str, streams: int, tokens: int) -> Followed:
    """By a process of its own. RuntimeError where a token is missing."""
    parts = urlsplit(url)
    where = (str(parts.hostname), str(parts.port), str(streams), f"tokens {tokens} {1 / PACE}")
    clients = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.followers", *where, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await clients.communicate()
    found = Followed(**orjson.loads(told))
    if found.tokens != streams * tokens:
        raise RuntimeError(f"{found.tokens} tokens of {streams * tokens} have come")
    return found
