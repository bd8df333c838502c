"""Clients that take their time over what they send, over raw sockets: they are cut off and hold up nobody."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest

from tests.support.processes import PERDURE, ROOT, Server, heard, sending, serving, surroundings

SECONDS = "1.5"
BODY = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "message/send", "params": sending("hello")})


@pytest.fixture
def server(tmp_path: Path, database_url: str) -> Iterator[Server]:
    """With one connection to its database: whoever held it would hold up everybody."""
    env = surroundings(
        LOG__FORMAT="json",
        SERVER__SLOW_SENDER=SECONDS,
        STORAGE_TYPE="postgres",
        DATABASE_URL=database_url,
        STORAGE__POOL_SIZE="1",
        STORAGE__POOL_TIMEOUT="1",
    )
    command = [PERDURE, "serve", str(ROOT / "examples" / "echo.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=env) as server:
        yield server


@contextmanager
def client(server: Server) -> Iterator[socket.socket]:
    address = urlsplit(server.url)
    assert address.hostname is not None
    assert address.port is not None
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        yield connection


def answer(connection: socket.socket) -> str:
    """All that comes until the server hangs up."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionResetError:
        pass
    return received.decode()


def head(length: int, path: str = "/", **headers: str) -> bytes:
    lines = [
        f"POST {path} HTTP/1.1",
        "Host: x",
        "Content-Type: application/json",
        f"Content-Length: {length}",
    ]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


@pytest.mark.parametrize("sent", ["", "POST / HT", "POST / HTTP/1.1\r\nHost: x\r\n", "\r\n\r\n"])
def test_a_head_that_does_not_come_is_408(server: Server, sent: str) -> None:
    with client(server) as slow:
        slow.sendall(sent.encode())
        assert answer(slow).startswith("HTTP/1.1 408 ")


def test_a_head_that_comes_byte_by_byte_is_408(server: Server) -> None:
    with client(server) as slow:
        slow.settimeout(0.02)
        said = b""
        for byte in head(len(BODY), **{f"X-{number}": "y" for number in range(500)}):
            try:
                slow.sendall(bytes([byte]))
                said = slow.recv(65536)
            except TimeoutError:
                continue
            break
        assert said.startswith(b"HTTP/1.1 408 ")


def test_a_second_request_on_a_connection_has_the_same_time(server: Server) -> None:
    with client(server) as slow:
        slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
        assert slow.recv(65536).startswith(b"HTTP/1.1 200 ")
        slow.sendall(b"GET /healthz HT")
        assert "HTTP/1.1 408 " in answer(slow)  # after what is left of the first answer


@pytest.mark.parametrize(("path", "code"), [("/", '"code":-32600'), ("/message:send", "DEADLINE_EXCEEDED")])
@pytest.mark.parametrize("sent", ["", BODY[:20]])
def test_a_body_that_does_not_come_is_408_in_the_words_of_its_binding(
    server: Server, path: str, code: str, sent: str
) -> None:
    with client(server) as slow:
        slow.sendall(head(len(BODY), path) + sent.encode())
        said = answer(slow)
        assert said.startswith("HTTP/1.1 408 ")
        assert code in said
        assert "connection: close" in said.lower()
    heard(server.process, "connection.slow_sender")


def test_chunks_that_never_end_are_408(server: Server) -> None:
    with client(server) as slow:
        slow.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\n{\r\n"
        )
        assert answer(slow).startswith("HTTP/1.1 408 ")


def test_a_head_without_an_end_is_431(server: Server) -> None:
    with client(server) as endless:
        try:
            endless.sendall(b"GET / HTTP/1.1\r\nX: ")
            for _ in range(200):
                endless.sendall(b"y" * 10_000)
        except (ConnectionResetError, BrokenPipeError):
            pass
        said = answer(endless)
    assert not said or said.startswith("HTTP/1.1 431 ")
    assert httpx.get(f"{server.url}/healthz").status_code == 200


def test_slow_senders_hold_no_connection_to_the_database(server: Server) -> None:
    with ExitStack() as stack:
        for _ in range(50):
            slow = stack.enter_context(client(server))
            slow.sendall(head(len(BODY)) + BODY[:-1].encode())
        task = server.send("hello")
        assert task["status"]["state"] == "completed"


def test_a_large_body_that_keeps_coming_has_its_time(server: Server) -> None:
    """More than the first second and a half, as long as enough of it has come."""
    body = BODY.ljust(1_000_000).encode()
    with client(server) as steady:
        steady.sendall(head(len(body)) + body[:500_000])
        with client(server) as slow:  # whose end says that the first time is over
            slow.sendall(head(10))
            assert answer(slow).startswith("HTTP/1.1 408 ")
        steady.sendall(body[500_000:])
        assert steady.recv(65536).startswith(b"HTTP/1.1 200 ")
