"""procrastinate on Postgres, 100 jobs at once; it is told of new ones by LISTEN."""

import asyncio
import os
import sys

from counting import counted, sent
from procrastinate import App, PsycopgConnector

app = App(connector=PsycopgConnector(conninfo=os.environ["DATABASE"], max_size=20))


@app.task(name="job")
async def job(moment: int) -> None:
    counted(moment)


async def main() -> None:
    async with app.open_async():
        if sys.argv[1] == "send":
            if os.environ.get("PAUSE", "0") in ("0", "0.0"):
                await app.schema_manager.apply_schema_async()
            await sent(lambda moment: job.defer_async(moment=moment))
        else:
            if os.environ.get("PAUSE", "0") not in ("0", "0.0"):
                await app.schema_manager.apply_schema_async()
            await app.run_worker_async(concurrency=100, delete_jobs="always")


asyncio.run(main())
