"""A plain function that sits in a C call for ten minutes the first time, whatever it is told. The message is `sleep <path>`, as
`stubborn` takes it."""

import os
import time
from pathlib import Path

from perdure import Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    how, _, path = messages[-1]["content"].partition(" ")
    if not path:
        return how.upper()
    with Path(f"{path}.log").open("a") as log:
        print(os.getpid(), turn.attempt, file=log, flush=True)
    if turn.attempt == 1:
        time.sleep(600)
    return f"done by {os.getpid()}"


bindufy({"name": "e2e"}, handler)
