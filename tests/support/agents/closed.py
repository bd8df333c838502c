"""A handler whose service opens in an hour; in three seconds where the message says so."""

from perdure import Retry, Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    if turn.attempt == 1:
        after = 3 if messages[-1]["content"] == "for 3 s" else 3600
        raise Retry(after=after, reason="The bank is closed.")
    return "open"


bindufy({"name": "e2e"}, handler)
