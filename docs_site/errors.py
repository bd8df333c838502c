"""The tables of docs/errors.md, made from the errors themselves. `python -m docs_site.errors` writes them anew."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

from api.auth.credentials import Refused
from api.codes import INTERNAL, Code, code_of
from docs_site.stage import ROOT
from perdure.errors import CallerError, ConfigError, PerdureError, TurnOutcome
from perdure.reference import written_anew

PAGE = ROOT / "docs" / "errors.md"
BEGIN, END = "<!-- errors: written by `python -m docs_site.errors` -->", "<!-- end of errors -->"
NOT_LISTED = (ConfigError, TurnOutcome, Refused)
"""Not of requests, or told as what it descends from: whether another module has loaded it must not matter."""


def with_tables(document: str) -> str:
    """The document with its tables of errors written anew. ValueError if it has no place for them."""
    return written_anew(document, BEGIN, markdown(), END)


def markdown() -> str:
    """What callers are told, then what handlers and Python programs meet."""
    lines = [
        "## What callers are told",
        "",
        "| reason | JSON-RPC | HTTP | status | what it means |",
        "| --- | --- | --- | --- | --- |",
        *(_told(kind) for kind in sorted(told(), key=_rank)),
        f"| {_cells(INTERNAL)} | Anything else. It has been logged; the text says no more than that. |",
        "",
        "## How a handler ends its turn",
        "",
        "Raised or returned: [Writing agents](agents.md#other-ends-of-a-turn).",
        "",
        "| raised | the task is then | meaning |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| `perdure.{kind.__name__}` | {_after(kind)} | {meaning(kind)} |"
        for kind in TurnOutcome.__subclasses__()
        if kind.__module__ == TurnOutcome.__module__  # an adapter's own are nobody's to raise
    ]
    lines += ["", "## In Python programs", "", "| in `perdure.errors` | meaning |", "| --- | --- |"]
    lines += [f"| `{kind.__name__}` | {meaning(kind)} |" for kind in _program()]
    return "\n".join(lines) + "\n"


def told() -> list[type[PerdureError]]:
    """Every error that has a code of its own, each once: one that only refines another is told as that one."""
    kinds = [kind for kind in _below(PerdureError) if not issubclass(kind, NOT_LISTED)]
    return [kind for kind in kinds if code_of(kind) is not INTERNAL and kind is not CallerError]


def meaning(kind: type[PerdureError]) -> str:
    """The first sentences of its docstring, for a cell of a table."""
    return re.sub(r"\s+", " ", (inspect.getdoc(kind) or "").partition("\n\n")[0]).replace("|", "\\|")


def _told(kind: type[PerdureError]) -> str:
    # The first sentence: what follows in a docstring is for those who raise it.
    return f"| {_cells(code_of(kind))} | {meaning(kind).partition('. ')[0].removesuffix('.')}. |"


def _cells(code: Code) -> str:
    return f"`{code.reason}` | {code.rpc} | {code.http} | `{code.status}`"


def _rank(kind: type[PerdureError]) -> tuple[int, str, str]:
    code: Code = code_of(kind)
    return code.http, code.reason, kind.__name__


def _program() -> list[type[PerdureError]]:
    names = {kind for kind in _below(PerdureError) if kind.__module__ == "perdure.errors"}
    apart = (CallerError, TurnOutcome)
    return [kind for kind in _below(PerdureError) if kind in names and not issubclass(kind, apart)]


def _after(kind: type[TurnOutcome]) -> str:
    return "`submitted`, then run again" if kind.__name__ == "Retry" else f"`{kind.state}`"


def _below(kind: type[PerdureError]) -> Iterator[type[PerdureError]]:
    """All that descend from it, each before those that descend from that."""
    for each in kind.__subclasses__():
        yield each
        yield from _below(each)


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
