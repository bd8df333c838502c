"""What operators ask for and there is not, against a real database."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli import app
from perdure.reference import describe
from perdure.settings import Settings

NOBODY = "00000000-0000-0000-0000-000000000000"


@pytest.fixture(autouse=True)
def database(monkeypatch: pytest.MonkeyPatch, database_url: str, tmp_path: Path) -> None:
    for row in describe(Settings()):
        monkeypatch.delenv(row.name, raising=False)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["contexts", "show", "ada", "talk"], "ada has no conversation talk"),
        (["webhooks", "attempts", NOBODY], f"there is no delivery {NOBODY}"),
        (["restore", "nowhere.sql"], "there is no file nowhere.sql"),
    ],
)
def test_what_is_not_there_is_one_line(command: list[str], says: str) -> None:
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert result.stderr.count("\n") == 1


def test_all_that_waits_may_be_sent_now_and_what_has_its_end_only_if_chosen() -> None:
    result = CliRunner().invoke(app, ["webhooks", "replay", "--state", "waiting"])
    assert (result.exit_code, result.stdout) == (0, "0 deliveries are sent now\n")
    assert CliRunner().invoke(app, ["webhooks", "replay", "--state", "failed"]).exit_code == 2
