"""The receiver of the tests: it leaves no connection open, whenever it stops."""

from __future__ import annotations

import asyncio
import gc
import socket
import warnings

import pytest

from tests.support.receiver import receiving


@pytest.mark.parametrize("steps", range(6))
async def test_what_it_accepts_while_it_stops_is_closed(steps: int) -> None:
    with warnings.catch_warnings(record=True) as unclosed:
        warnings.simplefilter("always", ResourceWarning)
        async with receiving() as receiver:
            with socket.create_connection(("127.0.0.1", receiver.port), timeout=5) as client:
                for _ in range(steps):
                    await asyncio.sleep(0)
                await receiver.stop()
                assert await asyncio.to_thread(_hung_up, client)
        gc.collect()
    assert [str(each.message) for each in unclosed if each.category is ResourceWarning] == []


def _hung_up(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True
