"""Celery on Redis with a pool of 100 threads, results ignored."""

import asyncio
import os
import sys
from functools import partial

from celery import Celery
from counting import counted, sent

app = Celery("jobs", broker=os.environ["REDIS"])
app.conf.task_ignore_result = True
app.conf.broker_connection_retry_on_startup = True


@app.task(name="job")
def job(moment: int) -> None:
    counted(moment)


async def main() -> None:
    loop = asyncio.get_running_loop()
    await sent(lambda moment: loop.run_in_executor(None, partial(job.delay, moment)))


if sys.argv[1] == "send":
    asyncio.run(main())
else:
    app.worker_main(["worker", "--pool", "threads", "--concurrency", "100", "--loglevel", "INFO"])
