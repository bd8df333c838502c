"""Graphs of LangGraph as handlers, with fake models: no network."""

from __future__ import annotations

from typing import Any

import pytest
from langchain_core.language_models import GenericFakeChatModel
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from perdure.adapters import langgraph
from perdure.tasks import Message, Role, TextPart
from perdure.testing import run


def model(*answers: str) -> GenericFakeChatModel:
    return GenericFakeChatModel(messages=iter([AIMessage(answer) for answer in answers]))


def graph_of(node: Any, *, checkpointer: Any = None) -> Any:
    graph = StateGraph(MessagesState)
    graph.add_node("answer", node)
    graph.add_edge(START, "answer")
    graph.add_edge("answer", END)
    return graph.compile(checkpointer=checkpointer)


async def test_tokens_are_streamed_and_nodes_are_progress() -> None:
    speaker = model("it is sunny")

    async def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [await speaker.ainvoke(state["messages"])]}

    result = await run(langgraph.handler(graph_of(answer)), "the weather?")
    assert (result.state, result.text) == ("completed", "it is sunny")
    assert len([chunk for chunk in result.chunks if chunk]) > 1
    assert [progress.note for progress in result.progress] == ["answer"]


async def test_an_answer_that_no_model_streamed() -> None:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage(f"you said {state['messages'][-1].content}")]}

    result = await run(langgraph.handler(graph_of(answer)), "hello")
    assert result.text == "you said hello"


async def test_without_a_checkpointer_the_graph_gets_the_whole_conversation() -> None:
    def answer(state: MessagesState) -> dict[str, Any]:
        return {"messages": [AIMessage("|".join(str(message.content) for message in state["messages"]))]}

    conversation = ["hello", {"role": "assistant", "content": "hi"}, "bye"]
    result = await run(langgraph.handler(graph_of(answer)), conversation)  # type: ignore[arg-type]
    assert result.text == "hello|hi|bye"


async def test_an_interrupt_asks_and_the_answer_resumes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[int] = []

    def answer(state: MessagesState) -> dict[str, Any]:
        begun.append(1)
        city = interrupt("Which city?")
        return {"messages": [AIMessage(f"sunny in {city}")]}

    handler = langgraph.handler(graph_of(answer, checkpointer=InMemorySaver()))
    monkeypatch.setattr("perdure.ids.new_context_id", lambda: "conversation")
    asked = await run(handler, "the weather?")
    assert (asked.state, asked.status) == ("input-required", "Which city?")
    answered = await run(handler, ["the weather?", {"role": "assistant", "content": "Which city?"}, "Lisbon"])
    assert (answered.state, answered.text) == ("completed", "sunny in Lisbon")
    assert len(begun) == 2  # LangGraph runs the node that asked anew


async def test_a_turn_that_runs_again_goes_on_where_the_graph_was(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []

    def first(state: MessagesState) -> dict[str, Any]:
        done.append("first")
        return {"messages": [AIMessage("one")]}

    def second(state: MessagesState) -> dict[str, Any]:
        done.append("second")
        if done.count("second") == 1:
            raise ConnectionError("away")
        return {"messages": [AIMessage("two")]}

    graph = StateGraph(MessagesState)
    graph.add_node("first", first)
    graph.add_node("second", second)
    graph.add_edge(START, "first")
    graph.add_edge("first", "second")
    graph.add_edge("second", END)
    handler = langgraph.handler(graph.compile(checkpointer=InMemorySaver()))
    monkeypatch.setattr("perdure.ids.new_context_id", lambda: "conversation")
    said = Message(role=Role.USER, parts=(TextPart("go"),), message_id="m1")
    broken = await run(handler, said)
    assert broken.retry is not None
    again = await run(handler, said, attempt=2)
    assert again.state == "completed"
    assert again.text.endswith("two")
    assert done == ["first", "second", "second"]
