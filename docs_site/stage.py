"""Puts the site's pages together in a folder: docs/, the README and its like, and whatever files they link to.

In the repository a page links to what lies beside it, as `../examples/echo.py`. A site ends at its root: a link that leaves
docs/ leads to a page here that shows that file.
"""

from __future__ import annotations

import posixpath
import re
import shutil
from pathlib import Path, PurePosixPath

from docs_site.nav import SOURCES, navigation

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "reporting.md",
}
IMAGES = (".png", ".svg")
_LINK = re.compile(r"(\]\()([^)#\s]+)((?:#[^)\s]*)?\))")
_LANGUAGES = {".py": "python", ".yml": "yaml", ".yaml": "yaml", ".json": "json", ".toml": "toml"}


class DeadLink(Exception):
    """A page links to what is not there."""


def stage(folder: Path, root: Path = ROOT) -> list[str]:
    """Writes the pages into `folder` and gives their paths below it. DeadLink."""
    waiting = [
        *OUTSIDE,
        *(path.relative_to(root).as_posix() for path in sorted((root / "docs").rglob("*.md"))),
    ]
    done: dict[str, str] = {}
    while waiting:
        source = waiting.pop()
        if source not in done:
            done[source] = page_of(source)
            written = folder / done[source]
            written.parent.mkdir(parents=True, exist_ok=True)
            if Path(source).suffix in IMAGES:
                shutil.copyfile(root / source, written)
                continue
            text, links = _page(source, root)
            waiting += links
            written.write_text(text, encoding="utf-8")
    return sorted(page for page in done.values() if page.endswith(".md"))


def page_of(source: str) -> str:
    """The page, below the site's root, for a file, below the repository's root."""
    path = PurePosixPath(source)
    if source in OUTSIDE:
        return OUTSIDE[source]
    if path.parts[0] == "docs" and path.suffix in {".md", *IMAGES}:
        return PurePosixPath(*path.parts[1:]).as_posix()
    return f"{SOURCES}{source.lstrip('.')}.md"


def _page(source: str, root: Path) -> tuple[str, list[str]]:
    """A page's text with its links turned to other pages, and the files that these are made of."""
    text = (root / source).read_text(encoding="utf-8")
    if not source.endswith(".md"):
        return f"# {source}\n\n```{_LANGUAGES.get(Path(source).suffix, '')}\n{text}```\n", []
    here, links = page_of(source), []

    def turned(link: re.Match[str]) -> str:
        before, target, after = link.groups()
        if "://" in target:
            return link[0]
        file = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
        if not (root / file).is_file():
            raise DeadLink(f"{source}: {target} is no file of the repository")
        links.append(file)
        return before + posixpath.relpath(page_of(file), posixpath.dirname(here) or ".") + after

    # As text: the generator's page would fetch what draws it from elsewhere.
    return _LINK.sub(turned, text).replace("```mermaid\n", "```text\n"), links


def configure(folder: Path, pages: list[str], root: Path = ROOT) -> Path:
    """The generator's configuration beside the pages: ours and the navigation of what is there."""
    text = (root / "docs_site" / "zensical.toml").read_text(encoding="utf-8")
    groups = [f"  {{ {_quoted(title)} = [{_list(named)}] }}," for title, named in navigation(pages).items()]
    written = folder / "zensical.toml"
    nav = "nav = [\n" + "\n".join(groups) + "\n]\n"
    written.write_text(text.replace("[project]\n", f"[project]\n{nav}", 1), encoding="utf-8")
    return written


def _list(pages: list[str]) -> str:
    return ", ".join(_quoted(page) for page in pages)


def _quoted(text: str) -> str:
    return f'"{text}"'
