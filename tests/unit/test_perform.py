"""Every way a handler can be written and can end, and the one value that each becomes."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import pytest

from perdure import ids
from perdure.agent import Agent, Progress, Turn
from perdure.errors import AgentError, AuthRequired, InputRequired, Rejected, TurnOutcome
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    Part,
    RawPart,
    Role,
    TaskState,
    TextPart,
    UrlPart,
    fold_chunks,
)
from perdure.turns.answer import Answer, More, Piece, coalesced
from perdure.turns.perform import BAD_OUTPUT, CRASHED, Outcome, perform, spoken

TASK = UUID("0198f000-0000-7000-8000-000000000001")


@dataclass
class Performed:
    """A handler's run: what it emitted on the way, and how it ended."""

    outcome: Outcome
    pieces: list[Piece]

    @property
    def chunks(self) -> list[ArtifactChunk]:
        return [
            *(piece for piece in self.pieces if isinstance(piece, ArtifactChunk)),
            *self.outcome.chunks,
        ]

    @property
    def artifacts(self) -> tuple[Artifact, ...]:
        return fold_chunks(coalesced(self.chunks))

    @property
    def parts(self) -> list[Part]:
        (artifact,) = self.artifacts
        return list(artifact.parts)


@dataclass
class Stage:
    """A turn that is not stored."""

    pieces: list[Piece] = field(default_factory=list)
    messages: tuple[Message, ...] = (Message(parts=(TextPart("hello"),), role=Role.USER),)
    first_ordinal: int = 0

    def __post_init__(self) -> None:
        self.answer = Answer(TASK, context_id="c", attempt=2, first_ordinal=self.first_ordinal, put=self._put)
        self.turn = Turn(
            task_id=str(TASK),
            context_id="c",
            attempt=2,
            messages=self.messages,
            task_metadata={},
            emit=self.answer.emit,
        )

    def _put(self, piece: Piece | More) -> None:
        self.pieces.append(piece.chunk() if isinstance(piece, More) else piece)

    async def run(self, handler: Callable[..., Any]) -> Performed:
        agent = Agent.of({"name": "test"}, handler)
        return Performed(await perform(agent, self.turn, self.answer), self.pieces)


async def performed(handler: Callable[..., Any]) -> Performed:
    return await Stage().run(handler)


async def ended(value: Any) -> Performed:
    def handler(messages: Any) -> Any:
        return value

    return await performed(handler)


# ---------------------------------------------------------------------- where it runs


async def test_a_function_runs_on_a_daemon_thread_with_the_context_variables() -> None:
    colour = contextvars.ContextVar("colour", default="none")
    colour.set("red")
    seen: list[Any] = []

    def handler(messages: Any) -> str:
        thread = threading.current_thread()
        seen.extend((thread is not threading.main_thread(), thread.daemon, colour.get()))
        return "done"

    result = await performed(handler)
    assert seen == [True, True, "red"]
    assert result.parts == [TextPart("done")]


async def test_a_coroutine_runs_on_the_loop() -> None:
    async def handler(messages: Any) -> str:
        await asyncio.sleep(0)
        return f"{asyncio.get_running_loop() is loop}"

    loop = asyncio.get_running_loop()
    assert (await performed(handler)).parts == [TextPart("True")]


async def test_a_function_that_hides_a_coroutine() -> None:
    async def inner(messages: Any) -> str:
        return messages[-1]["content"]  # type: ignore[no-any-return]

    def handler(messages: Any) -> Any:
        return inner(messages)

    assert (await performed(handler)).parts == [TextPart("hello")]


async def test_a_generator_streams_one_artifact() -> None:
    def handler(messages: Any) -> Iterator[str]:
        yield "a"
        yield "b"

    result = await performed(handler)
    assert [(chunk.append, chunk.last_chunk) for chunk in result.chunks] == [
        (False, False),
        (True, False),
        (True, True),
    ]
    assert result.chunks[-1].artifact.parts == (TextPart(""),)
    assert result.parts == [TextPart("ab")]
    assert result.outcome.state is TaskState.COMPLETED


async def test_an_async_generator_streams_text_and_data() -> None:
    async def handler(messages: Any, turn: Turn) -> AsyncIterator[Any]:
        yield "a"
        turn.emit({"b": 1})
        yield None
        yield TextPart("c")

    result = await performed(handler)
    assert result.parts == [TextPart("a"), DataPart({"b": 1}), TextPart("c")]


