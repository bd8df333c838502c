"""What every job of every queue does: nothing but being counted. The last one of TARGET tells how long it all took."""

import asyncio
import json
import os
import time
from collections.abc import Awaitable, Callable

TARGET = int(os.environ.get("TARGET", "0"))
_waited: list[float] = []
_first = 0


def counted(sent: int) -> None:
    """A job ran that was sent at this moment (monotonic, nanoseconds)."""
    global _first  # noqa: PLW0603 -- one process, one run
    now = time.monotonic_ns()
    _first = _first or now
    _waited.append((now - sent) / 1e6)
    if len(_waited) == TARGET:
        told = json.dumps({"seconds": (now - _first) / 1e9, "milliseconds": _waited})
        print(f"counted {told}", flush=True)  # in one write: Celery makes a line of each


async def sent(enqueue: Callable[[int], Awaitable[object]]) -> None:
    """Send TARGET jobs: 16 at a time, or one after each PAUSE seconds."""
    pause = float(os.environ.get("PAUSE", "0"))
    begin = time.monotonic()
    if pause:
        for _ in range(TARGET):
            await enqueue(time.monotonic_ns())
            await asyncio.sleep(pause)
    else:
        for _ in range(0, TARGET, 16):
            await asyncio.gather(*(enqueue(time.monotonic_ns()) for _ in range(16)))
    print("sent", time.monotonic() - begin, flush=True)
