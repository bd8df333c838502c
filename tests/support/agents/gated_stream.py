"""The same as `gated`, for a handler that runs on the event loop and streams its answer."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from perdure import Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> AsyncIterator[str]:
    text = messages[-1]["content"]
    if not text.startswith("/"):
        yield text.upper()
        return
    _note(text, f"{os.getpid()} {turn.attempt}")
    yield f"begun by {os.getpid()}, "
    try:
        while not _is_open(text):  # noqa: ASYNC110 -- another process opens it: there is no event to wait for
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        _note(text, "canceled")
        raise
    yield f"done by {os.getpid()}"


def _note(gate: str, line: str) -> None:
    with Path(f"{gate}.log").open("a") as log:
        print(line, file=log)


def _is_open(gate: str) -> bool:
    return Path(gate).exists() or Path(f"{gate}.{os.getpid()}").exists()


bindufy({"name": "e2e"}, handler)