# ---------------------------------------------------------------------- what it returns


@pytest.mark.parametrize(
    ("value", "parts"),
    [
        ("text", [TextPart("text")]),
        ("", [TextPart("")]),
        ({"a": [1, None]}, [DataPart({"a": [1, None]})]),
        ({1: "a"}, [DataPart({"1": "a"})]),
        ([1, 2], [DataPart([1, 2])]),
        ([], [DataPart([])]),
        (42, [DataPart(42)]),
        (UrlPart("https://example.com"), [UrlPart("https://example.com")]),
        ([TextPart("a"), RawPart(b"b")], [TextPart("a"), RawPart(b"b")]),
        ("a\x00b\ud800", [TextPart("a\ufffdb\ufffd")]),
        ({"k\x00": ["\x00"]}, [DataPart({"k\ufffd": ["\ufffd"]})]),
    ],
)
async def test_a_value_becomes_the_answer(value: Any, parts: list[Part]) -> None:
    result = await ended(value)
    assert result.parts == parts
    assert result.artifacts[0].artifact_id == ids.artifact_id(TASK, 0)
    assert result.outcome.state is TaskState.COMPLETED
    assert result.chunks[-1].last_chunk


async def test_none_is_no_output() -> None:
    result = await ended(None)
    assert (result.outcome.state, result.chunks, result.pieces) == (TaskState.COMPLETED, [], [])


async def test_artifacts_stand_for_themselves_and_get_ids_from_where_the_task_stands() -> None:
    stage = Stage(first_ordinal=3)
    given = [
        Artifact(parts=(TextPart("1"),), name="one"),
        Artifact(parts=(TextPart("2"),), artifact_id="mine"),
        Artifact(parts=(TextPart("3\x00"),)),
    ]
    result = await stage.run(lambda messages: given)
    assert [artifact.artifact_id for artifact in result.artifacts] == [
        ids.artifact_id(TASK, 3),
        "mine",
        ids.artifact_id(TASK, 4),
    ]
    assert result.artifacts[2].text == "3\ufffd"


async def test_a_returned_message_is_the_status_message() -> None:
    result = await ended(Message(parts=(TextPart("done"),), role=Role.USER))
    message = result.outcome.status_message
    assert message is not None
    assert (message.text, message.role, message.task_id, message.context_id) == (
        "done",
        Role.AGENT,
        str(TASK),
        "c",
    )
    assert message.message_id == ids.message_id(TASK, 2, 0)
    assert result.chunks == []


async def test_a_value_returned_after_emissions_replaces_them() -> None:
    def handler(messages: Any, turn: Turn) -> str:
        turn.emit("dra")
        turn.emit("ft")
        turn.emit(Artifact(parts=(TextPart("aside"),)))
        return "final"

    result = await performed(handler)
    main, aside = result.artifacts
    assert (main.text, aside.text) == ("final", "aside")
    assert (main.artifact_id, aside.artifact_id) == (ids.artifact_id(TASK, 0), ids.artifact_id(TASK, 1))


async def test_progress_and_messages_on_the_way() -> None:
    def handler(messages: Any, turn: Turn) -> None:
        turn.progress(7, "almost\x00")
        turn.emit(Message(parts=(TextPart("looking it up"),)))

    progress, message = (await performed(handler)).pieces
    assert progress == Progress(1.0, "almost\ufffd")
    assert isinstance(message, Message)
    assert (message.role, message.message_id) == (Role.AGENT, ids.message_id(TASK, 2, 0))


# ---------------------------------------------------------------------- ends of other kinds

ENDINGS = [
    (InputRequired("which city?"), TaskState.INPUT_REQUIRED, "which city?"),
    (AuthRequired("log in"), TaskState.AUTH_REQUIRED, "log in"),
    (Rejected("no"), TaskState.REJECTED, "no"),
    (AgentError("sorry"), TaskState.FAILED, "sorry"),
    (InputRequired(Message(parts=(TextPart("which?"),))), TaskState.INPUT_REQUIRED, "which?"),
]


