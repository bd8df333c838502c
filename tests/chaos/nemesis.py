"""The nemesis: faults from a seed. Several may be under way at once; each is undone by itself.

A deck with every kind in it (some twice) is shuffled and dealt to its end, then shuffled anew: also a short run meets each kind.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

import redis.asyncio

from perdure.local import Server
from tests.chaos.fleet import LEASE, Fleet, Member

M = TypeVar("M", bound=Member)

REDIS_AWAY = 10.0


class Nemesis:
    """Deals `faults` faults, one every `pause` seconds on the average."""

    def __init__(self, fleet: Fleet, rng: random.Random, *, faults: int, pause: float) -> None:
        self._fleet, self._rng = fleet, rng
        self._faults, self._pause = faults, pause
        self._postgres, self._redis = asyncio.Lock(), asyncio.Lock()
        self.done = 0
        self.kills = 0

    async def run(self) -> None:
        """Returns when every fault has been undone."""
        async with asyncio.TaskGroup() as under_way:
            for kind in self._deal():
                await asyncio.sleep(self._rng.uniform(0.2, 1.8) * self._pause)
                under_way.create_task(self._one(kind))

    def _deal(self) -> list[str]:
        dealt: list[str] = []
        while len(dealt) < self._faults:
            deck = [kind for kind, (times, _) in KINDS.items() for _ in range(times)]
            self._rng.shuffle(deck)
            dealt += deck
        return dealt[: self._faults]

    async def _one(self, kind: str) -> None:
        begun = time.monotonic()
        targets = await KINDS[kind][1](self)
        self.done += 1
        self._fleet.recorder.note("fault", kind=kind, begun=begun, targets=[pid for pid in targets if pid])

    # ------------------------------------------------------------------ processes

    async def kill(self, members: Sequence[Member]) -> list[int]:
        self.kills += 1
        return [self._victim(members).signal(signal.SIGKILL)]

    async def terminate(self, members: Sequence[Member]) -> list[int]:
        return [self._victim(members).signal(signal.SIGTERM)]

    async def freeze(self, members: Sequence[Member]) -> list[int]:
        """SIGSTOP for two leases: it wakes up as a zombie, in the middle of what it did."""
        async with self._troubled(members) as member:
            pid = member.signal(signal.SIGSTOP)
            await asyncio.sleep(2 * LEASE)
            if member.pid == pid:
                member.signal(signal.SIGCONT)
            return [pid]

    # ------------------------------------------------------------------ servers

    async def empty_redis(self) -> list[int]:
        async with self._redis, redis.asyncio.Redis.from_url(self._fleet.services.redis_url) as client:
            await client.flushall()
        return []

    async def restart_redis(self, away: float) -> list[int]:
        async with self._redis:
            await self._restarted(self._fleet.services.redis, signal.SIGTERM, away)
        return []

    async def restart_postgres(self, how: signal.Signals) -> list[int]:
        async with self._postgres:
            await self._restarted(self._fleet.services.postgres, how, 0.0)
        return []

    async def _restarted(self, server: Server, how: signal.Signals, away: float) -> None:
        os.kill(server.pid, how)
        while server.running:  # noqa: ASYNC110 - another process ends
            await asyncio.sleep(0.02)
        await asyncio.sleep(away)
        await asyncio.to_thread(server.start)

    # ------------------------------------------------------------------ lines

    async def cut(self) -> list[int]:
        """Every connection of everybody breaks; new ones work."""
        for member in self._fleet.members:
            for line in member.lines:
                line.cut()
        return []

    async def part(self) -> list[int]:
        """One process cannot reach Postgres, or nothing at all, for two leases."""
        async with self._troubled(self._fleet.members) as member:
            lines = self._rng.choice([[member.postgres], member.lines])
            for line in lines:
                line.close()
            await asyncio.sleep(2 * LEASE)
            for line in lines:
                line.heal()
            return [member.pid]

    async def hold(self) -> list[int]:
        """What one process says to Postgres and hears from it is held up for a lease and a half, and comes then."""
        async with self._troubled(self._fleet.members) as member:
            member.postgres.hold()
            await asyncio.sleep(1.5 * LEASE)
            member.postgres.heal()
            return [member.pid]

    async def delay(self) -> list[int]:
        """Whatever one process sends or is sent comes up to a fifth of a second late."""
        async with self._troubled(self._fleet.members) as member:
            for line in member.lines:
                line.delay = self._rng.uniform(0.02, 0.2)
            await asyncio.sleep(2 * LEASE)
            for line in member.lines:
                line.heal()
            return [member.pid]

    # ------------------------------------------------------------------ whom

    def _victim(self, members: Sequence[M]) -> M:
        """One that runs and is not in trouble, if there is such a one."""
        well = [member for member in members if member.pid and not member.troubled]
        return self._rng.choice(well or list(members))

    @asynccontextmanager
    async def _troubled(self, members: Sequence[M]) -> AsyncIterator[M]:
        member = self._victim(members)
        member.troubled += 1
        try:
            yield member
        finally:
            member.troubled -= 1


Kind = Callable[[Nemesis], Awaitable[list[int]]]

KINDS: dict[str, tuple[int, Kind]] = {
    "kill worker": (3, lambda nemesis: nemesis.kill(nemesis._fleet.workers)),
    "kill front door": (2, lambda nemesis: nemesis.kill(nemesis._fleet.fronts)),
    "freeze worker": (2, lambda nemesis: nemesis.freeze(nemesis._fleet.workers)),
    "terminate worker": (1, lambda nemesis: nemesis.terminate(nemesis._fleet.workers)),
    "terminate front door": (1, lambda nemesis: nemesis.terminate(nemesis._fleet.fronts)),
    "restart redis": (1, lambda nemesis: nemesis.restart_redis(0.0)),
    "empty redis": (1, lambda nemesis: nemesis.empty_redis()),
    "stop redis for 10 s": (1, lambda nemesis: nemesis.restart_redis(REDIS_AWAY)),
    "restart postgres, fast": (1, lambda nemesis: nemesis.restart_postgres(signal.SIGINT)),
    "restart postgres, immediate": (1, lambda nemesis: nemesis.restart_postgres(signal.SIGQUIT)),
    "cut all connections": (1, lambda nemesis: nemesis.cut()),
    "cut one process off": (1, lambda nemesis: nemesis.part()),
    "hold one process's connections": (1, lambda nemesis: nemesis.hold()),
    "delay one process's connections": (1, lambda nemesis: nemesis.delay()),
}
"""What there is, how often in a deck, and what it does. It gives the processes that it hit."""
