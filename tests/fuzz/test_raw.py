"""Bytes that are hardly HTTP: each is answered or hung up on, soon, and the server is as well afterwards as it was before."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.fuzz.requests import spoilt
from tests.support.processes import PERDURE, ROOT, Server, serving, surroundings

BODY = b'{"jsonrpc":"2.0","id":1,"method":"ListTasks"}'
REQUESTS = [
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 44\r\n\r\n" + BODY,
    b"POST / HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2c\r\n"
    + BODY + b"\r\n0\r\n\r\n",
    b"GET /tasks?pageSize=1 HTTP/1.1\r\nHost: x\r\nA2A-Version: 1.0\r\n\r\n",
    b"GET /tasks/%ff%00 HTTP/1.0\r\n\r\n",
    b"GET http://x/healthz HTTP/1.1\r\nHost: y\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n",
    b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
]  # fmt: skip
few = settings(
    max_examples=60,
    deadline=None,
    database=None,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """One request or two, as they are or changed."""
    said = b"".join(draw(st.lists(st.sampled_from(REQUESTS), min_size=1, max_size=2)))
    for _ in range(draw(st.integers(0, 3))):
        said = spoilt(draw, said)
    return said


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    env = surroundings(LOG__FORMAT="json", SERVER__SLOW_SENDER="1")
    command = [PERDURE, "serve", str(ROOT / "examples" / "echo.py"), "--port", "0"]
    with serving(command, cwd=tmp_path, env=env) as server:
        yield server


def test_what_is_hardly_http_is_answered_or_hung_up_on(server: Server) -> None:
    said: list[str] = []
    assert server.process.stdout is not None
    Thread(target=said.extend, args=(server.process.stdout,), daemon=True).start()
    address = urlsplit(server.url)

    @few
    @given(requests(), st.booleans())
    def ask(request: bytes, hang_up: bool) -> None:
        with socket.create_connection((address.hostname, address.port), timeout=8) as client:
            client.sendall(request)
            if hang_up:
                client.shutdown(socket.SHUT_WR)
            answer = _first(client)
        assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer
        assert not answer.startswith(b"HTTP/1.1 5"), (request, answer)

    ask()
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    assert not [line for line in said if "Traceback" in line or '"level":"error"' in line]


def _first(client: socket.socket) -> bytes:
    try:
        return client.recv(65536)
    except ConnectionResetError:
        return b""