@pytest.mark.parametrize(("ending", "state", "text"), ENDINGS)
@pytest.mark.parametrize("how", ["raised", "returned", "raised async", "yielded", "yielded async"])
async def test_an_ending(how: str, ending: TurnOutcome, state: TaskState, text: str) -> None:
    result = await performed(_handlers(ending)[how])
    assert result.outcome.state is state
    assert result.outcome.error is None
    assert result.outcome.status_message is not None
    assert result.outcome.status_message.text == text
    if "yielded" in how:
        assert result.parts == [TextPart("so far")]


def _handlers(ending: TurnOutcome) -> dict[str, Callable[..., Any]]:
    def raised(messages: Any) -> None:
        raise ending

    def returned(messages: Any) -> Any:
        return ending

    async def raised_async(messages: Any) -> None:
        raise ending

    def yielded(messages: Any) -> Iterator[Any]:
        yield "so far"
        yield ending
        pytest.fail("went on after its end")

    async def yielded_async(messages: Any) -> AsyncIterator[Any]:
        yield "so far"
        yield ending
        pytest.fail("went on after its end")

    return {
        "raised": raised,
        "returned": returned,
        "raised async": raised_async,
        "yielded": yielded,
        "yielded async": yielded_async,
    }


async def test_endings_without_a_text() -> None:
    assert (await ended(InputRequired())).outcome.status_message is None
    message = (await ended(AgentError())).outcome.status_message
    assert message is not None
    assert message.text == "The agent failed."


CRASHES: list[BaseException] = [
    ValueError("password=secret"),
    StopIteration(),
    SystemExit(3),
    asyncio.CancelledError(),
    RecursionError(),
]


