"""A turn that gives more than it may: its task fails with a sentence for the caller, at once and once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest

from perdure.agent import Turn
from perdure.errors import InputRequired
from perdure.settings import Settings
from perdure.tasks import Artifact, DataPart, Message, RawPart, Task, TaskState, TextPart
from tests.worker.conftest import SETTINGS, Shop
from worker.lease import Reins
from worker.turn import run_turn

LIMITS = {"max_artifact_bytes": 2000, "max_output_bytes": 5000, "max_artifacts": 4}
LIMITED: Settings = SETTINGS.model_copy(update={"turns": SETTINGS.turns.model_copy(update=LIMITS)})
MUCH = "x" * 2001


async def run(shop: Shop, handler: Callable[..., Any], **config: Any) -> Task:
    task_id = await shop.submit()
    assert await run_turn(shop.worker(handler, settings=LIMITED, **config), Reins())
    return await shop.load(task_id)


def gives(value: Any) -> Callable[..., Any]:
    return lambda messages: value


def grows(messages: Any) -> Iterator[str]:
    for _ in range(21):
        yield "x" * 100


async def keeps_on(messages: Any) -> AsyncIterator[Artifact]:
    for _ in range(3):
        yield Artifact(parts=(TextPart("x" * 1900),))


async def many(messages: Any) -> AsyncIterator[Artifact]:
    for _ in range(5):
        yield Artifact(parts=(TextPart("x"),))


async def deaf(messages: Any, turn: Turn) -> str:
    """Catches what it is told and goes on."""
    for text in (MUCH, "small"):
        try:
            turn.emit(text)
        except Exception:
            turn.progress(0.5, "never mind")
    return "all went well"


async def silent(messages: Any, turn: Turn) -> None:
    """Catches what it is told and ends without a word."""
    with suppress(Exception):
        turn.emit(MUCH)


async def asks(messages: Any, turn: Turn) -> InputRequired:
    with suppress(Exception):
        turn.emit(MUCH)
    return InputRequired("more?")


async def steps(messages: Any, turn: Turn) -> str:
    return str(await turn.step("search", lambda: MUCH))


async def wraps(messages: Any, turn: Turn) -> str:
    try:
        turn.emit(MUCH)
    except Exception as error:
        raise RuntimeError("something else") from error
    return ""


async def notes(messages: Any, turn: Turn) -> str:
    turn.progress(0.5, MUCH)
    return "done"


async def replies(messages: Any, turn: Turn) -> None:
    turn.reply(MUCH)


HANDLERS: dict[str, Callable[..., Any]] = {
    "a text": gives(MUCH),
    "a text beyond ASCII": gives("\u20ac" * 667),
    "data": gives({"data": MUCH}),
    "bytes": gives(RawPart(MUCH.encode())),
    "metadata": gives(Artifact(parts=(TextPart("a"),), metadata={"a": MUCH})),
    "a message": gives(Message(parts=(TextPart(MUCH),))),
    "parts": gives([TextPart("x" * 1000), DataPart("x" * 1000)]),
    "chunks of one artifact": grows,
    "much in all": keeps_on,
    "many artifacts": many,
    "a list of artifacts": gives([Artifact(parts=(TextPart("x"),))] * 5),
    "a handler that catches everything": deaf,
    "a handler that is silent about it": silent,
    "a handler that asks instead": asks,
    "a handler that wraps what it is told": wraps,
    "a step": steps,
    "a note": notes,
    "a reply": replies,
}


@pytest.mark.parametrize("case", HANDLERS)
async def test_a_turn_that_gives_too_much_fails_its_task_with_a_sentence(shop: Shop, case: str) -> None:
    task = await run(shop, HANDLERS[case], retry_on=[Exception])
    assert (task.state, task.attempt, task.failures) == (TaskState.FAILED, 1, 0)
    assert task.status_message is not None
    assert "more than the" in task.status_message.text
    assert "TURNS__" not in task.status_message.text
    assert sum(len(artifact.text) for artifact in task.artifacts) <= 5000
    assert len(task.artifacts) <= 4


FITS: dict[str, Callable[..., Any]] = {
    "a text": gives("x" * 2000),
    "a text beyond ASCII": gives("\u20ac" * 666),
    "artifacts": gives([Artifact(parts=(TextPart("x"),))] * 4),
    "a message": gives(Message(parts=(TextPart("x" * 2000),))),
}


@pytest.mark.parametrize("case", FITS)
async def test_what_is_just_within_the_limits_is_kept(shop: Shop, case: str) -> None:
    assert (await run(shop, FITS[case])).state is TaskState.COMPLETED


async def test_artifacts_of_earlier_turns_count(shop: Shop) -> None:
    task_id = await shop.submit()

    def three(messages: list[dict[str, str]], turn: Turn) -> Any:
        for _ in range(3):
            turn.emit(Artifact(parts=(TextPart("x"),)))
        return InputRequired("more?")

    assert await run_turn(shop.worker(three, settings=LIMITED), Reins())
    message = Message(parts=(TextPart("more"),))
    await shop.storage.continue_task("anonymous", task_id, message)
    assert await run_turn(shop.worker(three, settings=LIMITED), Reins())
    task = await shop.load(task_id)
    assert task.state is TaskState.FAILED
    assert len(task.artifacts) == 4


async def test_an_artifact_that_is_written_anew_counts_once(shop: Shop) -> None:
    def rewrites(messages: list[dict[str, str]], turn: Turn) -> None:
        for _ in range(2):
            turn.emit(Artifact(parts=(TextPart("x" * 1500),), artifact_id="same"))

    task = await run(shop, rewrites)
    assert task.state is TaskState.COMPLETED
    assert [len(artifact.text) for artifact in task.artifacts] == [1500]
