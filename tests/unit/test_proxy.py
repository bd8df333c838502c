"""The proxy's faults are real ones: what it cuts is cut, what it holds comes later."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.support.proxy import Line, Proxy


@pytest.fixture
async def echo() -> AsyncIterator[int]:
    """The port of a server that sends back what it is sent."""

    async def repeat(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100):
            writer.write(data)
        writer.close()

    server = await asyncio.start_server(repeat, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    proxy = Proxy()
    yield proxy
    proxy.stop()


async def said(line: Line) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """A connection over which something was sent and came back."""
    reader, writer = await asyncio.open_connection("127.0.0.1", line.port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    return reader, writer


async def ends(reader: asyncio.StreamReader) -> bool:
    try:
        return await reader.read(1) == b""
    except ConnectionError:
        return True


async def test_what_is_cut_can_be_made_again(echo: int, proxy: Proxy) -> None:
    line = proxy.line(echo)
    reader, writer = await said(line)
    line.cut()
    assert await ends(reader)
    writer.close()
    _, writer = await said(line)
    writer.close()


async def test_a_closed_line_takes_nobody_until_it_is_healed(echo: int, proxy: Proxy) -> None:
    line = proxy.line(echo)
    line.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", line.port)
    proxy.heal()
    _, writer = await said(line)
    writer.close()


async def test_what_is_held_comes_later(echo: int, proxy: Proxy) -> None:
    line = proxy.line(echo)
    reader, writer = await said(line)
    line.hold()
    writer.write(b"later")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.readexactly(5)
    proxy.heal()
    assert await reader.readexactly(5) == b"later"
    writer.close()


async def test_what_was_held_stays_silent_where_it_is_forgotten(echo: int, proxy: Proxy) -> None:
    line = proxy.line(echo)
    reader, writer = await said(line)
    line.hold()
    line.heal(forgetting=True)
    _, other = await said(line)
    writer.write(b"never")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.1):
            await reader.readexactly(5)
    writer.close()
    other.close()


async def test_a_delay_is_added_each_way(echo: int, proxy: Proxy) -> None:
    line = proxy.line(echo)
    line.delay = 0.05
    begun = time.monotonic()
    _, writer = await said(line)
    assert time.monotonic() - begun >= 0.1
    writer.close()
