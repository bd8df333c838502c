"""An agent of pydantic-ai, made durable. Needs `pip install 'perdure[pydantic-ai]'`; its test model needs no network and no key.

perdure serve examples/with_pydantic_ai.py
perdure send "What is the weather in Lisbon?"
"""

from pydantic_ai import Agent
from pydantic_ai.models.test import TestModel

from perdure import bindufy
from perdure.adapters import pydantic_ai

agent = Agent(TestModel(), instructions="Be brief.")  # where yours names a model


@agent.tool_plain
def weather(city: str) -> str:
    return f"sunny in {city}"


bindufy({"name": "weather", "description": "Tells the weather"}, pydantic_ai.handler(agent))
