"""Streams `<number> <path>` as the words 0 to number - 1. Half-way it writes its process id and attempt into `<path>.log` and
waits for the file, if a path is given."""

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

from perdure import Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> AsyncIterator[str]:
    number, _, gate = messages[-1]["content"].partition(" ")
    for word in range(int(number)):
        if gate and word == int(number) // 2:
            with Path(f"{gate}.log").open("a") as log:  # noqa: ASYNC230
                print(os.getpid(), turn.attempt, file=log)
            while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 -- another process opens it
                await asyncio.sleep(0.01)
        yield f"{word} "
        await asyncio.sleep(0.001)


bindufy({"name": "words"}, handler)
