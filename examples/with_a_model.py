"""A chat model behind an OpenAI-style address, such as a local one, made a durable agent.

MODEL_URL=http://localhost:11434/v1 MODEL=llama3.2 perdure serve examples/with_a_model.py
perdure send "Tell me a story."
"""

import os

from perdure import bindufy
from perdure.adapters import openai

handler = openai.handler(
    os.environ.get("MODEL_URL", "http://localhost:11434/v1"),
    os.environ.get("MODEL", "llama3.2"),
    key=os.environ.get("MODEL_KEY", ""),
)
bindufy({"name": "chat", "description": "Talks"}, handler)
