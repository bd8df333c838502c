"""The agent of the chaos fleet. A message is JSON: `{"tag": ..., "pause": seconds, "chunks": n, "ask": bool, "fail": bool}`.

It says its tag and its attempt in everything it says, so that whose words they are can be seen wherever they turn up; and it
leaves a mark outside of the server at its begin and its end: a line appended to the file CHAOS_EFFECTS, whole, by one write.
"""

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator
from typing import Any

from perdure import AgentError, InputRequired, Turn, bindufy

_effects = os.open(os.environ["CHAOS_EFFECTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(turn: Turn, order: dict[str, Any], what: str) -> None:
    """Leave a mark."""
    mark = {"what": what, "task": turn.task_id, "context": turn.context_id, "tag": order["tag"]}
    line = json.dumps(mark | {"attempt": turn.attempt, "pid": os.getpid(), "at": time.monotonic()})
    os.write(_effects, f"{line}\n".encode())


def orders(turn: Turn) -> dict[str, Any]:
    """What the task's first message asks for."""
    own = next(message for message in turn.messages if message.task_id == turn.task_id)
    order: dict[str, Any] = json.loads(own.text)
    answered = (
        sum(message.task_id == turn.task_id and message.role == "user" for message in turn.messages) > 1
    )
    return order | {"ask": order["ask"] and not answered}


def words(turn: Turn, order: dict[str, Any], number: int) -> str:
    """A chunk of the answer."""
    return f"{order['tag']}/{turn.attempt}.{number} "


def end(turn: Turn, order: dict[str, Any]) -> None:
    """The mark, and what else may end a turn."""
    note(turn, order, "end")
    if order["ask"]:
        raise InputRequired(f"{order['tag']}/{turn.attempt}?")
    if order["fail"]:
        raise AgentError(f"{order['tag']}/{turn.attempt}!")


async def handler(messages: list[dict[str, str]], turn: Turn) -> AsyncIterator[str]:
    order = orders(turn)
    note(turn, order, "begin")
    try:
        for number in range(order["chunks"]):
            yield words(turn, order, number)
            await asyncio.sleep(order["pause"])
    except BaseException:
        note(turn, order, "stopped")
        raise
    end(turn, order)


bindufy({"name": "chaos"}, handler)
