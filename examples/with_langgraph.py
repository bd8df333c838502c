"""A graph of LangGraph that asks its caller, made durable. Needs `pip install 'perdure[langgraph]'`.

perdure serve examples/with_langgraph.py
perdure send "What is the weather?"
"""

from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.types import interrupt

from perdure import bindufy
from perdure.adapters import langgraph


def answer(state):
    city = interrupt("Which city?")
    return {"messages": [AIMessage(f"It is sunny in {city}.")]}


builder = StateGraph(MessagesState)
builder.add_node("answer", answer)
builder.add_edge(START, "answer")
builder.add_edge("answer", END)
graph = builder.compile(checkpointer=InMemorySaver())  # workers in several processes share one in Postgres

bindufy({"name": "weather", "description": "Asks for the city"}, langgraph.handler(graph))
