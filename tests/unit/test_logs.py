"""What a process says: one form for our events and the libraries'."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator

import pytest
import structlog

from perdure import logs
from perdure.settings import LogSettings, wants_colour


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    """Logging is one for the process: give back what the next test expects."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    structlog.reset_defaults()


def test_json_has_a_line_for_an_event(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    with structlog.contextvars.bound_contextvars(task_id="t"):
        structlog.get_logger().info("turn.started", attempt=1, said="two\nlines \ud800")
    logging.getLogger("uvicorn.error").warning("port %s", 1, extra={"color_message": "coloured"})
    ours, theirs = map(json.loads, capsys.readouterr().err.splitlines())
    assert ours.pop("timestamp").endswith("Z")
    assert ours == {
        "event": "turn.started",
        "level": "info",
        "task_id": "t",
        "attempt": 1,
        "said": "two\nlines \ud800",
    }
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("port 1", "warning", "uvicorn.error")
    assert "color_message" not in theirs


def test_a_traceback_stays_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings())
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("handler.failed")
        logging.getLogger("somebody").exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["exception"].splitlines()[-1] for line in lines] == ["ValueError: why"] * 2


def test_the_console_is_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="console"))
    structlog.get_logger().info("serving", url="http://x")
    logging.getLogger("arq").warning("careful")
    said = capsys.readouterr().err
    assert "serving" in said
    assert "url=http://x" in said
    assert "careful" in said
    assert "\x1b[" not in said


@pytest.mark.parametrize(
    ("level", "heard"), [("warning", ["c"]), ("info", ["b", "c"]), ("debug", ["a", "b", "c", "d"])]
)
def test_the_level_is_for_all(capsys: pytest.CaptureFixture[str], level: str, heard: list[str]) -> None:
    logs.set_up(LogSettings.model_validate({"format": "json", "level": level}))
    log = structlog.get_logger()
    log.debug("a")
    log.info("b")
    logging.getLogger("anybody").warning("c")
    logging.getLogger("arq.worker").info("d")  # says what our events say already
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == heard


def test_warnings_are_lines_too(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("old", stacklevel=1)
    assert json.loads(capsys.readouterr().err)["logger"] == "py.warnings"


def test_colours_only_where_they_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert wants_colour(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(io.StringIO())
