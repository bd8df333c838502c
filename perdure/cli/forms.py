"""What commands share: durations in, tables, times and results out."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, overload

import typer

_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}


@overload
def seconds(text: str, option: str) -> float: ...
@overload
def seconds(text: str | None, option: str) -> float | None: ...
def seconds(text: str | None, option: str) -> float | None:
    """`90d`, `12h`, `30m` or a number of seconds; None for nothing given."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d{1,9})([smhd]?)", text)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is no duration: write 90d, 12h, 30m or seconds", param_hint=option
        )
    return float(found[1]) * _UNITS[found[2]]


def tell(told: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """What was done: `told` for programs, `text` for people."""
    print(json.dumps(told) if as_json else text)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as what is in them; the last one as it is."""
    whole = [heads, *rows]
    widths = [max(len(cell) for cell in column) for column in zip(*whole, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in whole
    )


def one_line(text: str, most: int = 80) -> str:
    """What fits into a cell: no line breaks, no control characters, not too long."""
    clean = "".join(each if each.isprintable() else " " for each in text)
    return clean if len(clean) <= most else f"{clean[: most - 1]}…"


def ago(time: datetime | None, now: datetime | None = None) -> str:
    """How long ago, in its largest unit: `3m`. Empty for None."""
    return "" if time is None else lasting(((now or datetime.now(UTC)) - time).total_seconds())


def lasting(span: float | None) -> str:
    """Seconds in their largest unit: `40ms`, `3s`, `2m`, `5h`, `12d`; a dash for None."""
    if span is None:
        return "-"
    if span < 1:
        return f"{max(span, 0) * 1000:.0f}ms"
    unit = next((unit for unit in ("d", "h", "m") if span >= 2 * _UNITS[unit]), "s")
    return f"{span / _UNITS[unit]:.0f}{unit}"


def iso(time: datetime | None) -> str | None:
    """A time as JSON has it (RFC 3339)."""
    return time.isoformat() if time else None


def in_bytes(size: int) -> str:
    """`1.5 MB`, `20.0 kB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1_000_000 else f"{size / 1e3:.1f} kB"
