"""A TCP proxy whose lines can be cut, closed, slowed down and held up, like toxiproxy, in a thread of its own.

Every process has its own lines to Postgres and Redis, so that one of them can be cut off while the others are not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from threading import Thread
from typing import Any, TypeVar

import uvloop

T = TypeVar("T")

_CHUNK = 65536


class Line:
    """From a port of 127.0.0.1 to another. `delay` in seconds is added to whatever is sent, each way."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay = 0.0
        self.closed = False
        self._open = asyncio.Event()
        self._open.set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server
        self.port = 0

    async def listen(self) -> None:
        """Accept from now on, at `port`."""
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def cut(self) -> None:
        """Break every connection."""
        for writer in list(self._writers):
            writer.transport.abort()

    def close(self) -> None:
        """Break every connection, and new ones as soon as they are made."""
        self.closed = True
        self.cut()

    def hold(self) -> None:
        """Let nothing through; nobody is told. What is sent meanwhile comes later."""
        self._open.clear()

    def end(self) -> None:
        """Break every connection and take no more."""
        self._server.close()
        self.cut()

    def heal(self) -> None:
        """As new."""
        self.closed, self.delay = False, 0.0
        self._open.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            if not self.closed:
                await self._joined(reader, writer)
        finally:
            self._writers.discard(writer)
            writer.transport.abort()

    async def _joined(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            return
        self._writers.add(back)
        try:
            pumps = [
                asyncio.ensure_future(self._pump(reader, back)),
                asyncio.ensure_future(self._pump(there, writer)),
            ]
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            for pump in pumps:
                pump.cancel()
        finally:
            self._writers.discard(back)
            back.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._open.wait()
                writer.write(data)
                await writer.drain()


class Proxy:
    """The lines, and the thread in which they run."""

    def __init__(self) -> None:
        self._lines: list[Line] = []
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._loop = self._runner.get_loop()
        self._thread = Thread(target=self._run, name="chaos-proxy", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with self._runner:
            self._loop.run_forever()

    def line(self, target: int) -> Line:
        """A new one to this port."""

        async def make() -> Line:
            line = Line(target)
            await line.listen()
            return line

        self._lines.append(line := self._do(make()))
        return line

    def act(self, verb: str, lines: list[Line]) -> None:
        """`cut`, `close`, `hold`, `heal` or `end` them."""

        async def all_of_them() -> None:
            for line in lines:
                getattr(line, verb)()

        self._do(all_of_them())

    def heal(self) -> None:
        """All as new."""
        self.act("heal", self._lines)

    def stop(self) -> None:
        """Break everything and end the thread."""
        self.act("end", self._lines)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)

    def _do(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)
