"""Fails at `break`, repeats anything else."""

from perdure import bindufy


def handler(messages: list[dict[str, str]]) -> str:
    if messages[-1]["content"] == "break":
        raise ValueError("no route to 7")
    return messages[-1]["content"]


bindufy({"name": "breaking"}, handler)
