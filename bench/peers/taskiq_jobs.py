"""taskiq with its list broker, one process, 100 tasks at once."""

import asyncio
import os
import sys

from counting import counted, sent
from taskiq.cli.worker.run import run_worker  # noqa: F401 -- fails here, not in a child, where it is missing
from taskiq_redis import ListQueueBroker

broker = ListQueueBroker(os.environ["REDIS"], socket_timeout=None)


@broker.task("job")  # the sender is __main__, the worker imports the module
async def job(moment: int) -> None:
    counted(moment)


async def main() -> None:
    await broker.startup()
    await sent(job.kiq)
    await broker.shutdown()


if __name__ == "__main__":
    if sys.argv[1] == "send":
        asyncio.run(main())
    else:
        os.chdir(os.path.dirname(__file__))
        arguments = ["taskiq", "worker", "taskiq_jobs:broker", "--workers", "1", "--max-async-tasks", "100"]
        os.execv(sys.executable, [sys.executable, "-m", *arguments])
