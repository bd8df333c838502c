"""What operators ask for and there is not, against a real database."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import pytest
from typer.testing import CliRunner

from perdure.cli import app
from perdure.cli.finding import line_row
from perdure.reference import describe
from perdure.settings import Settings
from perdure.storage.operators import TaskLine
from perdure.tasks import TaskState

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


@pytest.mark.parametrize(("state", "says"), [("failed", "worker lost: it died"), ("completed", "buy bread")])
def test_a_list_says_what_a_task_failed_of_unless_it_completed_in_spite_of_it(state: str, says: str) -> None:
    now = datetime.now(UTC)
    line = TaskLine(
        task_id=UUID(NOBODY),
        context_id="talk",
        owner="ada",
        state=TaskState(state),
        created_at=now,
        status_timestamp=now,
        due_at=now,
        attempt=2,
        failures=0,
        crashes=1,
        priority=0,
        parallel=False,
        limits={},
        holder="",
        lease_until=None,
        text="buy bread",
        error="worker lost: it died",
    )
    assert line_row(line)[-1] == says
