"""Checkpoints of a turn: a function's result is stored before the handler goes on, and returned when the turn runs again.

Keyed by name and occurrence: the second step called "search" is another one than the first. A step always gives what JSON makes
of the result (a tuple comes back as a list), so that it gives the same when the turn is run again.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from perdure.stored.storable import unstorable
from perdure.threads import in_thread

Store = Callable[[str, int, Any], Awaitable[None]]
"""Keeps a result: name, occurrence (1, 2, ...), JSON. Raises when it is refused."""

MAX_NAME = 200


class Steps:
    """Those of one attempt. `stored` are the results of earlier ones."""

    def __init__(self, stored: Mapping[tuple[str, int], Any], store: Store) -> None:
        self._stored = stored
        self._store = store
        self._counts: Counter[str] = Counter()
        self._lock = threading.Lock()
        try:
            self._loop: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._loop = None

    async def run(self, name: str, call: Callable[[], Any]) -> Any:
        """On the event loop. A cancelled step that runs a plain function ends with that, and what it gave is stored."""
        step = self._next(name)
        if step in self._stored:
            return self._stored[step]
        await asyncio.sleep(0)  # a cancel that waits comes before the call
        if _is_async(call):
            return await self._kept(step, await call())
        running = in_thread(call, f"step {name}")
        cancelled = await _to_its_end(running)
        if cancelled and (error := running.exception()):
            raise cancelled from error  # or a handler that tries again when a step fails would go on
        value = running.result()
        if inspect.isawaitable(value):  # `lambda: client.search(...)` of an async client
            value = await value
        return await self._kept(step, value, cancelled)

    def run_here(self, name: str, call: Callable[[], Any]) -> Any:
        """In a thread of a plain function."""
        if self._loop is None or _running_loop() is self._loop:
            raise RuntimeError("turn.step_sync is for plain functions; here it is: await turn.step(...)")
        if _is_async(call):
            raise TypeError(f"step {name!r}: turn.step_sync runs plain functions, not coroutines")
        step = self._next(name)
        if step in self._stored:
            return self._stored[step]
        value = _as_json(step, call())
        asyncio.run_coroutine_threadsafe(self._stored_now(step, value), self._loop).result()
        return value

    def _next(self, name: str) -> tuple[str, int]:
        if not 0 < len(name) <= MAX_NAME or unstorable(name):
            raise ValueError(f"a step's name is a text of 1 to {MAX_NAME} characters, not {name!r:.80}")
        with self._lock:
            self._counts[name] += 1
            return name, self._counts[name]

    async def _kept(
        self, step: tuple[str, int], result: Any, cancelled: asyncio.CancelledError | None = None
    ) -> Any:
        """Store it; also when cancelled before (`cancelled`) or meanwhile, since it may have been paid for."""
        value = _as_json(step, result)
        storing = asyncio.ensure_future(self._stored_now(step, value))
        cancelled = await _to_its_end(storing) or cancelled
        if cancelled and storing.exception() and (task := asyncio.current_task()):
            task.cancel()  # the refusal is told first, the cancel at the next await
        storing.result()
        if cancelled:
            raise cancelled
        return value

    async def _stored_now(self, step: tuple[str, int], value: Any) -> None:
        await self._store(*step, value)


def _as_json(step: tuple[str, int], result: Any) -> Any:
    if found := unstorable(result):
        path, why = found
        where = f" ({path})" if path else ""
        raise TypeError(f"step {step[0]!r}: its result cannot be stored: it{where} {why}")
    return json.loads(json.dumps(result))


async def _to_its_end(ended: asyncio.Future[Any]) -> asyncio.CancelledError | None:
    """Wait for it, also when cancelled, which is given back. Cancelled a second time it is waited for no longer."""
    try:
        await asyncio.wait((ended,))
    except asyncio.CancelledError as cancelled:
        await asyncio.wait((ended,))
        return cancelled
    return None


def _is_async(call: Callable[[], Any]) -> bool:
    function: Any = call
    while isinstance(function, functools.partial):
        function = function.func
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(
        getattr(function, "__call__", None)  # noqa: B004 - wanted is the method, not the answer
    )


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
