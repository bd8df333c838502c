"""What is on the wire for an answer that is written straight to its connection (`Link.answer`), over raw sockets."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.support.processes import PERDURE, ROOT, Server, sending, serving, surroundings

from .conftest import AGENTS, until


@contextmanager
def served(folder: Path, level: str) -> Iterator[Server]:
    env = surroundings(LOG__FORMAT="json", LOG__LEVEL=level)
    command = [PERDURE, "serve", str(ROOT / "examples" / "echo.py"), "--port", "0"]
    with serving(command, cwd=folder, env=env) as server:
        yield server


@pytest.fixture(params=["info", "debug"])
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    """One whose answers go straight, and one that logs them, and so sends them as messages."""
    with served(tmp_path, request.param) as server:
        yield server


def request_for(number: int, *headers: str, text: str = "hello") -> bytes:
    body = json.dumps({"jsonrpc": "2.0", "id": number, "method": "message/send", "params": sending(text)})
    lines = ["POST / HTTP/1.1", "Host: x", "Content-Type: application/json", *headers]
    return "\r\n".join([*lines, f"Content-Length: {len(body)}", "", body]).encode()


@contextmanager
def client(server: Server) -> Iterator[Any]:
    """The connection as a file that can be read by lines, and written."""
    address = urlsplit(server.url)
    with (
        socket.create_connection((address.hostname, address.port), timeout=20) as connection,
        connection.makefile("rwb", buffering=0) as both,
    ):
        yield both


def answer(connection: Any) -> tuple[str, dict[str, str], Any]:
    """The next one: its status line, its headers, its body."""
    status = connection.readline().decode().strip()
    headers = {}
    while line := connection.readline().decode().strip():
        name, _, value = line.partition(": ")
        headers[name] = value
    wanted, body = int(headers["content-length"]), b""
    while len(body) < wanted:
        body += connection.read(wanted - len(body))
    return status, headers, json.loads(body)


def test_an_answer_looks_the_same_whichever_way_it_goes(server: Server) -> None:
    with client(server) as connection:
        for number in (1, 2):  # the connection is kept
            connection.write(request_for(number))
            status, headers, body = answer(connection)
            assert status == "HTTP/1.1 200 OK"
            assert headers.keys() == {"date", "content-type", "content-length"}
            assert headers["content-type"] == "application/json"
            assert body["id"] == number
            assert body["result"]["status"]["state"] == "completed"


def test_requests_that_follow_at_once_are_answered_in_their_order(server: Server) -> None:
    with client(server) as connection:
        connection.write(b"".join(map(request_for, range(1, 6))))
        assert [answer(connection)[2]["id"] for _ in range(5)] == [1, 2, 3, 4, 5]


def test_a_connection_is_closed_for_who_asks_for_it(server: Server) -> None:
    with client(server) as connection:
        connection.write(request_for(1, "Connection: close"))
        _, headers, body = answer(connection)
        assert headers["connection"] == "close"
        assert body["id"] == 1
        assert connection.read(1) == b""


def test_what_is_said_beside_an_answer_is_there(server: Server) -> None:
    request = request_for(1, "Idempotency-Key: once")
    with client(server) as connection:
        for replayed in (None, "true"):
            connection.write(request)
            assert answer(connection)[1].get("idempotency-replayed") == replayed


def test_a_client_that_leaves_gives_its_place_back(tmp_path: Path) -> None:
    """There is one place for sends that wait, and these wait for a file that never comes."""
    env = surroundings(LOG__FORMAT="json", SERVER__MAX_BLOCKING="1")
    command = [PERDURE, "serve", str(AGENTS / "gated.py"), "--port", "0"]
    request = request_for(1, text=str(tmp_path / "gate"))
    with serving(command, cwd=tmp_path, env=env) as server:

        def waits(number: int) -> bool:
            with client(server) as connection:
                connection.write(request)
                while len(server.call("tasks/list", {})["tasks"]) < number:
                    if select.select([connection], [], [], 0.05)[0]:
                        return False  # refused
                return True

        assert waits(1)
        until(lambda: waits(2))


def test_who_logs_requests_finds_them(tmp_path: Path) -> None:
    with served(tmp_path, "debug") as server, client(server) as connection:
        connection.write(request_for(1))
        answer(connection)
        assert server.process.stdout is not None
        assert any("POST / HTTP/1.1" in line for line in server.process.stdout)
