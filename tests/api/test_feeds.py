"""Streams of one task share what is read of it, and each hears everything once and in order, whichever way it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

import pytest

from api.auth import ANYBODY
from api.connection import LINK
from api.feeds import Batch, Feeds
from api.stream import KEEP_ALIVE
from perdure.ids import new_task_id
from perdure.queue.inline import InlineQueue
from perdure.storage import ClaimedTurn
from perdure.storage.memory import MemoryStorage
from perdure.tasks import TaskState
from perdure.telling import Update
from perdure.watch import Watch
from tests.api.front import Front, at_once, chunk, opened_front
from tests.api.test_replies import replies
from tests.support.stories import ME, submit


class Stream:
    """A subscription. `takes` decides what is said at once; `heard` has all that was said, `woken` what was not taken."""

    def __init__(self, takes: Callable[[int], bool] = lambda _: True) -> None:
        self._takes = takes
        self._news: asyncio.Queue[int] = asyncio.Queue()
        self.goes_on = asyncio.Event()
        self.goes_on.set()
        self.stands = asyncio.Event()
        self.heard: list[int] = []
        self.woken: list[int] = []

    def take(self, update: Update) -> bool:
        if taken := self._takes(update.seq):
            self._hear(update.seq)
        return taken

    async def runs(self, front: Front, task_id: str) -> None:
        async for item in front.manager.subscribe(ANYBODY, task_id, take=self.take):
            self.stands.set()
            if isinstance(item, Update):
                self.woken.append(item.seq)
                self._hear(item.seq)
            await self.goes_on.wait()

    async def hears(self, number: int) -> None:
        while await self._news.get() != number:
            pass

    def _hear(self, number: int) -> None:
        self.heard.append(number)
        self._news.put_nowait(number)


@asynccontextmanager
async def open_streams(front: Front, *streams: Stream) -> AsyncIterator[ClaimedTurn]:
    """All of one task, whose turn has begun; inside they all wait. At the end all have ended."""
    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    async with asyncio.TaskGroup() as group:
        for stream in streams:
            group.create_task(stream.runs(front, task_id))
        for stream in streams:
            await stream.stands.wait()
        turn = await front.takes()
        for stream in streams:
            await stream.hears(2)
        yield turn


def counted(front: Front, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by every read of a log: after which number."""
    read, reads = front.storage.events_since, []

    async def counting(owner: str, task_id: UUID, after: int, limit: int = 1000) -> Sequence[Any]:
        reads.append(after)
        return await read(owner, task_id, after, limit)

    monkeypatch.setattr(front.storage, "events_since", counting)
    return reads


