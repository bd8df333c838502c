"""The same agent, as a plain generator: it runs on a thread and is told to stop by `turn.canceled`."""

import time
from collections.abc import Iterator

from perdure import Turn, bindufy
from tests.chaos.agent import end, note, orders, words


def handler(messages: list[dict[str, str]], turn: Turn) -> Iterator[str]:
    order = orders(turn)
    note(turn, order, "begin")
    try:
        for number in range(order["chunks"]):
            yield words(turn, order, number)
            time.sleep(order["pause"])
    except BaseException:
        note(turn, order, "stopped")
        raise
    end(turn, order)


agent = bindufy({"name": "chaos"}, handler)
