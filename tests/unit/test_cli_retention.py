"""`perdure prune` and `perdure import` say what is missing before they go anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli import app
from perdure.cli.retention import _rules
from perdure.retention.pruning import Rules
from perdure.settings import RetentionSettings
from perdure.tasks import TaskState


@pytest.fixture(autouse=True)
def _elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (["prune", "--yes"], "RETENTION__COMPLETED"),
        (["prune", "--older-than", "soon"], "no duration"),
        (["prune", "--older-than", "1d", "--state", "working"], "none of"),
        (["prune", "--older-than", "1d", "--archive", "away"], "is no folder"),
        (["import", "nothing.jsonl"], "is no file"),
        (["import"], "FILE"),
    ],
)
def test_wrong_usage_is_said(command: list[str], why: str) -> None:
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 2
    assert why in " ".join(result.stderr.replace("│", "").split())


def test_what_is_given_goes_before_the_settings() -> None:
    settings = RetentionSettings.model_validate({"completed": 10, "failed": 20, "events": 5})
    by_state = {TaskState.COMPLETED: 10.0, TaskState.FAILED: 20.0}
    assert _rules(settings, None, None) == Rules(by_state, events=5.0)
    assert _rules(settings, None, ["failed"]) == Rules({TaskState.FAILED: 20.0})
    assert _rules(settings, "1h", ["failed"]) == Rules({TaskState.FAILED: 3600.0})
    assert set(_rules(settings, "1h", None).ages.values()) == {3600.0}
    assert len(_rules(settings, "1h", None).ages) == 4