async def test_what_happens_is_read_once_and_wakes_nobody(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads, streams = counted(front, monkeypatch), [Stream() for _ in range(5)]
    async with open_streams(front, *streams) as turn:
        for number in range(1, 4):
            await front.writes(turn, number, chunk(f"{number} "))
            for stream in streams:
                await stream.hears(number + 2)
        await front.ends(turn, number=4, state=TaskState.COMPLETED)
    assert reads == [1, 2, 3, 4, 5]
    assert [stream.heard for stream in streams] == [[2, 3, 4, 5, 6]] * 5
    assert [stream.woken for stream in streams] == [[]] * 5


async def test_whatever_is_taken_each_hears_everything_once_and_in_order(front: Front) -> None:
    streams = [
        Stream(),
        Stream(lambda _: False),
        Stream(lambda number: number % 2 == 0),
        Stream(lambda number: number % 3 != 0),
    ]
    async with open_streams(front, *streams) as turn:
        last = 2
        for number in range(1, 10):  # several at once as well, so that a batch is taken in part
            await front.writes(turn, number, *[chunk(f"{number} ")] * number)
            last += number
            for stream in streams:
                await stream.hears(last)
        await front.ends(turn, number=10, state=TaskState.COMPLETED)
    assert [stream.heard for stream in streams] == [list(range(2, 49))] * 4
    assert streams[1].woken == streams[1].heard


async def test_who_is_slow_holds_up_nobody_and_reads_for_itself_later(front: Front) -> None:
    quick, slow = Stream(), Stream(lambda number: number != 3)
    async with open_streams(front, quick, slow) as turn:
        slow.goes_on.clear()
        for number in range(1, 6):
            await front.writes(turn, number, chunk(f"{number} "))
            await quick.hears(number + 2)
        assert slow.heard == [2, 3]
        slow.goes_on.set()
        await slow.hears(7)
        await front.ends(turn, number=6, state=TaskState.COMPLETED)
    assert slow.heard == quick.heard == list(range(2, 9))
    assert slow.woken[:5] == [3, 4, 5, 6, 7]


async def test_a_defect_is_told_by_every_stream(front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    task_id = (await front.call("SendMessage", at_once()))["task"]["id"]
    streams = [Stream() for _ in range(3)]
    running = [asyncio.create_task(stream.runs(front, task_id)) for stream in streams]
    for stream in streams:
        await stream.stands.wait()
    monkeypatch.setattr(front.storage, "events_since", broken)
    await front.takes()
    ends = await asyncio.gather(*running, return_exceptions=True)
    assert [str(end) for end in ends] == ["broken"] * 3


async def test_a_batch_is_for_those_who_stand_where_it_begins() -> None:
    """One that stands inside of an event which was folded meanwhile would hear a part of it again."""
    storage, task_id = MemoryStorage(), new_task_id()
    feeds = Feeds(storage, Watch(storage, InlineQueue(), refresh=60))
    await submit(storage, task_id=task_id)
    task = await storage.load_task(ME, task_id)
    taken: list[Update] = []

    def take(update: Update) -> bool:
        taken.append(update)
        return True

    with feeds.joined(task_id) as follower:
        updates = follower.updates(task, task.last_seq, ends=lambda _: True, take=take)
        waiting = asyncio.ensure_future(anext(updates))
        await asyncio.sleep(0)
        await storage.cancel_task(ME, task_id)
        [canceled] = (await follower._feed.read(task, task.last_seq)).updates
        follower.hand(Batch(task.last_seq - 1, canceled.seq, [canceled]))
        assert not taken
        await feeds._watch.refresh()
        assert (taken or [await waiting])[0].seq == canceled.seq


async def test_a_task_that_a_refresh_looked_for_before_it_was_stored_is_not_gone() -> None:
    storage, task_id = MemoryStorage(), new_task_id()
    watch = Watch(storage, InlineQueue(), refresh=60)
    with Feeds(storage, watch).joined(task_id) as follower:
        await watch.refresh()
        await submit(storage, task_id=task_id)
        task = await storage.load_task(ME, task_id)
        updates = follower.updates(task, task.last_seq, ends=lambda _: True)
        waiting = asyncio.ensure_future(anext(updates))
        await asyncio.sleep(0)
        await storage.cancel_task(ME, task_id)
        await watch.refresh()
        assert (await waiting).seq == task.last_seq + 1


class Line:
    """The connection of a request, as a stream sees it."""

    would_wait, body_is_there = False, True

    def __init__(self) -> None:
        self.open = True
        self.written: asyncio.Queue[bytes] = asyncio.Queue()

    def take(self, body: bytes) -> bool:
        if self.open:
            self.written.put_nowait(body)
        return self.open


async def test_updates_are_written_past_the_application_where_that_is_possible(front: Front) -> None:
    live = front.live("SendStreamingMessage", {"message": at_once()["message"]}, A2A_Version="1.0")
    line = Line()
    live._scope["extensions"] = {LINK: {"link": line}}
    async with live:
        await live.result()
        turn = await front.takes()
        frame = await line.written.get()
        assert frame.startswith(b'id: 2\ndata: {"jsonrpc":"2.0","id":7,"result":{"statusUpdate":')
        assert frame.endswith(b"}}\n\n")
        line.open = False  # its client does not keep up
        await front.writes(turn, 1, chunk("one"))
        number, said = await live.result()
        assert (number, list(said)) == (3, ["artifactUpdate"])
        line.open = True
        await front.ends(turn, number=2, state=TaskState.COMPLETED)
        assert await live.frame() is None
        assert b"TASK_STATE_COMPLETED" in await line.written.get()


async def test_keep_alives_are_written_past_the_application_as_well() -> None:
    async with opened_front(keep_alive=0.01) as front:
        live, line = front.live("SendStreamingMessage", {"message": at_once()["message"]}), Line()
        live._scope["extensions"] = {LINK: {"link": line}}
        async with live:
            await live.result()
            assert [await line.written.get() for _ in range(3)] == [KEEP_ALIVE] * 3
            line.open = False
            assert [await live.block() for _ in range(3)] == [": keep-alive"] * 3
            line.open = True
            assert [await line.written.get() for _ in range(3)] == [KEEP_ALIVE] * 3


async def test_what_is_held_back_is_not_written_past_that() -> None:
    """An agent that may reply with a message alone: nothing is said before it is known what it does."""
    async with opened_front({"direct_replies": True}) as front:
        live = front.live("SendStreamingMessage", {"message": at_once()["message"]}, A2A_Version="1.0")
        line = Line()
        live._scope["extensions"] = {LINK: {"link": line}}
        async with live:
            turn = await front.takes_next()
            await front.ends(turn, **replies(turn))
            [only] = await live.rest()
        assert list(only.data["result"]) == ["message"]
        assert line.written.empty()
