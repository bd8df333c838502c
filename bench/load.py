"""The load, the same for every server: clients that send and wait, and clients that only send."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from .dialects import ENDED, Dialect, task_of
from .http import Client, connected, hung_up


@dataclass(frozen=True)
class Load:
    """What came of it: how many a second, and what each took, in milliseconds."""

    per_second: float
    milliseconds: list[float]


async def blocking(url: str, dialect: Dialect, *, clients: int, seconds: float) -> Load:
    """Each client sends, waits for the finished task and reads it back, again and again."""
    connections = await connected(url, dialect.headers, clients)
    took: list[float] = []
    until = time.monotonic() + seconds

    async def go_on(client: Client) -> None:
        while (begin := time.monotonic()) < until:
            task_id, state = task_of(await client.call(dialect.sending("hello", wait=True)))
            while state not in ENDED:
                task_id, state = task_of(await client.call(dialect.getting(task_id)))
            task_of(await client.call(dialect.getting(task_id)))
            took.append(1000 * (time.monotonic() - begin))

    begin = time.monotonic()
    await asyncio.gather(*map(go_on, connections))
    lasted = time.monotonic() - begin
    await hung_up(connections)
    return Load(len(took) / lasted, took)


async def flood(url: str, dialect: Dialect, *, clients: int, tasks: int) -> Load:
    """Clients that send without waiting until so many tasks are sent; the clock stops when the last of each client is completed,
    or whatever else is found unfinished afterwards. The milliseconds are those of the answers to the sends."""
    connections = await connected(url, dialect.headers, clients)
    sent: list[list[str]] = [[] for _ in connections]
    took: list[float] = []
    left = tasks

    async def send(number: int, client: Client) -> None:
        nonlocal left
        while left > 0:
            left -= 1
            begin = time.monotonic()
            task_id, _ = task_of(await client.call(dialect.sending("hello", wait=False)))
            took.append(1000 * (time.monotonic() - begin))
            sent[number].append(task_id)

    begin = time.monotonic()
    await asyncio.gather(*(send(number, client) for number, client in enumerate(connections)))
    last = [each[-1] for each in sent if each]
    await _all_ended(connections[0], dialect, last)
    lasted = time.monotonic() - begin
    if await _all_ended(
        connections[0], dialect, [task for each in sent for task in each][:: max(tasks // 500, 1)]
    ):
        lasted = time.monotonic() - begin
    await hung_up(connections)
    return Load(tasks / lasted, took)


async def _all_ended(client: Client, dialect: Dialect, tasks: list[str]) -> bool:
    """Wait until these are; whether any was not at the first look. RuntimeError for one that did not complete."""
    waited = False
    for task_id in tasks:
        while (state := task_of(await client.call(dialect.getting(task_id)))[1]) not in ENDED:
            waited = True
            await asyncio.sleep(0.02)
        if state != "completed":
            raise RuntimeError(f"task {task_id} is {state}")
    return waited
