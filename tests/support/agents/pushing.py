"""Two words are two artifacts; a path waits for its gate, as in `gated`."""

import time
from pathlib import Path

from perdure import Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str | None:
    said = messages[-1]["content"]
    if said.startswith("/"):
        with Path(f"{said}.log").open("a") as log:
            print("begun", file=log, flush=True)
        while not Path(said).exists() and not turn.canceled:
            time.sleep(0.01)
    return said.upper()


bindufy({"name": "e2e", "capabilities": {"push_notifications": True}}, handler)
