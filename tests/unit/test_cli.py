"""The `perdure` command: what it prints, and the exit codes that its help promises."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

import perdure
from perdure.cli import app
from perdure.cli.options import EXIT_CODES
from perdure.reference import describe, env_example
from perdure.settings import Settings
from tests.support.processes import PERDURE, ROOT, finished, surroundings

DATABASE = "postgresql://user:hunter2@127.0.0.1:1/none"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for row in describe(Settings()):
        monkeypatch.delenv(row.name, raising=False)
    monkeypatch.chdir(tmp_path)


def ran(*arguments: str, **settings: str) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a real process in an empty folder."""
    result = finished([PERDURE, *arguments], cwd=Path.cwd(), env=surroundings(**settings))
    return result.returncode, result.stdout, result.stderr


def test_what_a_command_does_is_whole_in_the_list_of_commands() -> None:
    def cut(command: Any, path: str) -> list[str]:
        inner = getattr(command, "commands", {})
        width = 72 - max(map(len, inner), default=0)
        found = [
            f"{path} {name}" for name, each in inner.items() if each.get_short_help_str(width).endswith("...")
        ]
        return found + [line for name, each in inner.items() for line in cut(each, f"{path} {name}")]

    assert cut(typer.main.get_command(app), "perdure") == []


def test_every_command_explains_itself_and_its_exit_codes() -> None:
    runner = CliRunner()
    help_text = " ".join(runner.invoke(app, ["--help"]).stdout.split())
    for command in ("serve", "worker", "up", "migrate", "settings", "version"):
        assert command in help_text
    assert EXIT_CODES in help_text
    for arguments in (["serve"], ["worker"], ["up"], ["settings"], ["migrate", "upgrade"]):
        result = runner.invoke(app, [*arguments, "--help"])
        assert result.exit_code == 0
        assert EXIT_CODES in " ".join(result.stdout.split())


# Those that run until they are stopped, that print JSON anyway, and the list of migrations in Alembic's words.
WITHOUT_JSON = {"serve", "worker", "up", "top", "card", "tasks export", "migrate history"}


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    """The commands that do something, with their names."""
    if not (inner := getattr(command, "commands", {})):
        yield " ".join(path), command
    for name, each in inner.items():
        yield from leaves(each, (*path, name))


def test_what_prints_something_prints_it_for_programs_too() -> None:
    commands = dict(leaves(typer.main.get_command(app)))
    without = {
        name for name, each in commands.items() if not any("--json" in given.opts for given in each.params)
    }
    assert without == WITHOUT_JSON


def test_version() -> None:
    for argument in ("version", "--version"):
        assert CliRunner().invoke(app, [argument]).stdout == f"perdure {perdure.__version__}\n"
    assert json.loads(CliRunner().invoke(app, ["version", "--json"]).stdout) == {
        "version": perdure.__version__
    }


@pytest.mark.parametrize(
    "address", ["localhost:3773", "agent.example.com", "http://", "http://host:port", "ftp://a"]
)
def test_what_is_no_address_is_not_tried(address: str) -> None:
    for command in (["send", "hi"], ["tasks", "tail", "x"]):
        code, out, err = ran(*command, "--to", address)
        assert (code, out) == (2, "")
        assert "is no address" in err


def test_wrong_usage_is_2() -> None:
    assert CliRunner().invoke(app, ["serve", "--prot", "1"]).exit_code == 2
    assert CliRunner().invoke(app, ["up", "x.py", "--workers", "0"]).exit_code == 2


def test_settings_tells_all_of_them_but_no_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STORAGE_TYPE", "postgres")
    monkeypatch.setenv("DATABASE_URL", DATABASE)
    printed = CliRunner().invoke(app, ["settings"]).stdout
    assert [line.split()[0] for line in printed.splitlines()] == [row.name for row in describe(Settings())]
    assert "postgresql://***@127.0.0.1:1/none" in printed
    as_json = json.loads(CliRunner().invoke(app, ["settings", "--json"]).stdout)
    assert as_json["STORAGE_TYPE"]["source"] == "environment"
    assert as_json["STORAGE__POOL_SIZE"]["default"] == "10"
    assert "hunter2" not in printed + json.dumps(as_json)


def test_settings_example_is_a_dotenv() -> None:
    assert CliRunner().invoke(app, ["settings", "--example"]).stdout == env_example()


@pytest.mark.parametrize(
    ("arguments", "settings", "line"),
    [
        (["settings"], {"DATABSE_URL": "x"}, "DATABSE_URL is not a setting; did you mean DATABASE_URL?"),
        (["serve"], {}, "which agent? give a file's path or module:attribute, or set AGENT"),
        (["serve", "missing.py"], {}, "there is no file"),
        (["worker", "missing.py"], {}, "a worker needs STORAGE_TYPE=postgres"),
        (["serve", "x.py"], {"QUEUE_TYPE": "arq"}, "QUEUE_TYPE=arq is set, but STORAGE_TYPE is memory"),
        (["up", "missing.py"], {}, "there is no file"),
        (["migrate", "upgrade"], {}, "STORAGE_TYPE=postgres needs DATABASE_URL"),
        (["top"], {}, "perdure top needs a terminal"),
        (
            ["migrate", "current"],
            {"DATABASE_URL": "nonsense"},
            "DATABASE_URL: an address must start with postgresql://",
        ),
    ],
)
def test_what_cannot_work_is_one_line_and_2(
    arguments: list[str], settings: dict[str, str], line: str
) -> None:
    code, out, err = ran(*arguments, **settings)
    assert (code, out) == (2, "")
    assert err.startswith(f"perdure: {line}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "command", [["serve", str(ROOT / "examples" / "echo.py"), "--port", "0"], ["migrate", "upgrade"]]
)
def test_a_database_that_is_away_is_one_line_and_1(command: list[str]) -> None:
    code, _, err = ran(
        *command,
        STORAGE_TYPE="postgres",
        DATABASE_URL=DATABASE,
        STORAGE__STARTUP_TIMEOUT="0",
        STORAGE__CONNECT_TIMEOUT="1",
    )
    last = err.splitlines()[-1]
    assert code == 1
    assert last.startswith("perdure: ")
    assert "Traceback" not in err
    assert "hunter2" not in err


def test_migrations_up_down_and_where_they_are(empty_database_url: str) -> None:
    at = {"DATABASE_URL": empty_database_url}
    assert ran("migrate", "current", **at)[:2] == (0, "none: run `perdure migrate upgrade`\n")
    code, out, err = ran("migrate", "upgrade", **at)
    assert code == 0, err
    assert out.startswith("the schema is at revision ")
    head = out.split()[-1]
    assert ran("migrate", "current", **at)[:2] == (0, f"{head}\n")
    assert json.loads(ran("migrate", "current", "--json", **at)[1]) == {"revision": head}
    assert head in ran("migrate", "history")[1]
    assert ran("migrate", "check", **at)[0] == 0
    assert ran("migrate", "downgrade", "base", **at)[:2] == (0, "the schema is at revision base\n")
    code, _, err = ran("migrate", "upgrade", "nonsense", **at)
    assert code == 2
    assert err.splitlines()[-1].startswith("perdure: ")
    assert "Traceback" not in err
