"""InlineQueue: the bell and the loudspeaker of a single process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Container, Sequence
from contextlib import asynccontextmanager

from perdure.owners import ONLY
from perdure.tasks import Notice, Ring


class InlineQueue:
    """A ring calls whoever is attached, in this process; nobody attached: nobody hears it, and the sweep finds the task later."""

    shared = False

    def __init__(self) -> None:
        self._rung: list[tuple[str, Callable[[], None]]] = []
        self._delivering: list[Callable[[], None]] = []
        self._listeners: list[asyncio.Queue[Notice]] = []

    def attach(self, rung: Callable[[], None], agent: str = ONLY) -> Callable[[], None]:
        """Call `rung` at each ring for an agent: it must return at once. Returns what detaches it again."""
        entry = (agent, rung)
        self._rung.append(entry)
        return lambda: self._rung.remove(entry)

    def attach_deliveries(self, rung: Callable[[], None]) -> Callable[[], None]:
        """The same for `ring_deliveries`."""
        self._delivering.append(rung)
        return lambda: self._delivering.remove(rung)

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def check(self) -> None:
        pass

    async def ring(self, rings: Sequence[Ring]) -> None:
        self.ring_soon(rings)

    def ring_soon(self, rings: Sequence[Ring]) -> None:
        rung_for = {ring.agent for ring in rings}
        for agent, rung in tuple(self._rung):
            if agent in rung_for:
                rung()

    async def ring_deliveries(self, agent: str = ONLY) -> None:
        for rung in tuple(self._delivering):
            rung()

    async def announce(self, notices: Sequence[Notice]) -> None:
        self.tell(notices)

    def tell(self, notices: Sequence[Notice]) -> None:
        for listener in self._listeners:
            for notice in notices:
                listener.put_nowait(notice)

    @asynccontextmanager
    async def listen(self, wanted: Container[str] | None = None) -> AsyncIterator[AsyncIterator[Notice]]:
        heard: asyncio.Queue[Notice] = asyncio.Queue()
        self._listeners.append(heard)
        try:
            yield _from(heard, wanted)
        finally:
            self._listeners.remove(heard)

    async def missing(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        """All of them: a ring that was heard is forgotten."""
        return list(rings)

    async def eviction_policy(self) -> str:
        return ""


async def _from(heard: asyncio.Queue[Notice], wanted: Container[str] | None) -> AsyncIterator[Notice]:
    while True:
        notice = await heard.get()
        if wanted is None or str(notice.task_id) in wanted:
            yield notice
