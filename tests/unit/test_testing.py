"""perdure.testing: what an author's test gets to see."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from perdure import (
    Agent,
    AgentError,
    Artifact,
    DataPart,
    InputRequired,
    Message,
    TaskState,
    TextPart,
    Turn,
)
from perdure.agent.loader import load_agent
from perdure.errors import ConfigError
from perdure.tasks import Role
from perdure.testing import Said, run, run_sync
from tests.support.processes import ROOT, finished


def test_a_plain_function_and_its_text() -> None:
    result = run_sync(lambda messages: messages[-1]["content"].upper(), "hello")
    assert (result.state, result.text, result.status, result.error) == (
        TaskState.COMPLETED,
        "HELLO",
        "",
        None,
    )
    assert result.artifacts[0].parts == (TextPart("HELLO"),)


async def test_an_agent_in_an_async_test() -> None:
    async def handler(messages: list[dict[str, str]]) -> Artifact:
        return Artifact(name="n", parts=(TextPart(messages[0]["content"]),))

    result = await run(Agent.of({"name": "a"}, handler), "x")
    assert [artifact.name for artifact in result.artifacts] == ["n"]


def test_a_conversation_of_texts_dicts_and_messages() -> None:
    def handler(messages: list[dict[str, str]]) -> Any:
        return [f"{message['role']}: {message['content']}" for message in messages]

    said: list[Said] = [
        "hello",
        {"role": "assistant", "content": "hi"},
        Message(role=Role.USER, parts=[TextPart("bye")]),
    ]
    (artifact,) = run_sync(handler, said).artifacts
    assert artifact.parts[0].data == ["user: hello", "assistant: hi", "user: bye"]  # type: ignore[union-attr]


def test_chunks_progress_and_messages_are_seen() -> None:
    async def handler(_: Any, turn: Turn) -> AsyncIterator[str]:
        turn.progress(0.5, "half")
        turn.emit("one ")
        yield "two"

    result = run_sync(handler, "go")
    assert result.chunks == ("one ", "two")
    assert [(progress.fraction, progress.note) for progress in result.progress] == [(0.5, "half")]
    assert (result.text, result.messages) == ("one two", ())


def test_the_turn_has_the_metadata_and_the_attempt() -> None:
    def handler(_: Any, turn: Turn) -> dict[str, Any]:
        return {"attempt": turn.attempt, **turn.task_metadata}

    (artifact,) = run_sync(handler, "go", metadata={"a": 1}, attempt=2).artifacts
    assert artifact.parts[0].data == {"attempt": 2, "a": 1}  # type: ignore[union-attr]


def test_a_question() -> None:
    def handler(_: Any) -> None:
        raise InputRequired("which city?")

    result = run_sync(handler, "weather")
    assert (result.state, result.status) == ("input-required", "which city?")


def test_a_failure_shows_the_error_that_callers_do_not_see() -> None:
    def handler(_: Any) -> None:
        raise ValueError("secret")

    result = run_sync(handler, "go")
    assert result.state is TaskState.FAILED
    assert isinstance(result.error, ValueError)
    assert "secret" not in result.status


def test_what_cannot_be_run() -> None:
    with pytest.raises(ConfigError):
        run_sync(lambda: "no parameters", "go")
    with pytest.raises(ValueError, match="at least one message of the user"):
        run_sync(lambda messages: messages, [{"role": "assistant", "content": "hi"}])


async def test_cancelling_reaches_the_handler() -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def handler(_: Any) -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    turn = asyncio.create_task(run(handler, "go"))
    await started.wait()
    turn.cancel()
    with pytest.raises(asyncio.CancelledError):
        await turn
    assert ended.is_set()


@pytest.mark.parametrize(
    ("example", "said", "state", "answer"),
    [
        ("echo", ["hello"], "completed", "hello"),
        ("streaming", ["two words"], "completed", "two words "),
        ("ask", ["weather?"], "input-required", "Which city?"),
        ("ask", ["stocks?"], "rejected", "I only talk about the weather."),
        ("slow", ["0"], "completed", "Done after 0 s."),
        ("slow", ["long"], "failed", "Tell me for how many seconds to work, such as 20."),
    ],
)
def test_the_examples(example: str, said: list[str], state: str, answer: str) -> None:
    result = run_sync(load_agent(str(ROOT / "examples" / f"{example}.py")), said)
    assert (result.state, result.text or result.status) == (state, answer)


def test_the_example_that_asks_answers_in_the_end() -> None:
    said: list[Said] = ["weather?", {"role": "assistant", "content": "Which city?"}, "Lisbon"]
    (artifact,) = run_sync(load_agent(str(ROOT / "examples" / "ask.py")), said).artifacts
    assert artifact.parts[0].data["city"] == "Lisbon"  # type: ignore[union-attr]


def test_a_failure_for_the_caller() -> None:
    result = run_sync(lambda _: AgentError("no such flight"), "go")
    assert (result.state, result.status, result.error) == (TaskState.FAILED, "no such flight", None)


def test_what_the_request_said_besides() -> None:
    def handler(messages: list[dict[str, str]], turn: Turn) -> dict[str, Any]:
        return {
            "modes": turn.accepted_output_modes,
            "extensions": turn.extensions,
            "tenant": turn.tenant,
        }

    told = run_sync(
        handler, ["a", "b"], accepted_output_modes=["text/csv"], extensions=["urn:units"], tenant="acme"
    )
    assert told.artifacts[0].parts == (
        DataPart({"modes": ["text/csv"], "extensions": ["urn:units"], "tenant": "acme"}),
    )
    silent = run_sync(handler, "a")
    assert silent.artifacts[0].parts == (DataPart({"modes": [], "extensions": [], "tenant": ""}),)


FAILS = """
from perdure.testing import Harness, run_sync

def handler(messages):
    key = "s3" + "cret"
    raise ValueError("no such city")

%s
"""


@pytest.mark.parametrize(
    "used", ["run_sync(handler, 'hello')", "with Harness(handler) as harness: harness.send('hello')"]
)
def test_a_traceback_is_printed_without_local_variables(tmp_path: Path, used: str) -> None:
    (tmp_path / "my_test.py").write_text(FAILS % used)
    printed = finished([sys.executable, "my_test.py"], cwd=tmp_path).stdout
    assert "ValueError: no such city" in printed
    assert "s3cret" not in printed
