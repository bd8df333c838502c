"""A receiver of webhooks: a real HTTP server in this process, that behaves as the test says."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True, slots=True)
class Heard:
    """One request."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)

    @property
    def state(self) -> str:
        """The state that it tells of; `artifact` for an artifact."""
        if "artifactUpdate" in self.json:
            return "artifact"
        status = self.json["statusUpdate"]["status"] if "statusUpdate" in self.json else self.json["status"]
        state: str = status["state"]
        return state.removeprefix("TASK_STATE_").lower()


Reply = Callable[[Heard, asyncio.StreamWriter], Awaitable[None]]


def status(code: int, text: str = "", **headers: str) -> Reply:
    """Answer with this status."""

    async def reply(_: Heard, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {code} x", f"Content-Length: {len(text)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        writer.write("\r\n".join([*lines, "", text]).encode())
        await writer.drain()

    return reply


async def hang_up(_: Heard, writer: asyncio.StreamWriter) -> None:
    """Close without an answer."""
    writer.close()


async def break_off(_: Heard, writer: asyncio.StreamWriter) -> None:
    """Begin an answer, and close in the middle of its head."""
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Le")
    await writer.drain()
    writer.close()


@dataclass
class Receiver:
    """Hears one request after another, each connection on its own. `script` is what it answers first, then `reply`."""

    reply: Reply = field(default_factory=lambda: status(200))
    script: list[Reply] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    open: int = 0
    """Requests that are being answered."""
    most: int = 0
    port: int = 0
    scheme: str = "http"
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)
    _server: asyncio.Server | None = None
    _serving: set[asyncio.Task[None]] = field(default_factory=set)
    _tls: ssl.SSLContext | None = None

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/hook"

    async def start(self) -> None:
        """Listen, on the port of before if it was stopped."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Go away: connections are refused, those that stand end."""
        if self._server is not None:
            # asyncio of Python 3.11 leaves a connection open whose acceptance is under way while its server closes: so first it
            # accepts no more, then it has the steps that it takes from there to `_accepted`.
            for listening in self._server.sockets:
                asyncio.get_running_loop().remove_reader(listening.fileno())
            for _ in range(3):
                await asyncio.sleep(0)
            self._server.close()
            self._server = None
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)

    async def hears(self, number: int) -> list[Heard]:
        """Wait until it has heard so many."""
        return await self.until(lambda: len(self.heard) >= number)

    async def until(self, true: Callable[[], bool]) -> list[Heard]:
        """Wait until it is true; looked at after each request."""
        async with self._news:
            await self._news.wait_for(true)
        return self.heard

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # Kept from the first step on: a task that asyncio makes could be stopped before it has said that it is there.
        task = asyncio.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        task.add_done_callback(lambda _: writer.close())

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            heard = await _read(reader)
            self.open += 1
            self.most = max(self.most, self.open)
            async with self._news:
                self.heard.append(heard)
                self._news.notify_all()
            try:
                await (self.script.pop(0) if self.script else self.reply)(heard, writer)
            finally:
                self.open -= 1


async def _read(reader: asyncio.StreamReader) -> Heard:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    request, *lines = head.strip().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Heard(request.split(" ")[1], headers, body)


@asynccontextmanager
async def receiving(*script: Reply, tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A receiver that listens."""
    receiver = Receiver(script=list(script), scheme="https" if tls else "http", _tls=tls)
    await receiver.start()
    try:
        yield receiver
    finally:
        await receiver.stop()
