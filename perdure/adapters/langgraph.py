"""A compiled graph of LangGraph as a handler: `pip install 'perdure[langgraph]'`.

    agent = bindufy({"name": "helper"}, langgraph.handler(graph))

The graph's state has `messages` (as `MessagesState`); tokens are streamed as its models say them, its nodes are told as progress.
`interrupt(...)` asks the caller: the task waits as input-required, and the answer resumes the graph. For that the graph needs a
checkpointer; its thread is the conversation. With more than one worker it must be one that they share, such as LangGraph's for
Postgres: a turn that runs again after a crash then goes on where the graph was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from perdure.adapters import needs
from perdure.agent import Turn
from perdure.errors import InputRequired
from perdure.tasks import DataPart, Message, TextPart
from perdure.turns.perform import spoken

with needs("langgraph"):
    from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage
    from langgraph.graph.state import CompiledStateGraph
    from langgraph.types import Command, Interrupt


Graph = CompiledStateGraph[Any, Any, Any, Any]


def handler(graph: Graph, *, config: dict[str, Any] | None = None) -> Callable[[Any, Turn], Awaitable[Any]]:
    """The graph as a handler. `config` is merged into the run's (`recursion_limit`, `tags`, more of `configurable`)."""

    async def run(messages: list[dict[str, str]], turn: Turn) -> Any:
        given = config or {}
        thread = {**given.get("configurable", {}), "thread_id": turn.context_id}
        run_config: Any = {**given, "configurable": thread}
        said = _Said(turn)
        asked: list[Interrupt] = []
        stream: AsyncIterator[Any] = graph.astream(
            await _input(graph, run_config, turn), run_config, stream_mode=["messages", "updates"]
        )
        last: BaseMessage | None = None
        async for mode, chunk in stream:
            if mode == "messages":
                said.take(chunk[0])
                continue
            for node, update in chunk.items():
                if node == "__interrupt__":
                    asked += update
                else:
                    turn.progress(note=node)
                    last = _last_of(update) or last
        if asked:
            raise InputRequired(_question(asked))
        return None if last is None or said.said(last) else _text(last)

    return run


async def _input(graph: Graph, config: Any, turn: Turn) -> Any:
    """What the graph is given: its caller's answer, nothing where it goes on after a crash, else the message; all of the
    conversation where nothing was checkpointed."""
    newest = HumanMessage(turn.message.text, id=turn.message.message_id or None)
    everything = {"messages": [*_before(turn), newest]}
    if graph.checkpointer is None:
        return everything
    state = await graph.aget_state(config)
    if any(task.interrupts for task in state.tasks):
        return Command(resume=_answer(turn.message))
    known = {message.id for message in state.values.get("messages", ())} if state.values else set()
    if state.next and newest.id in known:
        return None
    return {"messages": [newest]} if state.values else everything


def _before(turn: Turn) -> list[BaseMessage]:
    earlier = spoken(turn.messages[: list(turn.messages).index(turn.message)])
    return [
        HumanMessage(said["content"]) if said["role"] == "user" else AIMessage(said["content"])
        for said in earlier
    ]


def _answer(message: Message) -> Any:
    """A data part as it is, else the text."""
    data = [part.data for part in message.parts if isinstance(part, DataPart)]
    return data[0] if data else message.text


def _question(asked: list[Interrupt]) -> str | Message:
    """The text that a caller is asked; anything else as data."""
    values = [interrupt.value for interrupt in asked]
    if all(isinstance(value, str) for value in values):
        return "\n".join(values)
    return Message(
        parts=tuple(TextPart(value) if isinstance(value, str) else DataPart(value) for value in values)
    )


class _Said:
    """What has been streamed, so that it is not said twice."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._ids: set[str | None] = set()

    def take(self, message: BaseMessage) -> None:
        if isinstance(message, AIMessage | AIMessageChunk) and (text := _text(message)):
            self._ids.add(message.id)
            self._turn.emit(text)

    def said(self, message: BaseMessage) -> bool:
        return message.id in self._ids


def _last_of(update: Any) -> BaseMessage | None:
    messages = update.get("messages") if isinstance(update, dict) else None
    if isinstance(messages, BaseMessage):
        messages = [messages]
    spoken_by_it = [message for message in messages or () if isinstance(message, AIMessage)]
    return spoken_by_it[-1] if spoken_by_it else None


def _text(message: BaseMessage) -> str:
    content = message.content
    if isinstance(content, str):
        return content
    return "".join(block if isinstance(block, str) else str(block.get("text", "")) for block in content)
