"""For clients nobody here wrote: repeats in capitals, several words one by one; `weather` asks back; a path waits for its gate.

The gates are those of `gated_stream`.
"""

import asyncio
import os
from pathlib import Path

from perdure import InputRequired, Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> str | None:
    said = [message["content"] for message in messages if message["role"] == "user"]
    if said[0] == "weather" and len(said) == 1:
        raise InputRequired("Which city?")
    words = said[-1].upper().split()
    if said[-1].startswith("/"):
        await _gate(said[-1])
        return "done"
    if len(words) == 1:
        return words[0]
    for word in words:
        turn.emit(f"{word} ")
    return None


async def _gate(path: str) -> None:
    _note(path, f"{os.getpid()} 1")
    try:
        while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 -- another process opens it
            await asyncio.sleep(0.01)
    except asyncio.CancelledError:
        _note(path, "canceled")
        raise


def _note(gate: str, line: str) -> None:
    with Path(f"{gate}.log").open("a") as log:
        print(line, file=log)


bindufy(
    {
        "name": "talking",
        "deployment": {"url": "https://talking.test"},  # of all front doors: each would name itself
        "capabilities": {"push_notifications": True},
        "default_input_modes": ["*/*"],
    },
    handler,
)
