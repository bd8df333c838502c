"""What a database can keep: JSON without NUL characters, lone surrogates, NaN, infinities and integers beyond 64 bits.

Postgres refuses NUL in text and jsonb, UTF-8 has no lone surrogates, JSON has no NaN. The in-memory storage takes no more than
Postgres does, so that nothing works in development and fails in production.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import repeat
from math import isfinite
from typing import Any

_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
_INT64 = range(-(2**63), 2**63)
_LONGEST_PATH = 80
"""Characters of the path to what is nested too deeply."""


def unstorable(value: Any, *, path: str = "", depth: int = 100) -> tuple[str, str] | None:
    """Why `value` cannot be kept: the path to the first culprit and a text for people. None if it can.

    `depth` is how deep objects and lists may nest.
    """
    if depth < 0:
        return path if len(path) <= _LONGEST_PATH else f"{path[:_LONGEST_PATH]}...", "is nested too deeply"
    if isinstance(value, str):
        return (path, "holds a NUL character or a lone surrogate") if _UNSTORABLE.search(value) else None
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int):
        return None if value in _INT64 else (path, "is an integer beyond 64 bits")
    if isinstance(value, float):
        return None if isfinite(value) else (path, "is not a finite number")
    if isinstance(value, Mapping | list | tuple):
        return _first(_members(value, path), depth - 1)
    return path, f"is no JSON value ({type(value).__name__})"


def _members(value: Mapping[Any, Any] | list[Any] | tuple[Any, ...], path: str) -> Iterator[tuple[str, Any]]:
    if not isinstance(value, Mapping):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(value))
        return
    for key, item in value.items():
        if not isinstance(key, str) or _UNSTORABLE.search(key):
            yield path, _BadKey()
        else:
            yield f"{path}.{key}" if path else key, item


class _BadKey:
    """A member whose name cannot be kept: no JSON value, so that `unstorable` finds it."""


def _first(members: Iterator[tuple[str, Any]], depth: int) -> tuple[str, str] | None:
    for path, item in members:
        if isinstance(item, _BadKey):
            return path, "has a member whose name cannot be kept"
        if found := unstorable(item, path=path, depth=depth):
            return found
    return None


def require_storable(value: Any) -> None:
    """`ValueError` for what cannot be kept."""
    if _is_plain(value, 100):
        return
    if found := unstorable(value):
        path, why = found
        raise ValueError(f"{path or 'the value'} {why}")


def _is_plain(value: Any, depth: int) -> bool:
    """Whether a look that keeps no paths finds nothing to say. Almost everything is, and all that is written comes by here."""
    kind = type(value)
    if kind is str:
        return _is_plain_text(value)
    if kind is dict:
        return all(map(_is_plain_text, value)) and _are_plain(value.values(), depth)
    if kind is list or kind is tuple:
        return _are_plain(value, depth)
    return unstorable(value) is None


def _are_plain(values: Iterable[Any], depth: int) -> bool:
    return depth > 0 and all(map(_is_plain, values, repeat(depth - 1)))


def _is_plain_text(text: Any) -> bool:
    return type(text) is str and "\0" not in text and (text.isascii() or _UNSTORABLE.search(text) is None)


def cleaned(text: str) -> str:
    """`text` with what cannot be kept replaced by U+FFFD: for the output of agents, which must not fail for a stray byte."""
    return text if _is_plain_text(text) else _UNSTORABLE.sub("\ufffd", text)
