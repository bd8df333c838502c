"""What a process says: one form for our events and the libraries'."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
import structlog

from perdure import logs
from perdure.settings import LogSettings, wants_colour
from tests.support.logged import logging_of_its_own


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    with logging_of_its_own():
        yield


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


def test_a_line_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    log = structlog.get_logger()
    with logs.about(task_id="t", caller="ada"):
        with logs.about(caller="bob", attempt=1):
            log.info("inside", attempt=2)
            logging.getLogger("somebody").warning("theirs")
        log.info("around")
    log.info("outside")
    inside, theirs, around, outside = map(json.loads, capsys.readouterr().err.splitlines())
    assert (inside["task_id"], inside["caller"], inside["attempt"]) == ("t", "bob", 2)
    assert (theirs["task_id"], theirs["caller"], theirs["attempt"]) == ("t", "bob", 1)
    assert (around["task_id"], around["caller"]) == ("t", "ada")
    assert "attempt" not in around
    assert not {"task_id", "caller"} & outside.keys()


def test_the_time_of_a_line_is_in_utc(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    before = datetime.now(UTC)
    structlog.get_logger().info("now")
    said = json.loads(capsys.readouterr().err)["timestamp"]
    assert len(said) == len("2026-01-01T00:00:00.000000Z")
    assert before <= datetime.fromisoformat(said) <= datetime.now(UTC)


def test_a_traceback_stays_one_line_of_json(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(contents="shown"))
    try:
        raise ValueError("why")
    except ValueError:
        structlog.get_logger().exception("handler.failed")
        logging.getLogger("somebody").exception("failed")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [line["exception"].splitlines()[-1] for line in lines] == ["ValueError: why"] * 2


HIDDEN = "do-not-tell"
"""It stands in no line of the code, which tracebacks quote."""


def trouble() -> None:
    """An error that leads to two others."""
    try:
        raise KeyError(HIDDEN)
    except KeyError as error:
        raise ExceptionGroup(HIDDEN, [ValueError(HIDDEN), OSError(HIDDEN)]) from error


@pytest.mark.parametrize("form", ["json", "console"])
def test_what_errors_say_is_not_said_where_nobody_asked_for_it(
    capsys: pytest.CaptureFixture[str], form: str
) -> None:
    """Not on a terminal, as here: what is told is where it was raised."""
    logs.set_up(LogSettings.model_validate({"format": form}))
    try:
        trouble()
    except ExceptionGroup as error:
        structlog.get_logger().exception("ours")
        structlog.get_logger().error("given", exc_info=error)
        logging.getLogger("somebody").exception("theirs")
        logging.getLogger("asyncio").error("Task failed\nfuture: <Task exception=%r>", error)
    said = capsys.readouterr().err
    assert HIDDEN not in said
    for word in ("ours", "given", "theirs", "Task failed"):
        assert word in said
    for kind in ("KeyError", "ExceptionGroup", "ValueError", "OSError"):
        assert said.count(f"{kind}: [its text is not logged") == 3
    assert said.count("The above exception was the direct cause") == 3
    assert "test_logs.py" in said


def test_an_error_within_another_is_told_as_tracebacks_do() -> None:
    with pytest.raises(ExceptionGroup) as raised:
        trouble()
    error = raised.value
    error.__cause__ = None
    error.__suppress_context__ = False
    told = logs.redacted(error)
    assert told.index("KeyError: ") < told.index("During handling") < told.index("ExceptionGroup: ")
    error.__suppress_context__ = True
    assert "KeyError: " not in logs.redacted(error)
    error.__cause__ = error  # no end
    assert logs.redacted(error).count("ExceptionGroup: ") == 1


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


def test_of_migrations_the_steps_are_heard(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up(LogSettings(format="json"))
    alembic = logging.getLogger("alembic.runtime.migration")
    alembic.info("Context impl %s.", "PostgresqlImpl")
    alembic.info("Running %s", "upgrade 0013 -> 0014")
    alembic.warning("something is odd")
    lines = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["Running upgrade 0013 -> 0014", "something is odd"]


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
