"""Plain functions on daemon threads of their own: never on the event loop, and not in an executor, whose threads are waited for
when the interpreter ends."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any


def in_thread(call: Callable[[], Any], name: str) -> asyncio.Future[Any]:
    """Call it on a thread with this task's context variables. Shield it: the future is done when the thread has ended, and
    cancelling it stops nothing."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Any] = loop.create_future()
    ended.add_done_callback(lambda _: ended.cancelled() or ended.exception())  # it may be that nobody asks
    context = contextvars.copy_context()

    def tell(value: Any, error: BaseException | None) -> None:
        if ended.done():
            return
        if error is None:
            ended.set_result(value)
        else:
            ended.set_exception(_told(error))

    def run() -> None:
        value, error = None, None
        try:
            value = context.run(call)
        except BaseException as raised:  # a thread has nobody above it: even SystemExit is told
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, value, error)

    _Working(loop, run, name).start()
    return ended


class _Working(threading.Thread):
    """A thread of `in_thread`, and for whom it works."""

    def __init__(self, loop: asyncio.AbstractEventLoop, run: Callable[[], None], name: str) -> None:
        super().__init__(target=run, name=name, daemon=True)
        self.loop = loop


def working_for(loop: asyncio.AbstractEventLoop) -> list[threading.Thread]:
    """The threads whose ends this loop will be told of."""
    return [each for each in threading.enumerate() if isinstance(each, _Working) and each.loop is loop]


def _told(error: BaseException) -> BaseException:
    """These would mean something else on the other side."""
    if isinstance(error, StopIteration | asyncio.CancelledError | KeyboardInterrupt):
        new = RuntimeError(f"the handler raised {type(error).__name__}")
        new.__cause__ = error
        return new
    return error
