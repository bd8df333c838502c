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
LOADS = ((1, 400), (8, 200), (64, 150))
"""Streams at once, each to a client of its own, and the tokens of each."""
LONE = f"a lone stream of {PACE} tokens a second"


async def events(results: Results, services: LocalServices, streams: int, tokens: int) -> None:
    """How long a token takes from its emission to its client, events and tokens a second, and what an event costs: in a lone
    stream that is also what the processes do while nothing happens."""
    async with stack(services, WORKER__SLOTS=str(streams)) as made:
        with made.front_door(AGENT) as (door, url), made.worker(AGENT) as worker:
            await _followed(url, streams, 20)  # warm
            before = await commits(made.database_url)
            cpu = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            found = await _followed(url, streams, tokens)
            ends = door.cpu_seconds(), worker.cpu_seconds(), await of_postgres(made.database_url)
            done = await commits(made.database_url) - before
    work = f"{streams} streams of {PACE} tokens a second" if streams > 1 else LONE
    for share, name in ((0.5, "p50"), (0.99, "p99")):
        results.add(f"{work}: a token, {name}", "Perdure", "ms", [percentile(found.milliseconds, share)])
    results.add(f"{work}: tokens", "Perdure", "/s", [found.tokens / found.seconds])
    results.add(f"{work}: events", "Perdure", "/s", [found.events / found.seconds])
    results.add(f"{work}: commits an event", "Perdure", "", [done / found.events])
    for name, begin, end in zip(("front door", "worker", "Postgres"), cpu, ends, strict=True):
        spent = 1e6 * (end - begin)
        results.add(f"{work}: processor time an event", f"Perdure, {name}", "us", [spent / found.events])


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
