"""A TCP proxy in front of real servers, in a thread of its own: the network, with hands to cut it, hold it up, slow it down."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from threading import Thread
from typing import Any, TypeVar
from urllib.parse import urlsplit

import uvloop

T = TypeVar("T")

_CHUNK = 65536


class Line:
    """From a port of 127.0.0.1 to a server; made by `Proxy.line`. `delay` in seconds is added to whatever is sent, each way.
    What it can be told, any thread may tell it."""

    def __init__(self, do: Callable[[Coroutine[Any, Any, None]], None], host: str, port: int) -> None:
        self._do = do
        self._target = (host, port)
        self.delay = 0.0
        self.port = 0
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._flowing = asyncio.Event()  # of the connections that are made from now on
        do(self._healed(forgetting=False))

    def url(self, url: str) -> str:
        """The same address by way of this line."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Break every connection. New ones are as good as before."""
        self._do(self._cut())

    def close(self) -> None:
        """Break every connection and refuse new ones, as a server that goes down does."""
        self._do(self._closed())

    def hold(self) -> None:
        """Let nothing through and say nothing, as a firewall that drops packets does; what is under way comes later."""
        self._do(self._held())

    def heal(self, *, forgetting: bool = False) -> None:
        """As new. `forgetting` the connections there were, as a firewall does that was started again: they stay silent."""
        self._do(self._healed(forgetting=forgetting))

    async def _cut(self) -> None:
        for writer in list(self._writers):
            writer.transport.abort()

    async def _closed(self) -> None:
        if self._server:
            self._server.close()
            self._server = None
        await self._cut()

    async def _held(self) -> None:
        self._open.clear()
        self._flowing.clear()

    async def _healed(self, *, forgetting: bool) -> None:
        if forgetting:
            self._flowing = asyncio.Event()
        self.delay = 0.0
        self._flowing.set()
        self._open.set()
        if self._server is None:
            self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self.port)
            self.port = self._server.sockets[0].getsockname()[1]

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            await self._open.wait()
            await self._joined(reader, writer, self._flowing)
        except asyncio.CancelledError:  # the proxy stops: asyncio would tell of it as of an error
            pass
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _joined(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        try:
            there, back = await asyncio.open_connection(*self._target)
        except OSError:
            return
        self._writers.add(back)
        try:
            pumps = [
                asyncio.ensure_future(self._pump(reader, back, flowing)),
                asyncio.ensure_future(self._pump(there, writer, flowing)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        finally:
            self._writers.discard(back)
            back.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flowing: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await flowing.wait()
                writer.write(data)
                await writer.drain()
        await flowing.wait()  # an end is not seen either


class Proxy:
    """The lines, and the thread in which they run."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = Thread(target=self._run, name="proxy", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._runner:
            self._loop.run_forever()

    def line(self, port: int, host: str = "127.0.0.1") -> Line:
        """A new one to this server."""
        self._lines.append(line := Line(self._do, host, port))
        return line

    def heal(self) -> None:
        """All as new."""
        for line in self._lines:
            line.heal()

    def stop(self) -> None:
        """Break everything and end the thread."""
        for line in self._lines:
            line.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)


@contextmanager
def proxied(url: str) -> Iterator[Line]:
    """A line to the server at `url`."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy()
    try:
        yield proxy.line(parts.port, parts.hostname)
    finally:
        proxy.stop()
