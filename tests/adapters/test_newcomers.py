"""Who has an agent gets it served, and durable, by at most five changed lines: in programs that run, and as the pages show it."""

from __future__ import annotations

import difflib
import re
from pathlib import Path

import pytest

from perdure.agent.loader import load_agent
from perdure.testing import Harness, assert_completed
from tests.support.processes import ROOT

MOST = 5
A2A = """
import uvicorn
from a2a.helpers import new_text_part
from a2a.server.agent_execution import AgentExecutor
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
from a2a.server.tasks import InMemoryTaskStore, TaskUpdater
from a2a.types import AgentCard
from starlette.applications import Starlette

class Repeater(AgentExecutor):
    async def execute(self, context, event_queue):
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        await updater.add_artifact([new_text_part(context.get_user_input())])
        await updater.complete()

    async def cancel(self, context, event_queue):
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()

card = AgentCard(name="repeater", description="Repeats what it is told", version="1.0.0")
handler = DefaultRequestHandler(agent_executor=Repeater(), task_store=InMemoryTaskStore(), agent_card=card)
app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])

if __name__ == "__main__":
    uvicorn.run(app)
"""
PYDANTIC_AI = '''
from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

def weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"

agent = Agent(TestModel(custom_output_text="sunny"), tools=[weather])

if __name__ == "__main__":
    print(agent.run_sync("the weather?").output)
'''
LANGGRAPH = """
from langchain_core.messages import AIMessage
from langgraph.graph import START, MessagesState, StateGraph

def answer(state):
    return {"messages": [AIMessage(f"sunny in {state['messages'][-1].content}")]}

builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
graph = builder.compile()

if __name__ == "__main__":
    print(graph.invoke({"messages": [("user", "Lisbon")]}))
"""
IMPORTS = "from perdure import bindufy\nfrom perdure.adapters import {adapter}\n"


@pytest.mark.parametrize(
    ("adapter", "program", "line", "told"),
    [
        ("a2a", A2A, "bindufy(a2a.config(card), a2a.handler(Repeater()))", "Lisbon"),
        ("pydantic_ai", PYDANTIC_AI, 'bindufy({"name": "weather"}, pydantic_ai.handler(agent))', "sunny"),
        ("langgraph", LANGGRAPH, 'bindufy({"name": "weather"}, langgraph.handler(graph))', "sunny in Lisbon"),
    ],
)
def test_a_program_that_somebody_has(
    tmp_path: Path, adapter: str, program: str, line: str, told: str
) -> None:
    changed = program.replace("\nif __name__", f"\n{line}\n\nif __name__")
    changed = IMPORTS.format(adapter=adapter) + changed
    assert 0 < len(_changes(program, changed)) <= MOST
    path = tmp_path / "theirs.py"
    path.write_text(changed)
    with Harness(load_agent(str(path))) as harness:
        assert_completed(harness.send("Lisbon"), told)


def _changes(before: str, after: str) -> list[str]:
    """The lines that are new, other or gone."""
    lines = difflib.ndiff(before.splitlines(), after.splitlines())
    return [line for line in lines if line[0] in "+-" and line[2:].strip()]


@pytest.mark.parametrize("page", ["adapters.md", "from-a2a-sdk.md"])
def test_what_the_pages_show_is_as_short(page: str) -> None:
    """What has to be written. What can go, such as a server that nobody needs any more, is not counted."""
    blocks = re.findall(r"^```diff\n(.*?)^```", (ROOT / "docs" / page).read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) == {"adapters.md": 3, "from-a2a-sdk.md": 1}[page]
    for block in blocks:
        written = [line for line in block.splitlines() if line.startswith("+") and line[1:].strip()]
        assert 0 < len(written) <= MOST, block
