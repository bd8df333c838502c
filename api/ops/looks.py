"""How things look: templates, and how times, sizes and states are said."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from starlette.responses import HTMLResponse, Response

from perdure import __version__
from perdure.owners import shown
from perdure.storage.operators import Minute, Why
from perdure.tasks import TaskState

from .query import of_owner

MOST_SHOWN = 4_000
"""Characters of a message, an artifact or a traceback on the page: the rest is told in numbers."""

NAV = (
    ("", "Overview"),
    ("/tasks", "Tasks"),
    ("/conversations", "Conversations"),
    ("/failures", "Failures"),
    ("/workers", "Workers"),
    ("/webhooks", "Webhooks"),
    ("/audit", "Audit"),
)

_NOTHING = "\u2013"
_GOOD, _BAD, _CALM, _ODD = "good", "bad", "calm", "odd"
_WHYS = {
    Why.COMPLETED: _GOOD,
    Why.FAILED: _BAD,
    Why.CRASH: _BAD,
    Why.TIMEOUT: _BAD,
    Why.RETRY: _ODD,
    Why.LATE: _ODD,
    Why.RUNNING: "busy",
}


def rendered(name: str, *, status_code: int = 200, **values: Any) -> Response:
    """A page. `page` is where it stands in the navigation."""
    return HTMLResponse(_TEMPLATES.get_template(name).render(**values), status_code=status_code)


def ago(time: datetime | None) -> str:
    """How long it is past: `12 s`, `3 min`, `2 h`, `5 d`."""
    return "" if time is None else span((datetime.now(UTC) - time).total_seconds())


def span(seconds: float | None) -> str:
    """A duration, as exact as a person cares for."""
    if seconds is None:
        return _NOTHING
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    for size, name in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size or (size == 60 and seconds >= 60):
            return f"{seconds / size:.0f} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def clock(time: datetime | None) -> str:
    """A moment, in UTC to the millisecond: what logs have."""
    return (
        "" if time is None else f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S}.{time.microsecond // 1000:03d} UTC"
    )


def number(value: float) -> str:
    """With thin spaces between the thousands."""
    return f"{value:,.0f}".replace(",", "\u202f")


def percent(part: float, whole: float) -> str:
    """A share; an en dash of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else _NOTHING


def short(value: object) -> str:
    """The end of an id: what tells two of them apart."""
    text = str(value)
    return text if len(text) <= 12 else f"\u2026\u2060{text[-8:]}"


def capped(text: str, most: int = MOST_SHOWN) -> str:
    """The beginning of a long text, and how much is missing."""
    return text if len(text) <= most else f"{text[:most]}\n… {number(len(text) - most)} more characters"


def pretty(value: Any) -> str:
    """JSON for people."""
    return capped(orjson.dumps(value, option=orjson.OPT_INDENT_2, default=str).decode())


def tone(why: Why) -> str:
    """The colour of an attempt's end."""
    return _WHYS.get(why, _CALM)


def bars(minutes: Sequence[Minute], now: datetime) -> list[dict[str, int]]:
    """The last hour as 60 bars of a drawing 600 wide and 100 high: for whoever has no JavaScript."""
    ended = {int(minute.time.timestamp()) // 60: minute for minute in minutes}
    last = int(now.timestamp()) // 60
    hour = [ended.get(last - 59 + place) for place in range(60)]
    most = max((each.completed + each.failed for each in hour if each), default=0) or 1
    drawn = []
    for place, each in enumerate(hour):
        good, bad = (each.completed, each.failed) if each else (0, 0)
        height = math.ceil(94 * (good + bad) / most)
        drawn.append({"x": place * 10, "height": height, "bad": math.ceil(94 * bad / most)})
    return drawn


def series(minutes: Sequence[Minute], now: datetime) -> str:
    """The same for uPlot: times, completed, failed."""
    ended = {int(minute.time.timestamp()) // 60: minute for minute in minutes}
    last = int(now.timestamp()) // 60
    places = range(last - 59, last + 1)
    rows = [
        [place * 60 for place in places],
        [ended[place].completed if place in ended else 0 for place in places],
        [ended[place].failed if place in ended else 0 for place in places],
    ]
    return orjson.dumps(rows).decode()


_TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent / "templates"),
    autoescape=select_autoescape(default=True),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_TEMPLATES.globals.update(nav=NAV, version=__version__, states=list(TaskState))
_TEMPLATES.filters.update(
    ago=ago,
    span=span,
    clock=clock,
    number=number,
    short=short,
    capped=capped,
    pretty=pretty,
    tone=tone,
    owner=shown,
    of_owner=of_owner,
)
