"""Streams its answer: each yield is a chunk that the caller sees at once.

perdure serve examples/streaming.py
curl -N localhost:3773 -H 'content-type: application/json' -d '{"jsonrpc": "2.0", "id": 1, "method": "message/stream",
  "params": {"message": {"messageId": "1", "role": "user", "parts": [{"kind": "text", "text": "one word at a time"}]}}}'
"""

import asyncio

from perdure import bindufy


async def handler(messages):
    for word in messages[-1]["content"].split():
        yield word + " "
        await asyncio.sleep(0.2)  # where a model would be thinking


bindufy({"name": "streaming", "description": "Repeats what it is told, a word at a time"}, handler)
