"""Queue, the port: a bell and a loudspeaker. Nothing is true because it says so.

Rings and notices may be lost, doubled or late; the sweep and the waiters' refresh make up for it. Methods raise
`QueueUnavailable`; callers log it and go on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from perdure.owners import ONLY
from perdure.tasks import Notice, Ring


class Queue(Protocol):
    """See the module's text."""

    shared: bool
    """Whether rings and notices reach other processes. Where False, other processes are seen only by reading the log."""

    async def open(self) -> None:
        """Get ready. Does not fail when Redis is down: the first use says so."""

    async def close(self) -> None:
        """Let go of everything."""

    async def ring(self, rings: Sequence[Ring]) -> None:
        """There is work: some worker of the ring's agent with a free slot should claim. One round trip for each agent, however
        many rings."""

    def ring_soon(self, rings: Sequence[Ring]) -> None:
        """The same without waiting for it. What could not be rung is logged (`queue.unavailable`) and left to the sweep."""

    async def ring_deliveries(self, agent: str = ONLY) -> None:
        """Webhooks are to be told something: some worker, of this agent, should look. One round trip."""

    async def announce(self, notices: Sequence[Notice]) -> None:
        """Tell every listener that these tasks' logs grew. One round trip however many."""

    def tell(self, notices: Sequence[Notice]) -> None:
        """The same without waiting for it, and without hearing whether it went well."""

    def listen(
        self, wanted: Container[str] | None = None
    ) -> AbstractAsyncContextManager[AsyncIterator[Notice]]:
        """Notices from now on: once entered, everything announced later is heard. The iterator raises `QueueUnavailable` when the
        connection breaks; what was said meanwhile is not repeated. With `wanted`, those about tasks whose id is in there at the
        moment when they come: every process hears of every task, and most concern nobody in it."""

    async def missing(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        """Those that the bell no longer knows: neither waiting nor being picked up. One round trip for each agent."""

    async def check(self) -> None:
        """One round trip: returns or raises `QueueUnavailable`."""

    async def eviction_policy(self) -> str:
        """What the server does when its memory is full (`maxmemory-policy` of Redis); empty where it does not tell."""
