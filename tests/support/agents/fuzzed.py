"""Repeats what it hears, asks back when it is asked, and has everything switched on that callers can reach."""

from __future__ import annotations

from perdure import InputRequired, bindufy


def handler(messages: list[dict[str, str]]) -> str | InputRequired:
    text = messages[-1]["content"]
    return InputRequired("why?") if text.endswith("?") else text


bindufy(
    {
        "name": "fuzzed",
        "capabilities": {"push_notifications": True, "extended_agent_card": True},
        "limits": [{"per": "metadata.customer", "max_running": 2}],
    },
    handler,
)
