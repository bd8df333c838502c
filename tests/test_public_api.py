"""The names that authors of agents may rely on."""

from __future__ import annotations

import subprocess
import sys

import pytest

import perdure

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


def test_the_public_names_are_these() -> None:
    assert perdure.__all__ == NAMES
    assert all(getattr(perdure, name) is not None for name in NAMES)
    assert set(NAMES) <= set(dir(perdure))


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
