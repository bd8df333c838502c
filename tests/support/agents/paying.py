"""A handler with two paid calls, each a line in `<path>.calls`; between them it waits for the file that the message names."""

import asyncio
import os
from pathlib import Path

from perdure import Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    path = messages[-1]["content"]
    found = await turn.step("search", pay, path, "search")
    with Path(f"{path}.log").open("a") as log:  # noqa: ASYNC230
        print(os.getpid(), turn.attempt, file=log, flush=True)
    while not Path(path).exists():  # noqa: ASYNC110, ASYNC240 -- another process opens it: there is no event to wait for
        await asyncio.sleep(0.01)
    bought = await turn.step("buy", pay, path, "buy")
    return f"{found}, {bought}"


def pay(path: str, what: str) -> str:
    with Path(f"{path}.calls").open("a") as calls:
        print(what, file=calls, flush=True)
    return f"{what} by {os.getpid()}"


bindufy({"name": "e2e"}, handler)
