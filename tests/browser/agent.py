"""An agent that does what its message says, so that the operators' page has something to show."""

from __future__ import annotations

import asyncio
from os.path import exists

from perdure import InputRequired, Retry, Turn, bindufy


class BookingError(Exception):
    """The system behind the agent does not do what it should."""


async def handler(messages: list[dict[str, str]], turn: Turn) -> str:
    """`wait FILE` until it is there, `stuck FILE` the same and heeding no cancel, `fail CITY`, `retry`, a question;
    else an answer."""
    word, _, rest = messages[-1]["content"].partition(" ")
    match word:
        case "wait" | "stuck":
            turn.progress(0.4, "reading 12 of 30 offers")
            await _there(rest.split()[0], heeds=word == "wait")
        case "fail" if not exists("repaired"):
            raise BookingError(f"no seat map for flight {len(rest) * 117} to '{rest}'")
        case "retry":
            raise Retry(1800, "the airline is closed")
    if messages[-1]["content"].endswith("?"):
        raise InputRequired("When do you want to leave?")
    return f"Booked: {rest or word}"


async def _there(file: str, *, heeds: bool) -> None:
    while not exists(file):
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            if heeds:
                raise


bindufy(
    {
        "name": "travel desk",
        "deployment": {"url": "http://localhost:3773"},
        "capabilities": {"push_notifications": True},
    },
    handler,
)
