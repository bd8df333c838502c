"""Lanes: what many ask for at the same moment is one statement.

A lane is for one kind of statement. It sends what is there; what is asked for while that is under way goes together into the next
one. Nothing waits for a timer: whoever asks alone is served alone, at once.

Nobody suffers for his neighbour: a batch that fails for what is in it, or that waited in vain for a lock that one of its items
needs, is sent again item by item. One that takes long, since it waits for such a lock, is overtaken by those behind it.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Iterable, Sequence
from contextvars import Context
from typing import Any, Generic, TypeVar

import asyncpg
import structlog

from perdure import metrics
from perdure.errors import StorageUnavailable

log = structlog.get_logger(__name__)

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Send = Callable[[Sequence[Item]], Awaitable[Sequence[Answer | Exception]]]
"""One statement for all items; an answer for each, in their order. An exception among them is for its item alone."""

MOST = 64
"""Items in a batch. Beyond that a statement gains little, and all wait for its end."""


SLOW = 0.25
"""Seconds after which those who wait behind a batch go ahead beside it."""
MOST_AT_ONCE = 4
"""Batches of a lane that are under way, all but one of them slow: a connection each."""


class Lane(Generic[Item, Answer]):
    """`name`: in the metrics. `apart`: no two items of the same key go into one batch. `shared`: who asks for what is waiting
    already gets the same answer, which nobody may change then."""

    def __init__(
        self,
        send: Send[Item, Answer],
        *,
        name: str = "other",
        apart: Callable[[Item], Hashable] | None = None,
        shared: bool = False,
    ) -> None:
        self._send = send
        self._batches = metrics.BATCH.labels(name)
        self._apart = apart
        self._shared: dict[Item, asyncio.Future[Answer]] | None = {} if shared else None
        self._waiting: list[tuple[Item, asyncio.Future[Answer]]] = []
        self._senders: dict[asyncio.Task[None], float] = {}  # since when its batch is under way
        self._later: asyncio.TimerHandle | None = None

    async def ask(self, item: Item) -> Answer:
        """The answer for `item`. Cancelled before it was sent, it was not asked; later, it takes effect all the same."""
        if self._shared is None:
            return await self._asked(item)
        if (answer := self._shared.get(item)) is None:
            answer = self._shared[item] = self._asked(item)
            answer.add_done_callback(_seen)
        return await asyncio.shield(answer)

    def _asked(self, item: Item) -> asyncio.Future[Answer]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append((item, answer))
        if not self._senders:
            self._send_more(loop)
        elif self._later is None:
            self._later = loop.call_later(SLOW, self._overtake, loop)
        return answer

    def _send_more(self, loop: asyncio.AbstractEventLoop) -> None:
        # Not in the context of whoever comes first: its log lines are about all of them.
        sender = loop.create_task(self._drain(), context=Context())
        self._senders[sender] = loop.time()

    def _overtake(self, loop: asyncio.AbstractEventLoop) -> None:
        """Those who have waited so long go beside a batch that is slow."""
        self._later = None
        if not self._waiting or len(self._senders) >= MOST_AT_ONCE:
            return
        if all(loop.time() - since >= SLOW for since in self._senders.values()):
            self._send_more(loop)
        self._later = loop.call_later(SLOW, self._overtake, loop)

    async def _drain(self) -> None:
        sender = asyncio.current_task()
        assert sender is not None  # noqa: S101 - a coroutine of ours
        try:
            while batch := self._next():
                self._senders[sender] = asyncio.get_running_loop().time()
                await self._serve(batch)
        finally:  # in the same step as the last look: whoever asks next starts another one
            del self._senders[sender]

    async def _serve(self, batch: Sequence[tuple[Item, asyncio.Future[Answer]]]) -> None:
        answers = await self._answers([item for item, _ in batch])
        for (_, asked), answer in zip(batch, answers, strict=True):
            if asked.done():
                continue
            if isinstance(answer, Exception):
                asked.set_exception(answer)
            else:
                asked.set_result(answer)

    def _next(self) -> list[tuple[Item, asyncio.Future[Answer]]]:
        """What goes into the next statement; the rest keeps its order."""
        if self._shared:
            self._shared = {}
        batch: list[tuple[Item, asyncio.Future[Answer]]] = []
        rest: list[tuple[Item, asyncio.Future[Answer]]] = []
        keys: set[Hashable] = set()
        asked = [(item, answer) for item, answer in self._waiting if not answer.done()]
        for item, answer in asked:
            key = self._apart(item) if self._apart else None
            together = len(batch) < MOST and (key is None or key not in keys)
            (batch if together else rest).append((item, answer))
            keys.add(key)
        self._waiting = rest
        return batch

    async def _answers(self, items: Sequence[Item]) -> Sequence[Answer | Exception]:
        self._batches.observe(len(items))
        try:
            return await self._send(items)
        except Exception as error:
            if len(items) > 1 and _may_be_a_neighbours(error):
                log.info("lane.one_by_one", items=len(items), error=type(error).__name__)
                return _joined(await asyncio.gather(*(self._answers([item]) for item in items)))
            return [_own(error) for _ in items]


def _own(error: Exception) -> Exception:
    """Each of those who asked raises his own."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own


def _seen(answer: asyncio.Future[Any]) -> None:
    """Nobody may be left to hear of its failure."""
    if not answer.cancelled():
        answer.exception()


def _may_be_a_neighbours(error: Exception) -> bool:
    """Whether one item may be the reason: no database that is away."""
    cause = error.__cause__ if isinstance(error, StorageUnavailable) else error
    return not isinstance(error, StorageUnavailable) or isinstance(
        cause, asyncpg.LockNotAvailableError | asyncpg.QueryCanceledError
    )


def _joined(answers: Iterable[Sequence[Answer | Exception]]) -> list[Answer | Exception]:
    return [answer for single in answers for answer in single]
