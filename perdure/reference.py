"""The settings as text: `.env.example` and the table of docs/configuration.md. `python -m perdure.reference` writes both anew."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from perdure.settings import Row, Settings, describe

BEGIN, END = "<!-- settings: written by `python -m perdure.reference` -->", "<!-- end of settings -->"

_GROUPS = {
    "": "Which parts, and where",
    "STORAGE": "The database (times in seconds)",
    "WORKER": "Who runs turns (times in seconds)",
    "TURNS": "One run of a handler",
    "SERVER": "The front door",
    "LOG": "What is said on stderr",
}


def env_example() -> str:
    """A `.env` in which every setting stands, commented out, with its default."""
    lines = [
        "# Perdure's settings, each with its default. Copy this file to .env and take away the # of what you change.",
        "# The environment goes before this file. Written by `python -m perdure.reference`.",
    ]
    for title, rows in _grouped():
        lines += ["", f"# --- {title}"]
        for row in rows:
            allowed = f" ({row.allowed})" if row.allowed else ""
            lines += [f"# {row.description}{allowed}", f"#{row.name}={row.default}"]
    return "\n".join(lines) + "\n"


def markdown() -> str:
    """The tables of docs/configuration.md."""
    lines: list[str] = []
    for title, rows in _grouped():
        lines += [
            f"### {title}",
            "",
            "| setting | default | allowed | meaning |",
            "| --- | --- | --- | --- |",
        ]
        for row in rows:
            default = f"`{row.default}`" if row.default else ""
            lines.append(f"| `{row.name}` | {default} | {row.allowed} | {row.description} |")
        lines.append("")
    return "\n".join(lines)


def with_tables(document: str) -> str:
    """The document with what stands between `BEGIN` and `END` written anew. ValueError if they are not there."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"the document lacks {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{markdown()}\n{END}{after}"


def _grouped() -> Iterator[tuple[str, list[Row]]]:
    def group(row: Row) -> str:
        return row.name.partition("__")[0] if "__" in row.name else ""

    for name, rows in groupby(describe(Settings()), key=group):
        yield _GROUPS[name], list(rows)


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    (root / ".env.example").write_text(env_example(), encoding="utf-8")
    page = root / "docs" / "configuration.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
