"""A handler that blocks, in a thread. A text that is a path: the turn goes on until that file is there
(`<path>.<process id>` opens it for one process alone).

Whoever works on it writes its process id and attempt into `<path>.log`, and `canceled` when it is told to stop.
"""

import os
import time
from pathlib import Path

from perdure import InputRequired, Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str | None:
    said = [message["content"] for message in messages if message["role"] == "user"]
    if said[0] == "weather":
        if len(said) == 1:
            raise InputRequired("Which city?")
        return " / ".join(message["content"] for message in messages)
    if not said[-1].startswith("/"):
        return said[-1].upper()
    return _gated(Path(said[-1]), turn)


def _gated(gate: Path, turn: Turn) -> str | None:
    turn.emit("begun")
    with Path(f"{gate}.log").open("a") as log:
        print(os.getpid(), turn.attempt, file=log, flush=True)
        while not (gate.exists() or Path(f"{gate}.{os.getpid()}").exists()):
            if turn.canceled:
                print("canceled", file=log, flush=True)
                return None
            time.sleep(0.01)
    return f"done by {os.getpid()}"


bindufy({"name": "e2e"}, handler)
