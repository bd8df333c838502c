"""Plain arq: a poll of 10 ms and 100 jobs at once, the quickest that was found."""

import asyncio
import os
import sys
from typing import Any

import uvloop
from arq import create_pool, run_worker
from arq.connections import RedisSettings
from counting import counted, sent

uvloop.install()
REDIS = RedisSettings.from_dsn(os.environ["REDIS"])


async def job(ctx: Any, moment: int) -> None:
    counted(moment)


class WorkerSettings:
    functions = (job,)
    redis_settings = REDIS
    poll_delay = 0.01
    max_jobs = 100
    keep_result = 0


async def main() -> None:
    pool = await create_pool(REDIS)
    await sent(lambda moment: pool.enqueue_job("job", moment))


if sys.argv[1] == "send":
    asyncio.run(main())
else:
    asyncio.set_event_loop(uvloop.new_event_loop())
    run_worker(WorkerSettings)
