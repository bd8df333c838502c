"""What is looked at first: how long an import takes, and how much memory and how many streams a process holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from urllib.parse import urlsplit

import orjson

from perdure.local import LocalServices

from .dialects import V1, task_of
from .http import connected, hung_up
from .ours import stack
from .processes import PERDURE, started
from .results import percentile


def seconds_to_run(*command: str, times: int = 7) -> float:
    """The median of a command's wall time."""
    took = []
    for _ in range(times):
        begin = time.monotonic()
        subprocess.run(command, capture_output=True, check=True)
        took.append(time.monotonic() - begin)
    return percentile(took, 0.5)


def import_seconds() -> float:
    """`import perdure`, over an interpreter that imports nothing."""
    return seconds_to_run(sys.executable, "-c", "import perdure") - seconds_to_run(
        sys.executable, "-c", "pass"
    )


def help_seconds() -> float:
    """`perdure --help`, all of it."""
    return seconds_to_run(PERDURE, "--help")


_BARE = (
    "import asyncpg, orjson, pydantic, redis.asyncio, sqlalchemy.ext.asyncio, starlette.applications, structlog, "
    "uvicorn, uvloop"
)


async def memory_over_imports(services: LocalServices) -> tuple[float, float]:
    """MB of an idle front door and an idle worker over a process that has only imported the libraries."""
    with started([sys.executable, "-c", f"{_BARE}; print('imported'); import time; time.sleep(60)"]) as bare:
        bare.until_said("imported")
        base = bare.memory()
    async with stack(services) as made:
        with made.front_door() as (door, _), made.worker() as worker:
            await asyncio.sleep(2)
            return door.memory() - base, worker.memory() - base


async def streams(services: LocalServices, number: int) -> tuple[float, float]:
    """KB that an idle stream costs the front door; and milliseconds from the first to the 99th of a hundred of all who follow one
    task until its end has reached them."""
    async with stack(services) as made:
        with made.front_door() as (door, url):
            [client] = await connected(url, V1.headers, 1)
            task_id, _ = task_of(await client.call(V1.sending("hello", wait=False)))
            before = door.memory()
            readers = [await _subscribed(url, task_id) for _ in range(number)]
            await asyncio.sleep(1)
            each = 1000 * (door.memory() - before) / number
            with made.worker():
                reached = await asyncio.gather(*(_last(reader) for reader, _ in readers))
            for _, writer in readers:
                writer.close()
            await hung_up([client])
            return each, 1000 * (percentile(reached, 0.99) - min(reached))


async def _subscribed(url: str, task_id: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A stream of the task, its first event read."""
    parts = urlsplit(url)
    reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
    request = {"jsonrpc": "2.0", "id": 1, "method": "SubscribeToTask", "params": {"id": task_id}}
    body = orjson.dumps(request)
    head = (
        f"POST / HTTP/1.1\r\nhost: {parts.netloc}\r\ncontent-type: application/json\r\nA2A-Version: 1.0\r\n"
    )
    writer.write(f"{head}accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body)
    while not (line := await reader.readline()).startswith(b"data:"):
        if not line:
            raise RuntimeError("the stream has ended")
    return reader, writer


async def _last(reader: asyncio.StreamReader) -> float:
    """When the event with the end of the task arrived."""
    while b"TASK_STATE_COMPLETED" not in (line := await reader.readline()):
        if not line:
            raise RuntimeError("the stream has ended")
    return time.monotonic()
