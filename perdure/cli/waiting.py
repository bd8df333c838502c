"""What a task waits for while nobody works on it, as far as its caller may know: from the task itself, the caller's other tasks
of its conversation, and `/readyz`, which says whether a worker is alive.

Another server than ours says less of it; then it is told so much.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from perdure.cli.client import Client, Json, Place
from perdure.errors import PerdureError

SUBMITTED, WORKING = "TASK_STATE_SUBMITTED", "TASK_STATE_WORKING"
PATIENCE = 1.0
"""Seconds that a task waits before it is told so, and between two changes of a countdown."""
LOOK_AGAIN = 5.0
"""Seconds between two questions to the server."""
MOST = 100
"""Tasks of a conversation that are counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting:
    """Why a task waits. `due` is by `time.monotonic()`."""

    attempt: str = ""
    due: float = 0.0
    note: str = ""
    earlier: int = 0
    lacking: str = ""

    def told(self) -> str:
        """In a line: `attempt 2 of 4 in 12 s (the bank is closed)`, `waits for a worker`."""
        left = self.due - time.monotonic()
        if left > 0:
            note = f" ({self.note})" if self.note else ""
            told = f"{self.attempt or 'begins'} in {left:.0f} s{note}"
            return f"{told}; {self.lacking}" if self.lacking else told
        before = f", {self.attempt}" if self.attempt else ""
        if self.lacking:
            return f"waits{before}: {self.lacking}"
        if self.earlier:
            tasks = "1 task" if self.earlier == 1 else f"{self.earlier} tasks"
            return f"waits{before}: {tasks} of this conversation before it"
        return f"waits for a worker{before}"


async def tell_what_it_waits_for(client: Client, place: Place, tell: Callable[[str], None]) -> None:
    """Tell each second what the task at `place` waits for, "" while it does not. Runs until it is cancelled."""
    waiting, look_at = None, 0.0
    while True:
        await asyncio.sleep(PATIENCE)
        if not place.task_id or place.state not in ("", SUBMITTED):
            waiting, look_at = None, 0.0
        elif time.monotonic() >= look_at:
            # The stream says what is wrong; and another server than ours may answer anything.
            with suppress(PerdureError, LookupError, TypeError, AttributeError):
                waiting = await looked(client, place)
            look_at = time.monotonic() + LOOK_AGAIN
        # The state may have come while we asked.
        tell(waiting.told() if waiting and place.state in ("", SUBMITTED) else "")


async def looked(client: Client, place: Place) -> Waiting | None:
    """Ask why it waits; None when it does not. `PerdureError`."""
    task = await client.call("GetTask", {"id": place.task_id, "historyLength": 1})
    if task.get("status", {}).get("state") != SUBMITTED:
        return None
    lacking = await client.lacks_worker()
    attempt, due, note = _later(task)
    earlier = 0 if due > time.monotonic() else await _earlier(client, task)
    return Waiting(attempt=attempt, due=due, note=note, earlier=earlier, lacking=lacking)


def _later(task: Json) -> tuple[str, float, str]:
    """Which attempt comes, when, and what the agent says of it."""
    since = task["status"].get("timestamp", "")
    match task.get("metadata", {}).get("retry"):
        case {"number": int() as number, "of": int() as most, "after": int() | float() as after, **rest}:
            return f"attempt {number + 1} of {most + 1}", _in(after, since), str(rest.get("note", ""))
    for message in task.get("history", ())[-1:]:
        return "", _in(_asked(message.get("metadata", {})), since), ""
    return "", 0.0, ""


def _asked(metadata: Mapping[str, Any]) -> float | str:
    """`notBefore` of a message: seconds, or a time."""
    ours = metadata.get("perdure")
    asked = ours.get("notBefore", 0) if isinstance(ours, Mapping) else 0
    return asked if isinstance(asked, int | float | str) else 0


def _in(after: float | str, since: str) -> float:
    """The moment, by our own clock, that is so many seconds after `since`, or that time. Clocks differ: never later than if it
    were from now."""
    try:
        if isinstance(after, str):
            return time.monotonic() + (datetime.fromisoformat(after) - datetime.now(UTC)).total_seconds()
        passed = (datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()
    except (ValueError, TypeError):
        return 0.0
    return time.monotonic() + after - max(passed, 0.0)


async def _earlier(client: Client, task: Json) -> int:
    """How many tasks of its conversation began to wait before it and have not ended: our ids are in the order of their making."""
    with suppress(PerdureError):  # not every server lists tasks
        asked = {"contextId": task.get("contextId", ""), "pageSize": MOST}
        found = [await client.call("ListTasks", {**asked, "status": state}) for state in (SUBMITTED, WORKING)]
        return sum(each["id"] < task["id"] for page in found for each in page.get("tasks", ()))
    return 0
