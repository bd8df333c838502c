"""The settings as text: what is in effect, `.env.example` and the table of docs/configuration.md.

`python -m perdure.reference` writes the last two anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import urlsplit

from pydantic import SecretStr
from pydantic.fields import FieldInfo

from perdure.settings import Settings, fields, sources

BEGIN, END = "<!-- settings: written by `python -m perdure.reference` -->", "<!-- end of settings -->"

_GROUPS = {
    "": "Which parts, and where",
    "OTEL": "Traces: OpenTelemetry's own variables (docs/tracing.md)",
    "STORAGE": "The database (times in seconds)",
    "WORKER": "Who runs turns (times in seconds)",
    "TURNS": "One run of a handler",
    "SERVER": "The front door",
    "WEBHOOKS": "Push notifications (times in seconds)",
    "RETENTION": "How long what has ended is kept (times in seconds)",
    "AUTH": "Who may call",
    "CARD": "The signed agent card",
    "OPS": "The operators' page",
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
    """The document with its tables of settings written anew. ValueError if it has no place for them."""
    return written_anew(document, BEGIN, markdown(), END)


def written_anew(document: str, begin: str, tables: str, end: str) -> str:
    """The document with these tables between the two lines. ValueError if they are not there."""
    before, begins, rest = document.partition(begin)
    _, ends, after = rest.partition(end)
    if not (begins and ends):
        raise ValueError(f"the document lacks {begin} or {end}")
    return f"{before}{begin}\n\n{tables}\n{end}{after}"


def _grouped() -> Iterator[tuple[str, list[Row]]]:
    def group(row: Row) -> str:
        if row.name.startswith("OTEL_"):
            return "OTEL"
        return row.name.partition("__")[0] if "__" in row.name else ""

    for name, rows in groupby(describe(Settings()), key=group):
        yield _GROUPS[name], list(rows)


# ---------------------------------------------------------------------- one by one


@dataclass(frozen=True, slots=True)
class Row:
    """One setting. `value` is safe to print; `source` is environment, .env, default or argument."""

    name: str
    value: str
    default: str
    allowed: str
    description: str
    source: str


def describe(settings: Settings) -> list[Row]:
    """Every setting with its effective value: of an address the host and the database, never who and the password."""
    given = sources()
    rows = []
    for name, group, field in fields():
        value = getattr(getattr(settings, group) if group else settings, _member(name))
        source = given.get(name, "default" if value == field.default else "argument")
        rows.append(
            Row(name, shown(value), shown(field.default), _allowed(field), field.description or "", source)
        )
    return rows


def shown(value: Any) -> str:
    """A value as one would write it into the environment, secrets masked; empty for none."""
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        secret = value.get_secret_value()
        return _masked(secret) if "://" in secret else "***"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _masked(url: str) -> str:
    """Scheme, host, port and path; of what is no address nothing. The query may hold a password too; an `@` in the wrong place
    means that a password with a special character was not encoded, and then nobody knows where it ends."""
    try:
        split = urlsplit(url)
    except ValueError:
        return "***"
    if "://" not in url:  # a key, a token
        return "***"
    user, at, host = split.netloc.rpartition("@")
    if "@" in split.path + split.query + split.fragment:
        return "***"
    path = "" if split.scheme in ("http", "https") else split.path  # that of a webhook may be its key
    return f"{split.scheme}://{'***' if user else ''}{at}{host}{path}"


def _member(name: str) -> str:
    return name.rpartition("__")[2].lower()


def _allowed(field: FieldInfo) -> str:
    """`memory, postgres`, `1 to 1000`, `above 0`; empty where the description says it all."""
    if get_origin(field.annotation) is Literal:
        return ", ".join(get_args(field.annotation))
    if field.annotation is bool:
        return "true, false"
    limits = {
        name: getattr(rule, name)
        for rule in field.metadata
        for name in ("gt", "ge", "le")
        if hasattr(rule, name)
    }
    match limits:
        case {"ge": least, "le": most}:
            return f"{least} to {most}"
        case {"ge": least}:
            return f"from {least}"
        case {"gt": least}:
            return f"above {least}"
    return ""


if __name__ == "__main__":
    root = Path(__file__).resolve().parents[1]
    (root / ".env.example").write_text(env_example(), encoding="utf-8")
    page = root / "docs" / "configuration.md"
    page.write_text(with_tables(page.read_text(encoding="utf-8")), encoding="utf-8")
