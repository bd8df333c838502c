"""docs/conformance.md, written from the marks of the tests: `python -m tests.conformance.table`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from perdure.reference import written_anew

from .marks import BINDINGS, Missing, Requirement

HERE = Path(__file__).resolve().parent
PAGE = HERE.parents[1] / "docs" / "conformance.md"
BEGIN, END = "<!-- written by `python -m tests.conformance.table` -->", "<!-- end -->"


@dataclass(frozen=True, slots=True)
class Row:
    """A requirement, the test of it, and where it does not hold yet."""

    requirement: Requirement
    test: str
    missing: tuple[Missing, ...]

    @property
    def place(self) -> tuple[bool, list[int], str]:
        """Sections of 1.0 first, each in the order of its numbers; MUST before SHOULD."""
        numbers = [
            int(number) for number in re.findall(r"\d+", self.requirement.section.removeprefix("0.3:"))
        ]
        return self.requirement.section.startswith("0.3:"), numbers, self.requirement.level

    def cell(self, binding: str) -> str:
        """Whether it holds in a binding."""
        if binding not in self.requirement.bindings:
            return ""
        return "not yet" if any(binding in each.bindings for each in self.missing) else "yes"

    def line(self) -> str:
        cells = [self.requirement.section, self.requirement.level, self.requirement.text]
        cells += [self.cell(binding) for binding in BINDINGS]
        return f"| {' | '.join([*cells, f'`{self.test}`'])} |"


def rows() -> list[Row]:
    """All requirements, in the order of the specification."""
    return sorted(_rows(), key=lambda row: row.place)


def _rows() -> Iterator[Row]:
    for path in sorted(HERE.glob("test_*.py")):
        module = import_module(f"{__package__}.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_") and test.__module__ == module.__name__:
                marks = getattr(test, "pytestmark", [])
                missing = tuple(mark.args[0] for mark in marks if mark.name == "not_yet")
                for mark in marks:
                    if mark.name == "requirement":
                        yield Row(mark.args[0], f"{path.stem}::{name}", missing)


def markdown() -> str:
    """The table."""
    head = ["section", "", "requirement", *BINDINGS, "test"]
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|", *(row.line() for row in rows())]
    return "\n".join(lines)


def with_table(document: str) -> str:
    """The document with the table written anew. ValueError if it has no place for it."""
    return written_anew(document, BEGIN, f"{markdown()}\n", END)


if __name__ == "__main__":
    PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
