"""Streams as a model does. `tokens 100 0.02`: a hundred tokens, one every 20 ms. Each tells the clock that all processes of a
machine share, in nanoseconds, between `<` and `>`."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from perdure import bindufy


async def handler(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    _, number, pause = str(messages[-1]["content"]).split()
    due = time.monotonic()
    for _ in range(int(number)):
        yield f"<{time.monotonic_ns()}> "
        due += float(pause)
        await asyncio.sleep(max(due - time.monotonic(), 0))


bindufy({"name": "bench"}, handler)
