"""The fixtures for pytest, in runs of pytest as authors have them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT, surroundings

AGENT = """
from perdure import bindufy
agent = bindufy({"name": "shout"}, lambda messages: messages[-1]["content"].upper())
"""
TESTS = """
from perdure.testing import assert_completed

def test_one_turn(run_agent):
    assert run_agent("hello", attempt=2).text == "HELLO"

def test_a_task(perdure_harness):
    assert_completed(perdure_harness.send("hello"), "HELLO")
"""


def pytest_in(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(
        command, cwd=folder, env=surroundings(), capture_output=True, text=True, check=False, timeout=50
    )


@pytest.mark.parametrize("named", ["my_agent.py", "my_agent.py:agent", "my_agent:agent"])
def test_the_agent_is_named_in_the_configuration(tmp_path: Path, named: str) -> None:
    (tmp_path / "my_agent.py").write_text(AGENT)
    (tmp_path / "test_it.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text(f"[pytest]\nperdure_agent = {named}\n")
    ran = pytest_in(tmp_path)
    assert "2 passed" in ran.stdout, ran.stdout + ran.stderr


def test_an_agent_that_is_not_named_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(TESTS)
    ran = pytest_in(tmp_path)
    assert "Set perdure_agent in pytest's configuration" in ran.stdout, ran.stdout + ran.stderr
    assert "2 errors" in ran.stdout


def test_the_example_with_tests(tmp_path: Path) -> None:
    ran = pytest_in(tmp_path, str(ROOT / "examples" / "test_order.py"))
    assert "4 passed" in ran.stdout, ran.stdout + ran.stderr


def test_a_failure_points_at_the_line_of_the_test(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "from perdure.testing import assert_asked, run_sync\n"
        "def test_it():\n"
        "    assert_asked(run_sync(lambda messages: 'rain', 'go'))\n"
    )
    ran = pytest_in(tmp_path, "--tb=short")
    assert "E   AssertionError: the task should be input-required, and is completed" in ran.stdout
    assert "asserts.py" not in ran.stdout


def test_pytest_starts_without_what_costs_time(tmp_path: Path) -> None:
    """Every run of pytest loads the plugin, also those that have nothing to do with Perdure."""
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import perdure.pytest_plugin"],
        cwd=tmp_path, capture_output=True, text=True, check=True, env=surroundings(),
    )  # fmt: skip
    imported = {line.rpartition("|")[2].strip() for line in ran.stderr.splitlines() if "|" in line}
    assert "pytest" in imported
    assert not imported & {"pydantic", "structlog", "perdure.agent", "perdure.testing"}
