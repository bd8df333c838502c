"""The documentation is true: its code runs, its charts and tables are those of the code, its links lead somewhere."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest
import typer

from perdure.cli import app
from perdure.reference import shown
from perdure.settings import fields
from perdure.tasks import TRANSITIONS
from tests.support.processes import PERDURE, ROOT, Server, serving, surroundings, text_of

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def rows(page: Path) -> list[list[str]]:
    """The cells of all tables of a page."""
    lines = [line for line in page.read_text().splitlines() if line.startswith("|") and "---" not in line]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("echo")
    command = [PERDURE, "serve", str(ROOT / "examples" / "echo.py"), "--port", "0"]
    with serving(command, cwd=folder, env=surroundings(LOG__FORMAT="json")) as server:
        yield server


def test_every_command_is_on_its_page() -> None:
    page = (ROOT / "docs" / "cli.md").read_text()
    told = set(re.findall(r"[a-z-]+", " ".join(re.findall(r"`([^`]+)`", page))))
    assert commands(typer.main.get_command(app)) <= told


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_that_are_told_exist(page: Path) -> None:
    """`perdure ...` and `make ...` at the beginning of a line of shell, or alone between backticks."""
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`((?:perdure|make) [^`]+)`", page.read_text())
    targets = set(re.findall(r"^([.a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    names = {child.name for child in getattr(typer.main.get_command(app), "commands", {}).values()}
    for line in lines:
        program, _, rest = line.removeprefix(".venv/bin/").partition(" ")
        name = re.match(r"[.a-z-]+", rest)
        if name and not name[0].startswith("-"):
            assert name[0] in {"perdure": names, "make": targets}.get(program, {name[0]}), line


@pytest.mark.parametrize("name", ["runbook.md", "deploy.md"])
def test_the_commands_to_type_in_an_emergency_are_taken_as_they_stand(name: str) -> None:
    """With their options: nobody looks them up at night. Capitals stand for what is to be put in."""
    page = ROOT / "docs" / name
    lines = [line for block in blocks(page, "sh") for line in block.splitlines()]
    lines += re.findall(r"`(perdure [^`]+)`", page.read_text())
    asked = [found[1] for line in lines if (found := re.match(r"(?:[A-Z_]+=\S+ )?(perdure .*)", line))]
    assert len(asked) > 3
    for line in asked:
        _, *words = shlex.split(line.partition("  #")[0])
        command: Any = typer.main.get_command(app)
        while hasattr(command, "commands"):
            command = command.commands[words.pop(0)]
        given = [str(UUID(int=1)) if word in ("ID", "TASK") else word for word in words]
        command.make_context(command.name, given).close()


def commands(group: Any) -> set[str]:
    """The names of a command and all below it."""
    return {
        name for child in getattr(group, "commands", {}).values() for name in {child.name, *commands(child)}
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_run(page: Path) -> None:
    for code in blocks(page, "python"):
        exec(compile(code, str(page), "exec"), {"__name__": "documentation"})  # noqa: S102 - our own pages


def test_the_readmes_agent_is_the_example() -> None:
    assert blocks(ROOT / "README.md", "python")[0] == (ROOT / "examples" / "echo.py").read_text()


def curled(command: str, server: Server) -> str:
    """What lines of shell with curl print, run as they stand but for the address."""
    assert "localhost:3773" in command
    here = command.replace("localhost:3773", server.url.removeprefix("http://").rstrip("/"))
    return subprocess.run(["bash", "-c", here], capture_output=True, text=True, check=True, timeout=50).stdout


@pytest.mark.parametrize("page", ["README.md", "docs/quickstart.md"])
def test_the_first_curl_answers(page: str, echo: Server) -> None:
    [command] = [block for block in blocks(ROOT / page, "sh") if block.startswith("curl")]
    answer = json.loads(curled(command, echo))
    assert answer["result"]["task"]["artifacts"][0]["parts"] == [{"text": "hello"}]


def test_the_curl_with_an_idempotency_key_may_be_repeated(echo: Server) -> None:
    [command] = [block for block in blocks(ROOT / "docs" / "api.md", "sh") if block.startswith("curl")]
    first, again = (json.loads(curled(command, echo)) for _ in range(2))
    assert first["task"]["status"]["state"] == "TASK_STATE_COMPLETED"
    assert again["task"]["id"] == first["task"]["id"]


@pytest.mark.parametrize(
    ("example", "told"),
    [
        ("ask", "Which city?"),
        ("skills", '"result"'),
        ("slow", "Done after 0 s."),
        ("streaming", '"completed"'),
    ],
)
def test_the_curl_in_an_example_answers(example: str, told: str, tmp_path: Path) -> None:
    path = ROOT / "examples" / f"{example}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    [command] = re.findall(r"^curl .*?'$", text, re.MULTILINE | re.DOTALL)
    serve = [PERDURE, "serve", str(path), "--port", "0"]
    with serving(serve, cwd=tmp_path, env=surroundings(LOG__FORMAT="json")) as server:
        said = curled(command.replace('"20"', '"0"'), server)  # slow.py works for so many seconds
    assert told in said
    assert '"error"' not in said


def test_the_requests_of_the_api_pages_are_answered(echo: Server) -> None:
    task = echo.send("hello")
    assert text_of(task) == "hello"
    written = [block for page in ("api.md", "extension.md") for block in blocks(ROOT / "docs" / page, "json")]
    assert len(written) > 4
    for block in written:
        request = block.replace("<task id>", task["id"]).replace("<context id>", task["contextId"])
        assert "result" in httpx.post(echo.url, json=json.loads(request)).json(), request


def test_the_state_chart_is_the_state_machine() -> None:
    [chart] = blocks(ROOT / "docs" / "architecture.md", "mermaid")
    drawn = set(re.findall(r"^ +(\S+) --> (\S+)$", chart, re.MULTILINE))
    arrows = {(str(before), str(after)) for before, afters in TRANSITIONS.items() for after in afters}
    ends = {(str(state), "[*]") for state in TRANSITIONS if state.terminal}
    assert drawn == arrows | ends | {("[*]", "submitted")}


def test_the_tests_that_are_named_exist() -> None:
    """`tests/folder/test_file.py::test_name` in a table names a test; without the name, a file."""
    named = [
        name
        for page in PAGES
        for row in rows(page)
        for cell in row
        for name in re.findall(r"`(tests/[^`]+)`", cell)
    ]
    assert len(named) > 20
    for name in named:
        file, _, test = name.partition("::")
        tree = ast.parse((ROOT / file).read_text())
        functions = {
            node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        assert not test or test in functions, name


def test_every_limit_is_in_the_page_of_limits_with_its_default() -> None:
    """Those that are called a limit; the page may have more."""
    told = {row[0].strip("`"): row[1] for row in rows(ROOT / "docs" / "limits.md")}
    limits = {
        name: shown(field.default) for name, _, field in fields() if re.match(r"(SERVER|TURNS)__MAX_", name)
    }
    retries = {"TURNS__MAX_FAILURES", "TURNS__MAX_CRASHES"}
    assert {name: told.get(name) for name in limits if name not in retries} == {
        name: default for name, default in limits.items() if name not in retries
    }
    defaults = {name: shown(field.default) or "none" for name, _, field in fields()}
    assert {name: told[name] for name in told if "__" in name} == {
        name: defaults[name] for name in told if "__" in name
    }


def test_every_fault_names_its_tests() -> None:
    tables = [row for row in rows(ROOT / "docs" / "faults.md") if row[0] != "fault"]
    assert len(tables) > 20
    for row in tables:
        assert len(row) == 5, row
        assert all(row), row
        assert "`tests/" in row[-1], row


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target