@pytest.mark.parametrize("error", CRASHES, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("kind", ["function", "coroutine", "generator", "async generator"])
async def test_a_crash_is_a_failure_with_a_neutral_text(kind: str, error: BaseException) -> None:
    def function(messages: Any) -> None:
        raise error

    async def coroutine(messages: Any) -> None:
        raise error

    def generator(messages: Any) -> Iterator[str]:
        yield "so far"
        raise error

    async def async_generator(messages: Any) -> AsyncIterator[str]:
        yield "so far"
        raise error

    handlers: list[Callable[..., Any]] = [function, coroutine, generator, async_generator]
    result = await performed({Agent.of({"name": "x"}, each).kind: each for each in handlers}[kind])  # type: ignore[index]
    if kind == "generator" and isinstance(error, StopIteration):
        return  # Python makes a RuntimeError of it, or the generator's end: both are ends
    assert result.outcome.state is TaskState.FAILED
    assert result.outcome.error is not None
    assert result.outcome.status_message is not None
    assert result.outcome.status_message.text == CRASHED
    if "generator" in kind:
        assert result.parts == [TextPart("so far")]
        assert result.chunks[-1].last_chunk


BAD: list[Any] = [
    object(),
    float("nan"),
    {"a": 2**70},
    {"a": {1, 2}},
    {(1, 2): "a"},
    Artifact(parts=()),
    Artifact(parts=(TextPart(5),)),  # type: ignore[arg-type]
    [Artifact(parts=(DataPart(object()),))],
    Message(parts=()),
    TextPart("a", metadata={"x": object()}),
    RawPart("text"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("value", BAD, ids=range(len(BAD)))
async def test_output_that_cannot_be_stored_fails_the_task(value: Any) -> None:
    result = await ended(value)
    assert result.outcome.state is TaskState.FAILED
    assert result.outcome.status_message is not None
    assert result.outcome.status_message.text == BAD_OUTPUT
    assert "it may give" in str(result.outcome.error)
    assert result.chunks == []


async def test_output_that_holds_itself() -> None:
    value: list[Any] = []
    value.append(value)
    assert (await ended(value)).outcome.state is TaskState.FAILED


async def test_emitting_what_cannot_be_stored_raises_where_it_is_emitted() -> None:
    def handler(messages: Any, turn: Turn) -> str:
        with pytest.raises(TypeError, match="it may give"):
            turn.emit(object())  # type: ignore[arg-type]
        return "still here"

    assert (await performed(handler)).parts == [TextPart("still here")]


# ---------------------------------------------------------------------- cancellation


async def test_a_cancelled_coroutine() -> None:
    started = asyncio.Event()

    async def handler(messages: Any) -> None:
        started.set()
        await asyncio.Event().wait()

    running = asyncio.create_task(performed(handler))
    await started.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_cancelled_function_is_waited_for() -> None:
    started, told, go_on = threading.Event(), threading.Event(), threading.Event()

    def handler(messages: Any, turn: Turn) -> None:
        started.set()
        while not turn.canceled:
            threading.Event().wait(0.001)
        told.set()
        go_on.wait(10)

    running = asyncio.create_task(performed(handler))
    await asyncio.to_thread(started.wait, 10)
    running.cancel()
    assert await asyncio.to_thread(told.wait, 10)
    assert not running.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_cancelled_generator_ends_at_its_next_yield() -> None:
    started, closed = threading.Event(), threading.Event()

    def handler(messages: Any) -> Iterator[str]:
        try:
            while True:
                yield "more"
                started.set()
        finally:
            closed.set()

    running = asyncio.create_task(performed(handler))
    await asyncio.to_thread(started.wait, 10)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert closed.is_set()


async def test_a_function_that_will_not_end_is_given_up_at_the_second_cancel() -> None:
    started, never = threading.Event(), threading.Event()

    def handler(messages: Any) -> None:
        started.set()
        never.wait(30)

    running = asyncio.create_task(performed(handler))
    await asyncio.to_thread(started.wait, 10)
    running.cancel()
    await asyncio.sleep(0)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    never.set()


# ---------------------------------------------------------------------- what it is given


def test_the_conversation_as_dicts() -> None:
    messages = [
        Message(parts=(TextPart("a"), TextPart("b"), DataPart({"c": "ü"})), role=Role.USER),
        Message(parts=(UrlPart("https://x.org/f"), RawPart(b"1", filename="f.txt", media_type="text/plain"))),
        Message(parts=(RawPart(b"1"),)),
    ]
    assert spoken(messages) == [
        {"role": "user", "content": 'a\nb\n{"c": "ü"}'},
        {"role": "assistant", "content": "https://x.org/f\n[file f.txt text/plain]"},
        {"role": "assistant", "content": "[file]"},
    ]


async def test_emissions_of_many_threads_make_one_artifact_in_order() -> None:
    def handler(messages: Any, turn: Turn) -> None:
        def speak(name: int) -> None:
            for number in range(200):
                turn.emit({"from": name, "number": number})

        threads = [threading.Thread(target=speak, args=(name,)) for name in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        result = await performed(handler)
    finally:
        sys.setswitchinterval(before)
    assert [chunk.append for chunk in result.chunks] == [False] + [True] * 800
    said = [part.data for part in result.parts if isinstance(part, DataPart)]
    for name in range(4):
        assert [each["number"] for each in said if each["from"] == name] == list(range(200)), json.dumps(said)


def test_coalesced_chunks_say_the_same() -> None:
    def chunk(name: str, *parts: Part, append: bool = True, last: bool = False) -> ArtifactChunk:
        return ArtifactChunk(Artifact(artifact_id=name, parts=parts, name=name), append, last)

    chunks = [
        chunk("a", TextPart("1"), append=False),
        chunk("b", DataPart(1), append=False, last=True),
        chunk("a", TextPart("2")),
        chunk("a", DataPart(2)),
        chunk("a", TextPart("")),
        chunk("b", DataPart(3), append=False, last=True),
        chunk("a", TextPart(""), last=True),
    ]
    a, b = coalesced(chunks)
    assert a == chunk("a", TextPart("12"), DataPart(2), append=False, last=True)
    assert b == chunk("b", DataPart(3), append=False, last=True)
    assert fold_chunks(coalesced(chunks[:4])) == fold_chunks(chunks[:4])


@pytest.mark.parametrize("begins", [True, False])
def test_tokens_say_what_their_chunks_would_say(begins: bool) -> None:
    data = Artifact(artifact_id="a", parts=(DataPart(1),), name="answer")
    said: list[ArtifactChunk | More] = [
        *(More("a", "b"), More("c", ""), More("a", "d")),
        *(ArtifactChunk(data, append=True), More("a", "e")),
    ]
    tokens = [ArtifactChunk(data), *said] if begins else said
    as_chunks = [each.chunk() if isinstance(each, More) else each for each in tokens]
    assert coalesced(tokens) == coalesced(as_chunks)
    texts = [part.text for part in coalesced(tokens)[0].artifact.parts if isinstance(part, TextPart)]
    assert texts == ["bd", "e"]
