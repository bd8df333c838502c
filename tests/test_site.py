"""The site: everything is on it, every link leads somewhere, and a reader's browser asks nobody else for anything."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from docs_site import errors
from docs_site.__main__ import build
from docs_site.check import problems
from docs_site.nav import navigation
from docs_site.stage import DeadLink, page_of, stage
from tests.support.processes import ROOT

DIFFS = [
    (page, block)
    for page in sorted((ROOT / "docs").glob("from-*.md"))
    for block in re.findall(r"^```diff\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
]


def test_the_site_is_whole_and_asks_nobody_else(tmp_path: Path) -> None:
    site = build(tmp_path / "docs")
    assert problems(site) == []
    pages = {path.relative_to(site).with_suffix("").as_posix() for path in site.rglob("*.html")}
    docs = {
        path.relative_to(ROOT / "docs").with_suffix("").as_posix() for path in (ROOT / "docs").rglob("*.md")
    }
    assert {name.replace("README", "index") for name in docs} <= pages
    assert "source/examples/with_langgraph.py" in pages
    assert not list(site.rglob("*.woff*"))


@pytest.mark.parametrize(
    ("html", "why"),
    [
        ('<a href="other.html">', "leads nowhere"),
        ('<a href="#there">', "has no such anchor"),
        ('<script src="https://cdn.example/x.js"></script>', "from elsewhere"),
        ('<script src="//cdn.example/x.js"></script>', "from elsewhere"),
        ('<link rel="stylesheet" href="https://fonts.example/css">', "from elsewhere"),
        ('<link rel="preconnect" href="https://fonts.example">', "from elsewhere"),
        ('<img src="https://badges.example/x.svg">', "from elsewhere"),
        ('<pre class="mermaid">', "from elsewhere"),
    ],
)
def test_what_is_wrong_with_a_site_is_seen(tmp_path: Path, html: str, why: str) -> None:
    (tmp_path / "index.html").write_text(
        f'<p id="here"><a href="#here"><a href="https://example.com/">{html}'
    )
    [problem] = problems(tmp_path)
    assert why in problem


def test_a_style_that_loads_a_font_from_elsewhere_is_seen(tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("<p>")
    (tmp_path / "a.css").write_text("@font-face { src: url(https://fonts.example/a.woff2) }")
    assert problems(tmp_path) == ["a.css: loads from elsewhere"]


def test_an_empty_site_is_no_site(tmp_path: Path) -> None:
    assert problems(tmp_path)


def test_a_link_out_of_the_docs_leads_to_a_page_that_shows_the_file(tmp_path: Path) -> None:
    root = _repository(tmp_path / "root", "See [the echo](../echo.py) and [more](sub/deep.md#x).")
    (root / "docs" / "sub").mkdir()
    (root / "docs" / "sub" / "deep.md").write_text(
        "[back](../page.md) [start](../../README.md#try) [out](../../echo.py)"
    )
    staged = tmp_path / "staged"
    pages = stage(staged, root)
    assert "source/echo.py.md" in pages
    assert (staged / "page.md").read_text() == "See [the echo](source/echo.py.md) and [more](sub/deep.md#x)."
    deep = (staged / "sub" / "deep.md").read_text()
    assert deep == "[back](../page.md) [start](../index.md#try) [out](../source/echo.py.md)"
    assert "print(1)" in (staged / "source" / "echo.py.md").read_text()


def test_a_link_to_what_is_not_there_stops_the_build(tmp_path: Path) -> None:
    with pytest.raises(DeadLink, match=r"docs/page\.md: \.\./gone\.py"):
        stage(tmp_path / "staged", _repository(tmp_path / "root", "[gone](../gone.py)"))


def _repository(root: Path, page: str) -> Path:
    (root / "docs").mkdir(parents=True)
    for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"):
        (root / name).write_text("# Title\n")
    (root / "docs" / "page.md").write_text(page)
    (root / "echo.py").write_text("print(1)\n")
    return root


def test_every_page_has_one_place_in_the_navigation() -> None:
    pages = [page_of(path.relative_to(ROOT).as_posix()) for path in (ROOT / "docs").rglob("*.md")]
    places = Counter(page for group in navigation([*pages, "new.md"]).values() for page in group)
    assert places == Counter([*pages, "new.md"])


def test_the_page_of_errors_is_made_of_the_errors() -> None:
    page = errors.PAGE.read_text()
    assert errors.with_tables(page) == page, "run: python -m docs_site.errors"


@pytest.mark.parametrize(("page", "diff"), DIFFS, ids=lambda value: getattr(value, "name", ""))
def test_what_a_guide_turns_an_agent_into_runs(page: Path, diff: str) -> None:
    before, after = (
        "".join(line[1:] for line in diff.splitlines(keepends=True) if line[0] in kept)
        for kept in (" -", " +")
    )
    compile(before, f"{page} before", "exec")
    names = {"__name__": "documentation"}
    exec(compile(after, f"{page} after", "exec"), names)  # noqa: S102 - our own pages
    assert "bindufy" in names


def test_every_guide_has_a_diff() -> None:
    assert len({page for page, _ in DIFFS}) == 3


def test_decisions_have_numbers_of_their_own_and_say_them() -> None:
    files = sorted((ROOT / "docs" / "decisions").glob("0*.md"))
    numbers = [path.name[:3] for path in files]
    assert len(set(numbers)) == len(numbers)
    for path in files:
        assert path.read_text().startswith(f"# {path.name[:3]}: "), path.name
