"""An agent of pydantic-ai as a handler: `pip install 'perdure[pydantic-ai]'`.

    agent = bindufy({"name": "helper"}, pydantic_ai.handler(my_agent))

Text is streamed as the model says it, the tools that it calls are told as progress, the conversation is its message history, a
structured output becomes a data part, and what it used stands in the task's metadata (`usage`).
"""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from perdure.adapters import needs
from perdure.agent import Turn
from perdure.tasks import DataPart, Message, RawPart, Role, TextPart, UrlPart
from perdure.turns.perform import spoken

with needs("pydantic-ai"):
    from pydantic_ai import Agent, RunContext
    from pydantic_ai.messages import (
        BinaryContent,
        FunctionToolCallEvent,
        ModelMessage,
        ModelRequest,
        ModelResponse,
        PartDeltaEvent,
        PartStartEvent,
        TextPartDelta,
        UserPromptPart,
    )
    from pydantic_ai.messages import TextPart as ModelText
    from pydantic_ai.usage import RunUsage
    from pydantic_core import to_json, to_jsonable_python


Deps = Any
Prompt = str | Sequence[Any]


def handler(
    agent: Agent[Any, Any], *, deps: Callable[[Turn], Deps] | None = None, **options: Any
) -> Callable[[Any, Turn], Awaitable[Any]]:
    """The agent as a handler. `deps` makes its dependencies for a turn; `options` go to `Agent.run` (`usage_limits`, `model`)."""

    async def run(messages: list[dict[str, str]], turn: Turn) -> Any:
        said = _Said(turn)
        result = await agent.run(
            _prompt(turn.message),
            message_history=_history(turn),
            deps=deps(turn) if deps else None,
            event_stream_handler=said.listen,
            **options,
        )
        turn.update_metadata({"usage": _usage(result.usage)})
        return None if result.output == said.text else _output(result.output)

    return run


class _Said:
    """The text that is streamed. A model that calls tools speaks several times; the last time counts."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self.text = ""

    async def listen(self, context: RunContext[Any], events: AsyncIterable[Any]) -> None:
        async for event in events:
            match event:
                case (
                    PartStartEvent(part=ModelText(content=text))
                    | PartDeltaEvent(delta=TextPartDelta(content_delta=text))
                ):
                    self._say(text)
                case FunctionToolCallEvent(part=call):
                    self._turn.progress(note=f"calls {call.tool_name}")

    def _say(self, text: str) -> None:
        self.text += text
        if text:
            self._turn.emit(text)


def _prompt(message: Message) -> Prompt:
    """The newest message: its text, or with files a list of what there is."""
    if all(isinstance(part, TextPart) for part in message.parts):
        return message.text
    return [content for part in message.parts for content in _content(part)]


def _content(part: Any) -> list[Any]:
    match part:
        case TextPart(text=text):
            return [text]
        case RawPart(raw=raw, media_type=media_type):
            return [BinaryContent(raw, media_type=media_type or "application/octet-stream")]
        case UrlPart(url=url):
            return [url]
        case DataPart(data=data):
            return [to_json(data).decode()]
    return []


def _history(turn: Turn) -> list[ModelMessage]:
    """The conversation before the newest message. Which tools were called in earlier turns is not in it."""
    newest = max(place for place, message in enumerate(turn.messages) if message.role is Role.USER)
    return [
        ModelRequest(parts=[UserPromptPart(said["content"])])
        if said["role"] == "user"
        else ModelResponse(parts=[ModelText(said["content"])])
        for said in spoken(turn.messages[:newest])
    ]


def _output(output: Any) -> Any:
    if isinstance(output, str):
        return output
    if is_dataclass(output) and not isinstance(output, type):
        output = asdict(output)
    return DataPart(to_jsonable_python(output))


def _usage(usage: RunUsage) -> dict[str, int]:
    """Tokens and requests, as pydantic-ai counts them."""
    members = ("requests", "tool_calls", "input_tokens", "output_tokens")
    return {name: value for name in members if (value := getattr(usage, name))}
