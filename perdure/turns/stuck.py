"""Handlers that did not end when they were told to: left to themselves, fenced, counted; and how a process with them ends.

Nobody can end a coroutine that swallows CancelledError or a thread that is inside a C function. Closing the event loop, or the
interpreter waiting for its threads, would wait for them for ever: a process that has such handlers ends by `os._exit`.
"""

from __future__ import annotations

import asyncio
import gc
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

left_behind: set[asyncio.Task[Any]] = set()
"""Those that have still not ended."""

_too_many = False


def leave_behind(handler: asyncio.Task[Any]) -> int:
    """Wait for it no longer; how many of its kind there are."""
    left_behind.add(handler)
    handler.add_done_callback(left_behind.discard)
    return len(left_behind)


def fail_at_the_end() -> None:
    """There are too many: once this process has ended in order, its exit code is 1."""
    global _too_many  # noqa: PLW0603 - a process ends once
    _too_many = True


@contextmanager
def ending_for_sure() -> Iterator[None]:
    """Around all that a process does: nothing waits for a stuck handler after it."""
    code = 0
    try:
        yield
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
        raise
    except BaseException:
        code = 1
        raise
    finally:
        if left_behind or _too_many:
            end_process(code)


def end_process(code: int = 0) -> NoReturn:
    """Now, whatever still runs. 1 instead of `code` where there are too many stuck handlers."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()
    os._exit(1 if _too_many else code)


# ---------------------------------------------------------------------- where they are


def stack_of(handler: asyncio.Task[Any]) -> str:
    """Where it stands, as a traceback shows it, the innermost call last: that of the thread which has its name, else the chain of
    what awaits what in a task that is suspended."""
    if thread := thread_of(handler):
        return stack_of_thread(thread.ident)
    frames = list(_awaiting(handler.get_coro()))
    return "".join(traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames).format())


def thread_of(handler: asyncio.Task[Any]) -> threading.Thread | None:
    """That of a plain function, while it runs."""
    name = handler.get_name()
    return next((thread for thread in threading.enumerate() if thread.name == name), None)


def stack_of_thread(ident: int | None) -> str:
    """Empty when it has ended."""
    frame = sys._current_frames().get(ident) if ident else None
    return "".join(traceback.format_stack(frame)) if frame else ""


def _awaiting(awaitable: Any) -> Iterator[FrameType]:
    seen: set[int] = set()
    while awaitable is not None and id(awaitable) not in seen:
        seen.add(id(awaitable))
        if inspect.iscoroutine(awaitable):
            frame, awaitable = awaitable.cr_frame, awaitable.cr_await
        elif inspect.isasyncgen(awaitable):
            frame, awaitable = awaitable.ag_frame, awaitable.ag_await
        elif inspect.isgenerator(awaitable):
            frame, awaitable = awaitable.gi_frame, awaitable.gi_yieldfrom
        else:  # what `async for` awaits, or the wrapper of a coroutine: they tell nobody but the garbage collector
            frame, awaitable = None, _inside(awaitable)
        if frame is not None:
            yield frame


def _inside(wrapper: Any) -> Any:
    if isinstance(wrapper, asyncio.Future):
        return None
    inner = gc.get_referents(wrapper)
    return next((each for each in inner if inspect.isasyncgen(each) or inspect.iscoroutine(each)), None)
