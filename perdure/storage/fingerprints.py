"""Failures that differ only in numbers, ids and quoted words get the same fingerprint, so that a hundred of them are one line."""

from __future__ import annotations

import re
from hashlib import sha256

LONGEST = 500
"""Characters of a message that are kept."""

_WHAT_VARIES = (
    (re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", re.IGNORECASE), "<id>"),
    (re.compile(r"\b0x[0-9a-f]+\b", re.IGNORECASE), "<address>"),
    (re.compile(r"\b(?=[a-z]*\d)[0-9a-f]{8,}\b", re.IGNORECASE), "<hex>"),
    (re.compile(r"'[^'\n]{1,200}'|\"[^\"\n]{1,200}\""), "<text>"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "<n>"),
)


def normalised(message: str) -> str:
    """The first line of a message without what varies from one failure to the next."""
    line = message.strip().partition("\n")[0][:LONGEST]
    for pattern, name in _WHAT_VARIES:
        line = pattern.sub(name, line)
    return line


def fingerprint(error_class: str, message: str) -> str:
    """16 hexadecimal digits."""
    return sha256(f"{error_class}\n{normalised(message)}".encode()).hexdigest()[:16]
