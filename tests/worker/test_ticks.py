"""When what a handler streams is written: alone at once, else at moments that all turns share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from perdure.tasks import ArtifactChunk
from perdure.testing import Harness, Result

STEP = 0.25


async def letters(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
    """Three at a second's distance, then one every quarter of a second."""
    pauses = [1.0, 1.0, *[STEP] * 8]
    for letter, pause in zip("abcdefghij", pauses, strict=True):
        yield letter
        await asyncio.sleep(pause)


def written(harness: Harness, task: Result) -> list[str]:
    chunks = (event for event in harness.look(task).events if isinstance(event, ArtifactChunk))
    return [chunk.artifact.text for chunk in chunks]


def moments(harness: Harness, task: Result, steps: int) -> dict[int, list[str]]:
    """What was written in which step, of so many."""
    found, before = {}, written(harness, task)
    for step in range(1, steps + 1):
        harness.advance(STEP)
        now = written(harness, task)
        if now != before:
            found[step], before = now[len(before) :], now
    return found


def test_a_piece_after_a_silence_is_written_at_once_and_a_run_of_them_at_each_tick() -> None:
    with Harness(letters, turns={"chunk_interval": 0.5}) as harness:
        harness.advance(0.125)
        task = harness.start("hello")
        assert written(harness, task) == ["a"]
        # The steps end at 0.375, 0.625 ... on the clock, the ticks are at 0.5, 1.0 ...
        assert moments(harness, task, 15) == {
            4: ["b"],
            8: ["c"],
            10: ["d"],  # it followed "c", and waited for the tick at 2.5
            12: ["ef"],
            14: ["gh"],
        }


def test_all_turns_write_at_the_same_ticks() -> None:
    async def stream(messages: list[dict[str, Any]]) -> AsyncIterator[str]:
        for letter in "abcdefghij":
            yield letter
            await asyncio.sleep(STEP)

    with Harness(stream, turns={"chunk_interval": 0.5}) as harness:
        tasks = []
        for _ in range(4):
            tasks.append(harness.start("hello"))
            harness.advance(STEP / 4)
        before = [written(harness, task) for task in tasks]
        assert before == [["a"]] * 4
        moved: list[int] = []
        for _ in range(16):
            harness.advance(STEP / 4)
            now = [written(harness, task) for task in tasks]
            moved.append(sum(one != other for one, other in zip(now, before, strict=True)))
            before = now
        assert moved == [0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 0]
