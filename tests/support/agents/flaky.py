"""A handler whose service is down the first two times, and for good where the message says so."""

from perdure import Retry, Turn, bindufy


def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    said = messages[-1]["content"]
    if said == "never" or turn.attempt < 3:
        raise Retry(after=0.1, reason="The service is down.")
    return f"{said}, at the attempt {turn.attempt}"


bindufy({"name": "e2e"}, handler)
