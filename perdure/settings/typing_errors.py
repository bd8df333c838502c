"""Variables that are most likely meant for us, and are none of ours."""

from __future__ import annotations

from collections.abc import Iterable

from perdure.errors import ConfigError
from perdure.settings.model import names

_OTHERS = {"LOG_LEVEL", "LOG_FORMAT"}
"""One edit from ours, but far more likely meant for another program: platforms set them for every process."""


def refuse_typing_errors(given: Iterable[str]) -> None:
    """Raise ConfigError for the first of these names of variables that looks like one."""
    known = names()
    groups = tuple(name.partition("__")[0] + "__" for name in known if "__" in name)
    for name in given:
        if name in known or name in _OTHERS:
            continue
        near = next((ours for ours in known if len(ours) >= 6 and _one_edit(name, ours)), None)
        if near:
            raise ConfigError(f"{name} is not a setting; did you mean {near}?")
        if name.startswith(groups):
            raise ConfigError(f"{name} is not a setting; `perdure settings` lists those there are")


def _one_edit(one: str, other: str) -> bool:
    """Whether inserting, deleting or replacing one character, or swapping two neighbours, makes one of the other."""
    short, long = sorted((one, other), key=len)
    same = 0
    while same < len(short) and short[same] == long[same]:
        same += 1
    short, long = short[same:], long[same:]
    if len(short) < len(long):
        return short == long[1:]
    swapped = short[:2] == long[1::-1] and short[2:] == long[2:]
    return short != long and (swapped or short[1:] == long[1:])
