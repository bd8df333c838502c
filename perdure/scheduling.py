"""What a message may ask of the scheduler: the member `perdure` of its metadata.

    {"perdure": {"priority": 5, "notBefore": "2026-12-24T18:00:00Z", "expires": 3600, "deadline": 7200, "turnTimeout": 60}}

Times are RFC 3339 timestamps, or seconds from now. Checked at the front door, so that later readers may trust it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from perdure.errors import InvalidParams

MEMBER = "perdure"
_MEMBERS = ("priority", "notBefore", "expires", "deadline", "turnTimeout")
PRIORITIES = range(-100, 101)
LONGEST = 366 * 86400.0
"""Seconds. Further ahead nobody means it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduling:
    """Seconds from now, None where the message does not say."""

    priority: int | None = None
    """-100 to 100; higher ones go first."""
    not_before: float | None = None
    expires: float | None = None
    """A task that has not started by then fails."""
    deadline: float | None = None
    """A task that has not ended by then fails."""
    turn_timeout: float | None = None
    """How long the turn that answers this message may take."""


NOTHING = Scheduling()


def scheduling_of(metadata: Mapping[str, Any], now: datetime) -> Scheduling:
    """What `metadata` asks for. `InvalidParams` names the member that is wrong; an unknown one is a typing error."""
    asked = metadata.get(MEMBER)
    if asked is None:
        return NOTHING
    if not isinstance(asked, Mapping):
        raise InvalidParams(f"metadata.{MEMBER}", "must be an object")
    if unknown := asked.keys() - set(_MEMBERS):
        raise InvalidParams(
            f"metadata.{MEMBER}.{min(unknown)}", f"is unknown; known are {', '.join(_MEMBERS)}"
        )
    return Scheduling(
        priority=_priority(asked.get("priority")),
        not_before=_ahead(asked, "notBefore", now),
        expires=_ahead(asked, "expires", now),
        deadline=_ahead(asked, "deadline", now),
        turn_timeout=_seconds(asked.get("turnTimeout")),
    )


def _priority(value: Any) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in PRIORITIES:
        raise _wrong("priority", f"must be a whole number from {PRIORITIES[0]} to {PRIORITIES[-1]}")
    return int(value)  # 5.0 is a whole number in JSON


def _seconds(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= LONGEST:
        raise _wrong("turnTimeout", f"must be seconds, above 0 and up to {LONGEST:.0f}")
    return float(value)


def _ahead(asked: Mapping[str, Any], name: str, now: datetime) -> float | None:
    """A point in time as seconds from now; what has passed is 0."""
    match asked.get(name):
        case None:
            return None
        case int() | float() as value if not isinstance(value, bool):
            ahead = float(value)
        case str() as value:
            ahead = _until(value, now)
        case _:
            ahead = math.nan
    if not 0 <= ahead <= LONGEST:
        raise _wrong(name, "must be an RFC 3339 timestamp or seconds from now, at most a year ahead")
    return ahead


def _until(text: str, now: datetime) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return math.nan
    return max((moment - now).total_seconds(), 0.0) if moment.tzinfo else math.nan


def _wrong(name: str, what: str) -> InvalidParams:
    return InvalidParams(f"metadata.{MEMBER}.{name}", what)
