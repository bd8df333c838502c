"""Notices as they are spoken: JSON, a list of `[task id, seq, state]` where the state is null once the task is gone.

Whoever may publish to the channel can say anything there, so nothing that is heard may raise.
"""

from __future__ import annotations

import reprlib
import time
from collections.abc import Container, Mapping, Sequence
from types import NoneType
from uuid import UUID

import orjson
import structlog

from perdure.tasks import Notice, TaskState

log = structlog.get_logger(__name__)

_STATES: Mapping[str | None, TaskState | None] = {None: None, **{state.value: state for state in TaskState}}
_SHORT = 60
"""Characters of what is strange that a log line shows."""


def spoken(notices: Sequence[Notice]) -> bytes:
    """The message that tells these."""
    return orjson.dumps([[str(notice.task_id), notice.seq, notice.state] for notice in notices])


def understood(message: bytes, wanted: Container[str] | None = None) -> tuple[list[Notice], list[object]]:
    """The inverse of `spoken`: the notices in their order, and what is none of them. With `wanted`, those about tasks whose id is
    in there; what is said about others is not looked at."""
    notices: list[Notice] = []
    strange: list[object] = []
    try:
        items = orjson.loads(message)
    except ValueError:
        return [], [message]
    if not isinstance(items, list):
        return [], [items]
    for item in items:
        if wanted is not None and _about_others(item, wanted):
            continue
        try:
            notices.append(_notice(item))
        except ValueError:
            strange.append(item)
    return notices, strange


def _about_others(item: object, wanted: Container[str]) -> bool:
    return isinstance(item, list) and bool(item) and type(item[0]) is str and item[0] not in wanted


def _notice(item: object) -> Notice:
    """ValueError when it is none."""
    if not isinstance(item, list) or len(item) != 3:
        raise ValueError("not three members")
    task_id, seq, state = item
    if type(task_id) is not str or type(seq) is not int or type(state) not in (str, NoneType):
        raise ValueError("a member of another type")
    if state not in _STATES:
        raise ValueError("no state")
    return Notice(UUID(task_id), seq, _STATES[state])


class Strange:
    """Warns of what was found in Redis and is none of ours: a line a minute at most, since whoever put it there may go on."""

    def __init__(self, event: str, *, every: float = 60.0) -> None:
        self._event, self._every = event, every
        self._quiet_until = float("-inf")
        self._untold = 0

    def skipped(self, things: Sequence[object]) -> None:
        """These were skipped. The line has how many since the last one, and the beginning of the first."""
        self._untold += len(things)
        now = time.monotonic()
        if not things or now < self._quiet_until:
            return
        log.warning(
            self._event,
            skipped=self._untold,
            example=_short(things[0]),
            hint="somebody else writes to this Redis: give Perdure a user and a QUEUE_NAME of its own (docs/redis.md)",
        )
        self._untold, self._quiet_until = 0, now + self._every


def _short(thing: object) -> str:
    """Python's own repr may fail at what is nested deeply."""
    text = repr(thing[:_SHORT]) if isinstance(thing, bytes | str) else reprlib.repr(thing)
    return text if len(text) <= _SHORT else text[:_SHORT] + "..."
