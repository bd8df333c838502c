"""What goes together, and who suffers for whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import asyncpg
import pytest

from perdure.errors import StorageUnavailable
from perdure.storage.postgres.lanes import MOST, SLOW, Lane


class Line:
    """Answers each item with itself; keeps what was sent together. The first batch waits for `go`."""

    def __init__(self, refuse: Callable[[Sequence[Any]], Exception | None] = lambda _: None) -> None:
        self.batches: list[Sequence[Any]] = []
        self.begun, self.go = asyncio.Event(), asyncio.Event()
        self._refuse = refuse

    async def send(self, items: Sequence[Any]) -> Sequence[Any]:
        self.batches.append(items)
        self.begun.set()
        await self.go.wait()
        if error := self._refuse(items):
            raise error
        return items


async def asked(lane: Lane[Any, Any], line: Line, items: Sequence[Any]) -> list[asyncio.Task[Any]]:
    """All of them ask while the first one's batch is under way."""
    first, *others = items
    tasks = [asyncio.create_task(lane.ask(first))]
    await line.begun.wait()
    tasks += [asyncio.create_task(lane.ask(item)) for item in others]
    await asyncio.sleep(0)
    return tasks


async def test_what_comes_while_one_is_under_way_goes_together() -> None:
    line = Line()
    tasks = await asked(Lane(line.send), line, [1, 2, 3, 4])
    line.go.set()
    assert await asyncio.gather(*tasks) == [1, 2, 3, 4]
    assert line.batches == [[1], [2, 3, 4]]


async def test_those_who_ask_at_the_same_moment_go_together_at_once() -> None:
    line = Line()
    line.go.set()
    lane: Lane[int, int] = Lane(line.send)
    assert await asyncio.gather(*(lane.ask(number) for number in range(5))) == [0, 1, 2, 3, 4]
    assert line.batches == [[0, 1, 2, 3, 4]]


async def test_a_batch_has_an_end() -> None:
    line = Line()
    tasks = await asked(Lane(line.send), line, range(MOST + 3))
    line.go.set()
    await asyncio.gather(*tasks)
    assert [len(batch) for batch in line.batches] == [1, MOST, 2]


async def test_items_of_one_key_are_kept_apart_and_in_order() -> None:
    line = Line()
    lane: Lane[str, str] = Lane(line.send, apart=lambda item: item[0])
    tasks = await asked(lane, line, ["a1", "a2", "b1", "a3", "b2"])
    line.go.set()
    await asyncio.gather(*tasks)
    assert line.batches == [["a1"], ["a2", "b1"], ["a3", "b2"]]


async def test_what_is_asked_for_twice_is_read_once() -> None:
    line = Line()
    lane: Lane[str, str] = Lane(line.send, shared=True)
    tasks = await asked(lane, line, ["a", "a", "b", "a"])
    tasks[1].cancel()  # the others still get theirs
    line.go.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [result for result in results if isinstance(result, str)] == ["a", "b", "a"]
    assert line.batches == [["a"], ["a", "b"]]  # the first one was under way: what it reads may be older


async def test_whoever_is_cancelled_before_it_was_sent_has_not_asked() -> None:
    line = Line()
    tasks = await asked(Lane(line.send), line, [1, 2, 3])
    tasks[1].cancel()
    await asyncio.sleep(0)
    line.go.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert line.batches == [[1], [3]]


@pytest.mark.parametrize("error", [ValueError("bad"), asyncpg.CheckViolationError("bad")])
async def test_nobody_fails_for_his_neighbour(error: Exception) -> None:
    line = Line(lambda items: error if "bad" in items else None)
    tasks = await asked(Lane(line.send), line, ["a", "b", "bad", "c"])
    line.go.set()
    a, b, bad, c = await asyncio.gather(*tasks, return_exceptions=True)
    assert (a, b, c) == ("a", "b", "c")
    assert type(bad) is type(error)


def unavailable(cause: Exception) -> StorageUnavailable:
    error = StorageUnavailable("no answer")
    error.__cause__ = cause
    return error


async def test_nobody_waits_for_his_neighbours_lock() -> None:
    locked = unavailable(asyncpg.LockNotAvailableError("locked"))
    line = Line(lambda items: locked if "locked" in items else None)
    tasks = await asked(Lane(line.send), line, ["a", "locked", "b"])
    line.go.set()
    a, refused, b = await asyncio.gather(*tasks, return_exceptions=True)
    assert (a, b) == ("a", "b")
    assert isinstance(refused, StorageUnavailable)


async def test_a_database_that_is_away_is_not_asked_for_each_of_them() -> None:
    gone = unavailable(ConnectionRefusedError())
    line = Line(lambda items: gone)
    tasks = await asked(Lane(line.send), line, [1, 2, 3])
    line.go.set()
    errors = await asyncio.gather(*tasks, return_exceptions=True)
    assert line.batches == [[1], [2, 3]]
    assert all(isinstance(error, StorageUnavailable) for error in errors)
    assert len({id(error) for error in errors}) == 3  # each raises his own


async def test_after_a_failure_the_lane_goes_on() -> None:
    line = Line(lambda items: ValueError("bad") if items == ["bad"] else None)
    line.go.set()
    lane: Lane[str, str] = Lane(line.send)
    with pytest.raises(ValueError, match="bad"):
        await lane.ask("bad")
    assert await lane.ask("good") == "good"


async def test_whoever_waits_behind_a_slow_batch_goes_ahead() -> None:
    go = asyncio.Event()
    batches: list[Sequence[str]] = []

    async def send(items: Sequence[str]) -> Sequence[str]:
        batches.append(items)
        if "slow" in items:
            await go.wait()
        return items

    lane: Lane[str, str] = Lane(send)
    slow = asyncio.create_task(lane.ask("slow"))
    await asyncio.sleep(0)
    a, b = await asyncio.gather(lane.ask("a"), lane.ask("b"))
    assert (a, b) == ("a", "b")
    assert await lane.ask("c") == "c"
    assert batches == [["slow"], ["a", "b"], ["c"]]
    go.set()
    assert await slow == "slow"


async def test_whoever_asks_when_the_last_one_has_his_answer_waits_for_nothing() -> None:
    """Also in the very step in which the lane finds that nothing waits any more."""
    line = Line()
    line.go.set()
    lane: Lane[int, int] = Lane(line.send)
    async with asyncio.timeout(SLOW / 2):

        async def one_after_the_other(first: int) -> None:
            for number in range(first, first + 20):
                assert await lane.ask(number) == number

        await asyncio.gather(*(one_after_the_other(first) for first in range(0, 100, 20)))
