"""streaQ, 100 tasks at once."""

import asyncio
import os
import sys

from counting import counted, sent
from streaq import Worker

worker: Worker = Worker(redis_url=os.environ["REDIS"], concurrency=100)


@worker.task()
async def job(moment: int) -> None:
    counted(moment)


async def main() -> None:
    async with worker:
        await sent(job.enqueue)


if sys.argv[1] == "send":
    asyncio.run(main())
else:
    worker.run_sync()
