"""MemoryStorage: every guarantee of the port inside one process. The model that PostgresStorage must agree with.

One lock is held for the whole of each method, which never awaits while holding it: a method is a transaction. It is a thread's
lock since the keeper renews from a thread of its own. Whatever could be refused (a stale claim, a value that cannot be stored)
is looked at before the first change, so that nothing is half-written.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from perdure.storage import Keeper
from perdure.storage.keeper import Renew, ThreadKeeper
from perdure.storage.memory.belongings import Belongings
from perdure.storage.memory.contexts import Contexts
from perdure.storage.memory.counts import Counts
from perdure.storage.memory.folding import Folding
from perdure.storage.memory.keys import Keys
from perdure.storage.memory.ledger import Ledger
from perdure.storage.memory.operators import Operators, Sign
from perdure.storage.memory.reading import Reading
from perdure.storage.memory.retention import Retention, Run
from perdure.storage.memory.sending import Sending
from perdure.storage.memory.sweeps import Sweeps
from perdure.storage.memory.turns import Turns
from perdure.storage.memory.webhooks import Webhooks
from perdure.storage.memory.workers import Workers
from perdure.storage.operators import OperatorAction


class MemoryStorage(
    Sending,
    Reading,
    Turns,
    Sweeps,
    Workers,
    Contexts,
    Belongings,
    Counts,
    Folding,
    Keys,
    Operators,
    Retention,
    Webhooks,
):
    """See `Storage`. Beyond `finished_tasks` ended tasks the oldest are dropped, with contexts that hold nothing else.
    `clock` tells the time, in UTC."""

    def __init__(
        self,
        *,
        finished_tasks: int = 10_000,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._lock = threading.Lock()
        self._ledger = Ledger(finished_tasks, clock)
        self._keys = {}
        self._workers: dict[str, Sign] = {}
        self._actions: list[OperatorAction] = []
        self._run = Run()

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def check(self) -> datetime:
        return self._ledger.now()

    def keeper(self, *, lease: float) -> Keeper:

        @asynccontextmanager
        async def connect() -> AsyncIterator[Renew]:
            yield self.renew_claims

        return ThreadKeeper(connect, lease=lease)
