"""What a process says on stderr: one line an event, readable on a terminal, JSON elsewhere.

Our own events and those of the libraries (uvicorn, arq, SQLAlchemy, Alembic: they log through `logging`) take the same form.
"""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import time
import traceback
from collections.abc import Mapping, MutableMapping
from contextvars import ContextVar
from functools import lru_cache
from types import MappingProxyType
from typing import Any

import orjson
import structlog
from structlog.typing import Processor

from perdure import tracing
from perdure.settings import LogSettings, wants_colour

_QUIET = ("uvicorn.error", "arq", "arq.worker", "asyncio", "alembic.runtime.plugins")
"""Below warning they tell, in many lines, what our own events tell already: heard only at the level debug."""
REDACTED = "[its text is not logged: see LOG__CONTENTS]"
_about: ContextVar[Mapping[str, Any]] = ContextVar("about", default=MappingProxyType({}))


class about:  # noqa: N801 -- reads as a statement
    """Every line that is logged inside says these names as well: in one variable of the context, since a turn sets many."""

    def __init__(self, **names: Any) -> None:
        self._names = names

    def __enter__(self) -> None:
        self._before = _about.set({**_about.get(), **self._names})

    def __exit__(self, *_: object) -> None:
        _about.reset(self._before)


def set_up_for_tests() -> None:
    """In an author's tests, where nobody has set anything up: what structlog does by itself, with short tracebacks."""
    if not structlog.is_configured():
        structlog.configure(processors=[*structlog.get_config()["processors"][:-1], *_console()])


def set_up(settings: LogSettings) -> None:
    """Send everything to stderr in the form that the settings name. May be called again: the last call counts."""
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    ours: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _with_names,
        structlog.processors.add_log_level,
        _with_time if as_json else structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        structlog.processors.StackInfoRenderer(),
    ]
    shown = settings.contents == "shown" or (settings.contents == "auto" and sys.stderr.isatty())
    if not shown:
        ours.append(_without_contents)
    form = _json() if as_json else _console()
    structlog.configure(
        processors=[*ours, *form],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=_Stderr,
        cache_logger_on_first_use=True,
    )
    handler = _Handler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(allow=()),
                *ours,
            ],
            processors=[_without_marks, *form],
        )
    )
    _route_libraries(handler, level)


def _route_libraries(handler: logging.Handler, level: int) -> None:
    logging.captureWarnings(True)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("uvicorn", "uvicorn.access", *_QUIET):
        library = logging.getLogger(name)
        library.handlers.clear()  # arq's command line adds one of its own
        library.propagate = True
        quiet = name in _QUIET and level > logging.DEBUG
        library.setLevel(max(level, logging.WARNING) if quiet else logging.NOTSET)
    logging.getLogger("alembic.runtime.migration").addFilter(_of_a_step)


def _of_a_step(record: logging.LogRecord) -> bool:
    """Of migrations the steps are heard (`Running upgrade 0013 -> 0014`), not that Alembic looks at a database."""
    return record.levelno != logging.INFO or str(record.msg).startswith("Running")


def _json() -> list[Processor]:
    return [structlog.processors.format_exc_info, _as_json]


def _as_json(_: Any, __: str, event: MutableMapping[str, Any]) -> str:
    """What orjson does not take (a lone surrogate, a key that is no text) is written in Python's way: a line must not be lost."""
    try:
        return orjson.dumps(event, default=repr).decode()
    except TypeError:
        return json.dumps(event, default=repr)


def _console() -> list[Processor]:
    plain = structlog.dev.plain_traceback  # rich ones are pages long and print the values of local variables
    return [structlog.dev.ConsoleRenderer(colors=wants_colour(sys.stderr), exception_formatter=plain)]


def _with_names(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """What the line is about, which trace it belongs to, and where in it."""
    return {**_about.get(), **event, **tracing.ids()}


def _with_time(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """UTC, to the microsecond (RFC 3339)."""
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    event["timestamp"] = f"{_second(seconds)}.{nanoseconds // 1000:06d}Z"
    return event


@lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    """Made once for all lines of a second."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _without_contents(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """An exception as where it was raised and its class. What it says, and what asyncio says of the task that raised it, may
    repeat what was said to an agent; operators find it with the task."""
    error = event.pop("exc_info", None)
    if error is True:
        error = sys.exc_info()
    if isinstance(error, tuple):
        error = error[1]
    if isinstance(error, BaseException):
        event["exception"] = redacted(error)
    if event.get("logger") == "asyncio":
        event["event"] = str(event["event"]).partition("\n")[0]
    return event


def redacted(error: BaseException) -> str:
    """A traceback without the texts of its exceptions."""
    pieces = []
    for each, link in _chain(error):
        frames = "".join(traceback.format_tb(each.__traceback__))
        inside = "".join(
            textwrap.indent(f"{redacted(one)}\n", "  | ")
            for one in (each.exceptions if isinstance(each, BaseExceptionGroup) else ())
        )
        head = "Traceback (most recent call last):\n" if frames else ""
        pieces.append(f"{head}{frames}{type(each).__qualname__}: {REDACTED}\n{inside}{link}")
    return "".join(pieces).rstrip()


def _chain(error: BaseException) -> list[tuple[BaseException, str]]:
    """An exception behind those that led to it, as tracebacks have them, each with the words that lead on."""
    chain: list[tuple[BaseException, str]] = [(error, "")]
    while True:
        last = chain[0][0]
        before, words = last.__cause__, "The above exception was the direct cause of the following exception"
        if before is None and not last.__suppress_context__:
            before, words = (
                last.__context__,
                "During handling of the above exception, another exception occurred",
            )
        if before is None or any(before is each for each, _ in chain):
            return chain
        chain.insert(0, (before, f"\n{words}:\n\n"))


def _without_marks(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Drop what ProcessorFormatter leaves for its own use."""
    return structlog.stdlib.ProcessorFormatter.remove_processors_meta(None, "", event)


class _Stderr:
    """A logger that looks up `sys.stderr` at each line: it may have been replaced since (tests do)."""

    def __init__(self, *_: Any) -> None: ...

    def msg(self, line: str) -> None:
        sys.stderr.write(f"{line}\n")  # one write, so that lines of several threads do not mix
        sys.stderr.flush()

    debug = info = warning = error = critical = exception = log = msg


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        try:
            _Stderr().msg(self.format(record))
        except Exception:  # as in logging: a log line must not end a process
            self.handleError(record)
