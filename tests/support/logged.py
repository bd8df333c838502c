"""Logging is one for the process: set up for a test, and as it was before after it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from perdure import logs
from perdure.settings import LogSettings


@contextmanager
def logging_of_its_own() -> Iterator[None]:
    """Whatever is set up inside ends here."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.captureWarnings(False)
        structlog.reset_defaults()


@contextmanager
def logged_as_json() -> Iterator[None]:
    """As a process with the default settings does."""
    with logging_of_its_own():
        logs.set_up(LogSettings(format="json"))
        yield
