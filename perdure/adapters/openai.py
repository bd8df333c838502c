"""A model behind an OpenAI-style `/chat/completions`, by any vendor or on this machine, as a handler. Needs no extra.

    agent = bindufy({"name": "chat"}, openai.handler("http://localhost:11434/v1", "llama3.2"))

The answer is streamed as it is written, the conversation is what the model is told. 429, 502, 503, 504 and lost connections are
tried again as `TURNS__...` says, after what `Retry-After` asks for.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
from httpx_sse import aconnect_sse

from perdure.agent import Turn


def handler(
    base_url: str,
    model: str,
    *,
    key: str = "",
    system: str = "",
    timeout: float = 60.0,
    **options: Any,
) -> Callable[[list[dict[str, str]], Turn], AsyncIterator[str]]:
    """Chat with `model`. `system` goes before the conversation; `timeout` is how long the server may be silent, in seconds;
    `options` go into the request (`temperature`, `max_tokens`)."""
    url = f"{base_url.rstrip('/')}/chat/completions"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    opening = [{"role": "system", "content": system}] if system else []

    async def chat(messages: list[dict[str, str]], turn: Turn) -> AsyncIterator[str]:
        request = {"model": model, "messages": [*opening, *messages], "stream": True, **options}
        async with (
            httpx.AsyncClient(timeout=timeout, headers=headers) as client,
            aconnect_sse(client, "POST", url, json=request) as source,
        ):
            source.response.raise_for_status()
            async for event in source.aiter_sse():
                if event.data == "[DONE]":
                    return
                told = event.json()
                if usage := told.get("usage"):
                    turn.update_metadata({"usage": usage})
                for choice in told.get("choices", ()):
                    if text := choice.get("delta", {}).get("content"):
                        yield text

    return chat
