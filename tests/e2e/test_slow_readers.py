"""Clients that do not read, over raw sockets and a real front door in memory."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import psutil  # type: ignore[import-untyped]
import pytest

from tests.support.processes import PERDURE, Server, heard, sending, serving, surroundings
from tests.support.streams import Listener

from .conftest import AGENTS, at, until

CHUNKS = 24
"""Of a megabyte each; the kernel's buffers hold 6 MB on this side and 4 MB on the other."""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    env = surroundings(LOG__FORMAT="json", SERVER__SLOW_READER="0.5", TURNS__CHUNK_INTERVAL="0")
    command = [PERDURE, "serve", str(AGENTS / "flood.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=env) as server:
        yield server


@contextmanager
def deaf(server: Server, text: str) -> Iterator[socket.socket]:
    """A client that asks for a stream and does not read it."""
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "message/stream", "params": sending(text)})
    address = urlsplit(server.url)
    head = (
        f"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        client.settimeout(20)
        client.connect((address.hostname, address.port))
        client.sendall((head + body).encode())
        yield client


def connections(server: Server) -> int:
    """Open connections of the server."""
    found = psutil.Process(server.process.pid).net_connections(kind="tcp")
    return sum(connection.status == psutil.CONN_ESTABLISHED for connection in found)


def everything(client: socket.socket) -> Iterator[str]:
    """The lines of a chunked body as far as it came; half a line at the end is no line."""
    received = b"".join(iter(lambda: _received(client), b""))
    _, _, body = received.partition(b"\r\n\r\n")
    text = b""
    while body:
        size, _, rest = body.partition(b"\r\n")
        length = int(size, 16)
        assert length > 0, "the body came to its end"
        text, body = text + rest[:length], rest[length + 2 :]
    return iter(text.decode().split("\n")[:-1])


def _received(client: socket.socket) -> bytes:
    try:
        return client.recv(1 << 20)
    except ConnectionResetError:
        return b""


def test_a_reader_that_is_too_slow_is_cut_off_and_loses_nothing(server: Server) -> None:
    with deaf(server, str(CHUNKS)) as socket_:
        heard(server.process, "connection.slow_reader")
        task_id = server.call("tasks/list", {})["tasks"][0]["id"]
        until(lambda: at(server, task_id, "completed"))  # its reader does not hold up the task
        mine = Listener()
        list(mine.hears(everything(socket_)))
    assert mine.task_id == task_id
    assert 0 < len(mine.artifacts) < CHUNKS
    with mine.resumes(server) as texts:
        list(texts)
    assert mine.state == "completed"
    assert [text.split()[0] for text in mine.artifacts.values()] == [str(n) for n in range(CHUNKS)]
    assert {len(text) for text in mine.artifacts.values()} == {1_000_000}
    numbers = [number for number, _ in mine.frames]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))


def test_nothing_is_kept_for_a_reader_that_was_cut_off(server: Server) -> None:
    """uvicorn alone would wait for ever until it has taken what was written for it."""
    with deaf(server, str(CHUNKS)):
        heard(server.process, "connection.slow_reader")
        until(lambda: connections(server) == 0)
