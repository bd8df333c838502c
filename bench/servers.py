"""The servers that are put under load: ours in its three modes, and the peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from perdure.local import LocalServices

from .dialects import V03, V1, Dialect
from .ours import new_database, stack
from .processes import free_port, started
from .venvs import python_of

PROGRAMS = Path(__file__).parent / "peers"


@dataclass(frozen=True)
class Subject:
    """`serve(services, workers)` runs it and yields its address; `workers` matters to ours alone."""

    name: str
    serve: Callable[[LocalServices, int], AbstractAsyncContextManager[str]]
    dialect: Dialect
    note: str = ""


@asynccontextmanager
async def _ours(services: LocalServices, workers: int) -> AsyncIterator[str]:
    async with stack(services) as made:
        with made.front_door() as (_, url):
            first, second = made.worker(), made.worker()
            with first:
                if workers == 1:
                    yield url
                else:
                    with second:
                        yield url


@asynccontextmanager
async def _in_one_process(services: LocalServices, workers: int) -> AsyncIterator[str]:
    async with stack(services, QUEUE_TYPE="inline") as made:
        with made.front_door() as (_, url):
            yield url


@asynccontextmanager
async def _in_memory(services: LocalServices, workers: int) -> AsyncIterator[str]:
    async with stack(services) as made:
        made.settings |= {"STORAGE_TYPE": "memory", "QUEUE_TYPE": "inline", "DATABASE_URL": ""}
        with made.front_door() as (_, url):
            yield url


@asynccontextmanager
async def _a2a_sdk(services: LocalServices, workers: int) -> AsyncIterator[str]:
    database = (await new_database(services)).replace("postgresql://", "postgresql+asyncpg://")
    with _peer("a2a-sdk", "a2a_sdk_server.py", DATABASE=database) as url:
        yield url


@asynccontextmanager
async def _fasta2a(services: LocalServices, workers: int) -> AsyncIterator[str]:
    with _peer("fasta2a", "fasta2a_server.py") as url:
        yield url


@contextmanager
def _peer(name: str, program: str, **settings: str) -> Iterator[str]:
    port = free_port()
    command = [python_of(name), str(PROGRAMS / program)]
    with started(command, settings={"PORT": str(port), **settings}) as process:
        process.until_said("running on")
        yield f"http://127.0.0.1:{port}/"


OURS = Subject("Perdure", _ours, V1)
A2A_SDK = Subject("a2a-sdk", _a2a_sdk, V1, "DatabaseTaskStore")
FASTA2A = Subject("fasta2a", _fasta2a, V03, "in memory: not durable")
ALL = (
    OURS,
    Subject("Perdure in one process", _in_one_process, V1, "Postgres, no Redis"),
    Subject("Perdure in memory", _in_memory, V1, "not durable"),
    A2A_SDK,
    FASTA2A,
)
