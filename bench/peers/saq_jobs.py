"""SAQ on Redis, 100 jobs at once."""

import asyncio
import os
import sys
from typing import Any

import uvloop
from counting import counted, sent
from saq import Queue, Worker

uvloop.install()


async def job(ctx: Any, *, moment: int) -> None:
    counted(moment)


async def main() -> None:
    queue = Queue.from_url(os.environ["REDIS"])
    if sys.argv[1] == "send":
        await queue.connect()
        await sent(lambda moment: queue.enqueue("job", moment=moment))
        await queue.disconnect()
    else:
        await Worker(queue, functions=[job], concurrency=100).start()


asyncio.run(main())
