"""A client that costs as little as possible: one kept connection, one request at a time, nothing parsed but the answer's length.

The same for all servers. (httpx and aiohttp take more of a core than the servers do, and show seconds of their own at p99.)
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import httptools
import orjson


class Client(asyncio.Protocol):
    """Made by `connected`."""

    def __init__(self, host: str, path: str, headers: dict[str, str]) -> None:
        more = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n{more}content-length: "
        self._transport: Any = None
        self._parser: Any = None
        self._body = bytearray()
        self._answer: asyncio.Future[bytes] | None = None

    async def call(self, body: dict[str, Any]) -> dict[str, Any]:
        """POST and parse what comes back, whatever its status. ConnectionError when the server hangs up."""
        if self._transport is None or self._transport.is_closing():
            raise ConnectionError("the server has hung up")
        data = orjson.dumps(body)
        self._answer = asyncio.get_running_loop().create_future()
        self._parser, self._body = httptools.HttpResponseParser(self), bytearray()
        self._transport.write(f"{self._head}{len(data)}\r\n\r\n".encode() + data)
        answer: dict[str, Any] = orjson.loads(await self._answer)
        return answer

    def close(self) -> None:
        """Hang up."""
        if self._transport is not None:
            self._transport.close()

    # called by asyncio and by httptools

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionError(f"the server has hung up: {exc}"))

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(bytes(self._body))


async def connected(url: str, headers: dict[str, str], number: int) -> list[Client]:
    """So many connections to the server."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    made = []
    for _ in range(number):
        _, client = await loop.create_connection(
            lambda: Client(parts.netloc, parts.path or "/", headers), parts.hostname or "", parts.port or 80
        )
        made.append(client)
    return made


async def hung_up(clients: list[Client]) -> None:
    """Close all of them."""
    for client in clients:
        client.close()
    with suppress(TimeoutError):
        await asyncio.sleep(0)
