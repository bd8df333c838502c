"""Failures that are the same for people have the same fingerprint."""

from __future__ import annotations

import pytest

from perdure.storage.fingerprints import fingerprint, normalised


@pytest.mark.parametrize(
    ("message", "told"),
    [
        ("no route to 10.0.0.1:443", "no route to <n>:<n>"),
        ("task 0190b4a0-1f2e-7c3d-8a9b-123456789abc is gone", "task <id> is gone"),
        ("<object at 0x7f22c2d88350>", "<object at <address>>"),
        ("commit 1f2e3d4c5b6a is missing", "commit <hex> is missing"),
        ("KeyError: 'ann'", "KeyError: <text>"),
        ("first line\nsecond line", "first line"),
        ("defaced facade", "defaced facade"),
        ("", ""),
    ],
)
def test_what_varies_is_left_out(message: str, told: str) -> None:
    assert normalised(message) == told


def test_the_class_is_part_of_it() -> None:
    assert fingerprint("A", "x 1") == fingerprint("A", "x 2")
    assert fingerprint("A", "x") != fingerprint("B", "x")
    assert len(fingerprint("A", "x")) == 16
