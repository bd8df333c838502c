"""docs/conformance.md is what the tests say."""

from __future__ import annotations

from collections import Counter
from importlib import import_module

from .table import HERE, PAGE, rows, with_table


def test_the_page_is_up_to_date() -> None:
    document = PAGE.read_text(encoding="utf-8")
    assert with_table(document) == document, "run `python -m tests.conformance.table`"


def test_every_test_names_its_requirement() -> None:
    named = Counter(row.test for row in rows())
    for path in HERE.glob("test_*.py"):
        if path.stem == "test_table":
            continue
        module = import_module(f"{__package__}.{path.stem}")
        for name, test in vars(module).items():
            if name.startswith("test_") and test.__module__ == module.__name__:
                assert named[f"{path.stem}::{name}"] == 1, name
