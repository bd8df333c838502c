"""Gives back what it was sent. `sleep 0.05` waits, `now` tells the clock that all processes of a machine share."""

import asyncio
import time
from typing import Any

from perdure import bindufy


async def handler(messages: list[dict[str, Any]]) -> str:
    text = str(messages[-1]["content"])
    if text.startswith("sleep "):
        await asyncio.sleep(float(text.removeprefix("sleep ")))
    return str(time.monotonic_ns()) if text == "now" else text


bindufy({"name": "bench"}, handler)
