"""The names that authors of agents may rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

import perdure
import perdure.testing

NAMES = [
    "Agent",
    "AgentError",
    "Artifact",
    "AuthRequired",
    "DataPart",
    "InputRequired",
    "Message",
    "Part",
    "RawPart",
    "Rejected",
    "Retry",
    "TaskState",
    "TextPart",
    "Turn",
    "UrlPart",
    "__version__",
    "bindufy",
    "skill",
]

OF_TESTS = [
    "Harness",
    "Result",
    "Said",
    "assert_asked",
    "assert_canceled",
    "assert_completed",
    "assert_failed",
    "assert_rejected",
    "run",
    "run_sync",
]
OF_A_HARNESS = [
    "advance",
    "cancel",
    "close",
    "crash",
    "crash_after",
    "crash_before",
    "deploy",
    "look",
    "now",
    "send",
    "start",
    "wait",
]


def test_the_public_names_are_these() -> None:
    assert perdure.__all__ == NAMES
    assert all(getattr(perdure, name) is not None for name in NAMES)
    assert set(NAMES) <= set(dir(perdure))


def test_the_names_for_tests_are_these() -> None:
    assert perdure.testing.__all__ == OF_TESTS
    assert all(getattr(perdure.testing, name) is not None for name in OF_TESTS)
    assert sorted(name for name in vars(perdure.testing.Harness) if name[0] != "_") == OF_A_HARNESS


def test_other_names_are_missing() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'unbindufy'"):
        _ = perdure.unbindufy


def test_star_import_gives_them_all() -> None:
    names: dict[str, object] = {}
    exec("from perdure import *", names)  # noqa: S102 -- the statement under test
    assert set(NAMES) <= set(names)


@pytest.mark.parametrize("command", [["-c", "import perdure"], ["-m", "perdure", "--help"]])
def test_what_costs_time_is_imported_late(command: list[str]) -> None:
    heavy = {
        "alembic",
        "arq",
        "asyncpg",
        "opentelemetry",
        "pydantic",
        "redis",
        "rich",
        "sqlalchemy",
        "starlette",
        "structlog",
        "uvicorn",
    }
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", *command], capture_output=True, text=True, check=True
    )
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "perdure" in imported
    assert not imported & heavy
