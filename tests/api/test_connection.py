"""How long a client may leave unread what it is sent, without a network; with one: tests/e2e/test_slow_readers.py."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from starlette.requests import ClientDisconnect
from starlette.responses import PlainTextResponse

from api.connection import LINK, SlowReaders
from tests.api.front import Front, message


class Deaf:
    """A client that takes nothing until its connection is cut."""

    def __init__(self) -> None:
        self._gone = asyncio.Event()

    would_wait = body_is_there = True

    def cut(self) -> None:
        self._gone.set()

    async def send(self, _: Any) -> None:
        await self._gone.wait()

    async def receive(self) -> Any:
        await self._gone.wait()
        return {"type": "http.disconnect"}


async def test_a_connection_that_takes_nothing_is_cut() -> None:
    client = Deaf()
    scope = {"type": "http", "extensions": {LINK: {"link": client}}}
    await SlowReaders(PlainTextResponse("hello"), seconds=0.01)(scope, client.receive, client.send)
    assert client._gone.is_set()


async def test_another_server_is_told_that_its_client_is_gone() -> None:
    client = Deaf()
    with pytest.raises(ClientDisconnect):
        await SlowReaders(PlainTextResponse("hello"), seconds=0.01)(
            {"type": "http"}, client.receive, client.send
        )


async def test_a_stream_that_is_cut_lets_go_of_its_task(front: Front) -> None:
    client = Deaf()
    live = front.live("SendStreamingMessage", {"message": message()})
    scope = {**live._scope, "extensions": {LINK: {"link": client}}}
    said = iter([live._received.get_nowait()])

    async def receive() -> Any:
        return next(said, None) or await client.receive()

    await SlowReaders(front.app, seconds=0.01)(scope, receive, client.send)
    assert client._gone.is_set()
    assert not front.watch._followers
