"""Looking into the environment and `.env` by hand, and handing the environment on to other processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from perdure.errors import ConfigError
from perdure.settings.model import Settings, names


def variables() -> dict[str, tuple[str, str]]:
    """Every variable of `.env` and the environment that has a value, as NAME -> (value, source)."""
    return {**_from(dotenv(), ".env"), **_from(os.environ, "environment")}


def _from(found: Mapping[str, str | None], source: str) -> dict[str, tuple[str, str]]:
    # Upper case last: where both PORT and port are given, PORT counts.
    in_order = sorted(found, key=str.isupper)
    return {name.upper(): (value, source) for name in in_order if (value := found[name])}


def dotenv() -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    if not Path(".env").exists():
        return {}
    try:
        return dotenv_values(".env", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {error}") from None


def wants_colour(stream: TextIO) -> bool:
    """Whether text on `stream` may be coloured: a terminal without NO_COLOR (https://no-color.org), or FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def hand_on_opentelemetry(settings: Settings) -> None:
    """Put into the environment what `settings` and `.env` have of OpenTelemetry's variables: its SDK looks nowhere else."""
    ours = {name: getattr(settings, name.lower()) for name in names() if name.startswith("OTEL_")}
    theirs = {name: value for name, value in dotenv().items() if name.startswith("OTEL_")}
    for name, value in {**theirs, **ours}.items():
        if value and (name in ours or name not in os.environ):
            os.environ[name] = str(value)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that is started by this one."""
    return {**os.environ, **changes}
