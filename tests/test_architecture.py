"""Who may import whom: the contracts of pyproject.toml, and what they cannot say."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.support.processes import ROOT, finished

LINT = str(Path(sys.executable).parent / "lint-imports")


def test_the_import_contracts_hold() -> None:
    linted = finished([LINT, "--no-cache"], cwd=ROOT)
    assert linted.returncode == 0, linted.stdout + linted.stderr


def test_only_the_settings_read_the_environment() -> None:
    reads = re.compile(r"\bos\.environ\b|\bgetenv\b|\bfrom os import.*\benviron\b")
    sources = [path for folder in ("perdure", "api", "worker") for path in (ROOT / folder).rglob("*.py")]
    found = {
        str(path.relative_to(ROOT)) for path in sources if reads.search(path.read_text(encoding="utf-8"))
    }
    # The private servers are standard library only, and clean the environment of the servers that they start.
    assert found <= {"perdure/settings/environment.py", "perdure/local/server.py"}


def test_the_migrations_folder_is_no_package() -> None:
    """It would shadow the library of the same name."""
    assert not list((ROOT / "alembic").rglob("__init__.py"))


def test_the_architecture_page_names_what_there_is() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition("## Where things are")[2]
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "perdure").glob("[a-z]*.py")}
    there |= {
        f"{path.parent.relative_to(ROOT).as_posix()}/" for path in (ROOT / "perdure").glob("*/__init__.py")
    }
    cells = (line.split("|")[1] for line in table.splitlines() if line.startswith("| `"))
    named = {
        name
        if "/" in name.removesuffix("/") or not cell.lstrip().startswith("`perdure/")
        else f"perdure/{name}"
        for cell in cells
        for name in re.findall(r"`([^`]+)`", cell)
    }
    assert not there - named, "docs/architecture.md does not say what these hold"
    gone = {name for name in named if not any((ROOT / base / name).exists() for base in ("", "perdure"))}
    assert not gone, "docs/architecture.md names what is not there"
