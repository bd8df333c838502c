"""A thousand blocking sends wait on one front door: without polling, without a connection to the database."""

from __future__ import annotations

import asyncio
import json
import re
import resource
from collections import Counter
from typing import Any
from urllib.parse import urlsplit

import pytest

from perdure.storage.postgres.reads import NOTICES
from tests.support.processes import PERDURE, Server, sending, text_of

from .conftest import Stack, until

WAITING = 1000
POOL = 5
REFRESHES = 4
REFRESH = NOTICES.strip()
"""One query for all that is waited for."""
OTHERS = 6 * POOL
"""Each connection looks up the types that it meets for the first time; however many wait."""


@pytest.fixture(autouse=True)
def _open_files() -> None:
    """This process has an end of each connection, too."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert hard > 2 * WAITING
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))


def front_door(stack: Stack) -> Server:
    """One that may open fewer files than it needs, as most systems have it, until it asks for more."""
    command = ["sh", "-c", f"ulimit -Sn 256 && exec {PERDURE} serve --port 0"]
    process, first = stack.start(command, "serving", STORAGE__POOL_SIZE=str(POOL), STORAGE__POOL_TIMEOUT="60")
    return Server(process.popen, first["url"])


async def asks(server: Server, number: int) -> dict[str, Any]:
    """A blocking send; its answer."""
    address = urlsplit(server.url)
    params = sending(f"message {number}")
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "message/send", "params": params})
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    writer.write((head + body).encode())
    answer_head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", answer_head)
    assert length, answer_head
    answer: dict[str, Any] = json.loads(await reader.readexactly(int(length[1])))
    writer.close()
    assert answer["id"] == number
    return answer


def statements(stack: Stack) -> Counter[str]:
    """What Postgres was asked since it began to note it."""
    log = stack.services.postgres.log.read_text(errors="replace")
    return Counter(re.findall(r"LOG:  (?:execute|statement)[^:]*:\s+(.*)", log))


def stored(stack: Stack) -> bool:
    return bool(stack.rows("SELECT count(*) FROM tasks")[0][0] == WAITING)


def note_statements(stack: Stack, setting: str) -> None:
    stack.rows(f"ALTER SYSTEM SET log_statement = '{setting}'")
    stack.rows("SELECT pg_reload_conf()")


@pytest.mark.timeout(120)
def test_a_thousand_waiting_sends_cost_no_polling_and_no_connections(stack: Stack) -> None:
    server = front_door(stack)
    before = stack.rows("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")[0][0]
    assert before <= POOL + 1  # with the one that asks

    async def wait() -> list[dict[str, Any]]:
        async with asyncio.TaskGroup() as clients:
            asked = [clients.create_task(asks(server, number)) for number in range(WAITING)]
            await all_wait(asked)
            await asyncio.to_thread(stack.worker, WORKER__LEASE="15")
        return [task.result() for task in asked]

    async def all_wait(asked: list[asyncio.Task[dict[str, Any]]]) -> None:
        await asyncio.to_thread(until, lambda: stored(stack))
        await asyncio.to_thread(note_statements, stack, "all")
        await asyncio.to_thread(until, lambda: statements(stack)[REFRESH] >= REFRESHES)
        others = statements(stack)
        del others[REFRESH]
        assert others.total() < OTHERS, others
        await asyncio.to_thread(note_statements, stack, "none")
        assert not any(task.done() for task in asked)
        [row] = await asyncio.to_thread(
            stack.rows,
            "SELECT count(*) AS all, count(*) FILTER (WHERE state <> 'idle') AS busy FROM pg_stat_activity "
            "WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
        )
        assert row["all"] <= POOL
        assert row["busy"] == 0

    answers = asyncio.run(wait())
    server.close()
    assert [text_of(answer["result"]) for answer in answers] == [f"MESSAGE {n}" for n in range(WAITING)]
    assert {answer["result"]["status"]["state"] for answer in answers} == {"completed"}
