"""Together: what is asked for at the same time goes out in one round trip."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Together(Generic[T]):
    """Collects while one round trip is under way; nothing waits for a timer. Whoever adds hears how his own round trip ended, and
    is not cancelled together with another one."""

    def __init__(self, send: Callable[[Sequence[T]], Awaitable[None]]) -> None:
        self._send = send
        self._waiting: list[tuple[Sequence[T], asyncio.Future[None]]] = []
        self._sending: asyncio.Task[None] | None = None

    async def add(self, items: Sequence[T]) -> None:
        """Return once these were sent; raises what `send` raises."""
        if items:
            await self.post(items)

    def post(self, items: Sequence[T]) -> asyncio.Future[None]:
        """Send these as well; done once they were sent. Nobody need ask."""
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((items, told))
        if self._sending is None or self._sending.done():
            self._sending = asyncio.create_task(self._send_all())
        return told

    async def end(self, *, timeout: float) -> None:
        """Wait for what is under way, for so many seconds at most."""
        if self._sending is not None:
            await asyncio.wait([self._sending], timeout=timeout)

    async def _send_all(self) -> None:
        await asyncio.sleep(0)  # whoever else is about to add does so in this very moment
        while self._waiting:
            waiting, self._waiting = self._waiting, []
            try:
                await self._send([item for items, _ in waiting for item in items])
            except Exception as error:
                _tell(waiting, error)
            except BaseException:
                for _, told in waiting:
                    told.cancel()
                raise
            else:
                _tell(waiting)


def _tell(waiting: Sequence[tuple[object, asyncio.Future[None]]], error: Exception | None = None) -> None:
    for _, told in waiting:
        if told.done():  # who waited for it was cancelled
            continue
        if error is None:
            told.set_result(None)
        else:
            told.set_exception(error)
            told.exception()  # nobody need have waited for it
