"""Two turns at once, one for each tenant. Each turn lists, in `turns.log`, who runs while it does: `<tenant> <tenant> ...`."""

import os
import time
from pathlib import Path

from perdure import Turn, bindufy

RUNNING = Path("running")


def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    RUNNING.mkdir(exist_ok=True)
    mark = RUNNING / f"{turn.metadata['tenant']}.{turn.task_id}"
    mark.touch()
    time.sleep(0.05)  # so that turns meet
    together = " ".join(sorted(name.partition(".")[0] for name in os.listdir(RUNNING)))
    with Path("turns.log").open("a") as log:
        print(together, file=log, flush=True)
    mark.unlink()
    return messages[-1]["content"]


bindufy(
    {"name": "e2e", "limits": [{"max_running": 2}, {"max_running": 1, "per": "metadata.tenant"}]}, handler
)
