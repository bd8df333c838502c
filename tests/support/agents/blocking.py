"""A coroutine that never awaits: it blocks the event loop of its worker until the file is there that it is told.

Writes its process id and attempt into `<path>.log`.
"""

import os
import time
from pathlib import Path

from perdure import Turn, bindufy


async def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    gate = Path(messages[-1]["content"])
    with Path(f"{gate}.log").open("a") as log:  # noqa: ASYNC230
        print(os.getpid(), turn.attempt, file=log, flush=True)
    while not gate.exists():  # noqa: ASYNC240 - what an author should not do, and does
        time.sleep(0.01)  # noqa: ASYNC251
    return f"done by {os.getpid()}"


bindufy({"name": "e2e"}, handler)
