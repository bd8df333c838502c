"""Looks at a built site: every link and anchor leads somewhere, and nothing is loaded from elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

_LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "video": "src", "object": "data"}
_LOADING_RELS = {"stylesheet", "preload", "preconnect", "modulepreload", "icon", "dns-prefetch"}


@dataclass
class Page(HTMLParser):
    """What a page links to, what it loads, and the anchors that it has."""

    links: set[str] = field(default_factory=set)
    loads: set[str] = field(default_factory=set)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        if "id" in given:
            self.anchors.add(given["id"])
        if "mermaid" in given.get("class", "").split():
            self.loads.add("//mermaid")  # the theme fetches what draws it
        if tag in _LOADING and _LOADING[tag] in given:
            self.loads.add(given[_LOADING[tag]])
        if tag == "link" and _LOADING_RELS & set(given.get("rel", "").split()):
            self.loads.add(given.get("href", ""))
        if tag == "a" and given.get("href"):
            self.links.add(given["href"])


def problems(site: Path) -> list[str]:
    """One line for each thing that is wrong, with the page that it is on."""
    pages = {path.resolve(): _read(path) for path in sorted(site.rglob("*.html"))}
    if not pages:
        return [f"{site} has no pages"]
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        wrong += [f"{name}: loads {url} from elsewhere" for url in sorted(page.loads) if _foreign(url)]
        shown = page.links | {url for url in page.loads if not _foreign(url)}
        # The page for what is not there is shown at any address: its links begin at the root.
        if path.name != "404.html":
            wrong += [f"{name}: {url} {why}" for url in sorted(shown) if (why := _dead(path, url, pages))]
    for style in sorted(site.rglob("*.css")):
        text = style.read_text(encoding="utf-8")
        if any(f"url({quote}{start}" in text for quote in ("", "'", '"') for start in ("http", "//")):
            wrong.append(f"{style.relative_to(site)}: loads from elsewhere")
    return wrong


def _read(path: Path) -> Page:
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def _foreign(url: str) -> bool:
    return bool(urlsplit(url).netloc)


def _dead(path: Path, url: str, pages: dict[Path, Page]) -> str:
    split = urlsplit(url)
    if split.scheme or split.netloc:
        return ""
    target = (path.parent / unquote(split.path)).resolve() if split.path else path
    target = target / "index.html" if target.is_dir() else target
    if target not in pages:
        return "" if target.is_file() else "leads nowhere"
    anchor = unquote(split.fragment)
    return "" if not anchor or anchor in pages[target].anchors else "has no such anchor"
