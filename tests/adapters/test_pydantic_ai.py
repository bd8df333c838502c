"""Agents of pydantic-ai as handlers, with its own test models: no network."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from pydantic import BaseModel
from pydantic_ai import Agent, RunContext
from pydantic_ai.messages import ModelMessage, ModelRequest, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, DeltaToolCalls, FunctionModel
from pydantic_ai.models.test import TestModel

from perdure.adapters import pydantic_ai
from perdure.agent import Turn
from perdure.tasks import Message, RawPart, Role, TextPart
from perdure.testing import run

heard: list[list[ModelMessage]] = []


async def speak(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
    heard.append(messages)
    for word in ("it ", "is ", "sunny"):
        yield word


async def test_text_is_streamed_and_usage_is_kept() -> None:
    result = await run(pydantic_ai.handler(Agent(FunctionModel(stream_function=speak))), "the weather?")
    assert (result.state, result.text) == ("completed", "it is sunny")
    assert result.chunks == ("it ", "is ", "sunny")
    assert result.metadata["usage"]["requests"] == 1


async def test_the_conversation_is_its_history() -> None:
    heard.clear()
    handler = pydantic_ai.handler(Agent(FunctionModel(stream_function=speak)))
    await run(handler, ["hello", {"role": "assistant", "content": "hi"}, "the weather?"])
    [messages] = heard
    parts: list[tuple[str, Any]] = [(message.kind, part) for message in messages for part in message.parts]
    said = [(kind, part.content) for kind, part in parts]
    assert said == [("request", "hello"), ("response", "hi"), ("request", "the weather?")]


async def test_tools_are_called_and_told_as_progress() -> None:
    async def with_tool(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str | DeltaToolCalls]:
        returned = [
            part
            for message in messages
            if isinstance(message, ModelRequest)
            for part in message.parts
            if isinstance(part, ToolReturnPart)
        ]
        if returned:
            yield f"in {returned[0].content}"
        else:
            yield {0: DeltaToolCall(name="city_of", json_args='{"person": "Ana"}', tool_call_id="1")}

    agent = Agent(FunctionModel(stream_function=with_tool), deps_type=dict)

    @agent.tool
    def city_of(context: RunContext[dict[str, str]], person: str) -> str:
        return context.deps[person]

    def deps(turn: Turn) -> dict[str, str]:
        return {"Ana": "Lisbon"}

    result = await run(pydantic_ai.handler(agent, deps=deps), "where is Ana?")
    assert result.text == "in Lisbon"
    assert [progress.note for progress in result.progress] == ["calls city_of"]
    assert result.metadata["usage"]["tool_calls"] == 1


class City(BaseModel):
    name: str
    people: int


async def test_a_structured_output_is_data() -> None:
    agent = Agent(TestModel(custom_output_args={"name": "Lisbon", "people": 545_000}), output_type=City)
    result = await run(pydantic_ai.handler(agent), "a city")
    [part] = result.artifacts[0].parts
    assert part.data == {"name": "Lisbon", "people": 545_000}  # type: ignore[union-attr]


async def test_files_reach_the_model() -> None:
    heard.clear()
    message = Message(
        role=Role.USER, parts=(TextPart("what is it?"), RawPart(b"\x89PNG", media_type="image/png"))
    )
    await run(pydantic_ai.handler(Agent(FunctionModel(stream_function=speak))), message)
    said: Any = heard[0][0].parts[0]
    text, picture = said.content
    assert text == "what is it?"
    assert (picture.data, picture.media_type) == (b"\x89PNG", "image/png")


async def test_a_model_that_fails_fails_the_task_with_a_neutral_text() -> None:
    async def fail(messages: list[ModelMessage], info: AgentInfo) -> AsyncIterator[str]:
        if messages:
            raise RuntimeError("secret key wrong")
        yield ""

    result = await run(pydantic_ai.handler(Agent(FunctionModel(stream_function=fail))), "x")
    assert result.state == "failed"
    assert "secret" not in result.status
    assert isinstance(result.error, RuntimeError)
