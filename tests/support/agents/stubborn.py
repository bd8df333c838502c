"""Handlers that do not end when they are told to. The message is `<how> <path>`: they go on until that file is there.

`swallow`: a coroutine that catches CancelledError. `sleep`: a plain function in a C call. `block`: a coroutine that never awaits.
The process id and attempt of each run are written into `<path>.log`. The second run of a turn answers
at once.
"""

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path

from perdure import Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    how, _, path = messages[-1]["content"].partition(" ")
    if not path:
        return how.upper()
    with Path(f"{path}.log").open("a") as log:  # noqa: ASYNC230
        print(os.getpid(), turn.attempt, file=log, flush=True)
    if turn.attempt == 1:
        await HOW[how](Path(path))
    return f"done by {os.getpid()}"


async def swallow(gate: Path) -> None:
    while not gate.exists():  # noqa: ASYNC240
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(0.01)


async def sleep(gate: Path) -> None:
    # In the executor of the loop, for which both the loop and the interpreter wait when they end.
    try:
        await asyncio.to_thread(time.sleep, 600)
    except asyncio.CancelledError:
        await swallow(gate)


async def block(gate: Path) -> None:
    while not gate.exists():  # noqa: ASYNC240
        time.sleep(0.01)  # noqa: ASYNC251


HOW = {"swallow": swallow, "sleep": sleep, "block": block}
bindufy({"name": "e2e"}, handler)
