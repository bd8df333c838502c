"""The results as a table for people and as JSON."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from .results import Figure, Results


def table(results: Results) -> str:
    """Markdown: what was measured, then the targets."""
    return "\n".join([*_figures(results), "", *_checks(results), *_failures(results)])


def _figures(results: Results) -> Iterator[str]:
    yield "| work | who | median | spread | remark |"
    yield "| --- | --- | --- | --- | --- |"
    yield from map(_figure_row, results.figures)


def _figure_row(each: Figure) -> str:
    spread = f"±{each.spread:.0f} %" if len(each.values) > 1 else ""
    return f"| {each.work} | {each.subject} | {each.median:,.4g} {each.unit} | {spread} | {each.note} |"


def _checks(results: Results) -> Iterator[str]:
    yield "| target | wanted | measured | |"
    yield "| --- | --- | --- | --- |"
    for each in results.checks:
        yield f"| {each.target} | {each.wanted} | {each.measured} | {'met' if each.met else '**not met**'} |"


def _failures(results: Results) -> Iterator[str]:
    for each in results.failures:
        yield f"\nNot measured: {' '.join(each.split())[:300]}"


def save(results: Results, path: Path) -> None:
    """Write the JSON; what another run into the same file measured, and this one did not, stays."""
    before = json.loads(path.read_text()) if path.exists() else {"figures": [], "checks": []}
    figures = {(each["work"], each["subject"]): each for each in before["figures"]}
    figures |= {
        (each.work, each.subject): {**asdict(each), "median": each.median} for each in results.figures
    }
    checks = {each["target"]: each for each in before["checks"]}
    checks |= {each.target: asdict(each) for each in results.checks}
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {"machine": machine(), "figures": list(figures.values()), "checks": list(checks.values())}
    path.write_text(json.dumps(told, indent=1) + "\n")


def write_page(page: Path, path: Path) -> None:
    """Put the tables of an earlier run between the marks `<!-- targets -->` and `<!-- figures -->` of a page and their ends."""
    told = json.loads(path.read_text())
    put(page, "targets", _target_rows(told))
    put(page, "figures", _figure_rows(told))


def put(page: Path, mark: str, rows: Iterable[str]) -> None:
    """Put these lines between `<!-- mark -->` and its end on a page."""
    head, begin, rest = page.read_text().partition(f"<!-- {mark} -->\n")
    _, end, tail = rest.partition(f"<!-- /{mark} -->")
    if not begin or not end:
        raise SystemExit(f"{page} has no place for the {mark}: <!-- {mark} --> and <!-- /{mark} -->")
    page.write_text("".join([head, begin, "\n".join(rows), "\n", end, tail]))


def _target_rows(told: dict[str, Any]) -> Iterator[str]:
    yield "| target | wanted | measured | |"
    yield "| --- | --- | --- | --- |"
    for each in told["checks"]:
        met = "met" if each["met"] else "**not met**"
        yield f"| {each['target']} | {each['wanted']} | {each['measured']} | {met} |"


def _figure_rows(told: dict[str, Any]) -> Iterator[str]:
    yield "| work | who | median | spread | remark |"
    yield "| --- | --- | --- | --- | --- |"
    for each in told["figures"]:
        figure = Figure(each["work"], each["subject"], each["unit"], tuple(each["values"]), each["note"])
        yield _figure_row(figure)


def machine() -> dict[str, str | int | None]:
    """What it ran on."""
    return {"cores": os.cpu_count(), "python": platform.python_version(), "system": platform.system()}
