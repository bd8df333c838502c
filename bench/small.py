"""What is looked at first: how long an import takes, and how much memory and how many streams a process holds."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

import orjson

from perdure.ids import new_token
from perdure.local import LocalServices
from perdure.tasks import Artifact, ArtifactChunk, Notice, TextPart

from .dialects import V1, task_of
from .http import connected, hung_up
from .ours import Inside, stack
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


EVENTS = 21
PAUSE = 0.2
"""Seconds between two events: no one's work is left over from the last one."""


async def streams(services: LocalServices, number: int) -> tuple[float, float]:
    """KB that an idle stream costs the front door; and milliseconds from the moment when an event is committed until it has
    reached 99 of a hundred of all who follow its task: the median over some events."""
    async with stack(services) as made:
        with made.front_door() as (door, url):
            [client] = await connected(url, V1.headers, 1)
            task_id, _ = task_of(await client.call(V1.sending("hello", wait=False)))
            await hung_up([client])
            before = door.memory()
            async with _reading(url, task_id, number) as reached:
                await asyncio.sleep(1)
                each = 1000 * (door.memory() - before) / number
                async with made.inside() as inside:
                    took = [after async for after in _events(inside, reached)]
            return each, 1000 * percentile(took[1:], 0.5)


@asynccontextmanager
async def _reading(url: str, task_id: str, number: int) -> AsyncIterator[asyncio.StreamReader]:
    """So many streams of the task, in a process of their own; what it says of each event. In this process and with asyncio each
    event would wake 2,000 tasks here as well: that took 211 ms of processor time an event, two thirds of what the front door took
    at that time on the same two cores; the readers take 28 to 33."""
    parts = urlsplit(url)
    where = (str(parts.hostname), str(parts.port), task_id, str(number), str(EVENTS))
    readers = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "bench.readers", *where, stdout=asyncio.subprocess.PIPE, limit=1 << 24
    )
    assert readers.stdout is not None
    try:
        if await readers.stdout.readline() != b"subscribed\n":
            raise RuntimeError("the readers could not subscribe")
        yield readers.stdout
    finally:
        with suppress(ProcessLookupError):  # it has ended by itself
            readers.terminate()
        await readers.wait()


async def _events(inside: Inside, reached: asyncio.StreamReader) -> AsyncIterator[float]:
    """An agent's turn, played here, since only this process knows when it has written: after how many seconds each event has
    reached the 99th of a hundred. The first is that the turn has begun."""
    turn = await inside.storage.claim_task("bench", new_token(), lease=600)
    assert turn is not None
    seq, state = turn.task.last_seq, turn.task.state
    for number in range(1, EVENTS + 1):
        committed = time.monotonic()
        await inside.queue.announce([Notice(turn.claim.task_id, seq, state)])
        yield percentile(orjson.loads(await reached.readline()), 0.99) - committed
        await asyncio.sleep(PAUSE)
        artifact = Artifact(artifact_id="answer", parts=(TextPart(f"token {number} "),))
        chunk = ArtifactChunk(artifact, append=number > 1, last_chunk=False)
        written = await inside.storage.update_task(turn.claim, number, new_artifacts=[chunk])
        seq, state = written.seq, written.state
