"""What a test proves: `@must("3.1.1", "...")` names the section of the specification and says the requirement in our words.

The test runs in the bindings that are named, or in all; docs/conformance.md is written from these marks (`table.py`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest

RPC, REST = "1.0 JSON-RPC", "1.0 HTTP+JSON"
OLD, OLD_REST = "0.3 JSON-RPC", "0.3 HTTP+JSON"
BINDINGS = (RPC, REST, OLD, OLD_REST)
NEW = (RPC, REST)
BOTH_RPC = (RPC, OLD)
BOTH_REST = (REST, OLD_REST)
BOTH_OLD = (OLD, OLD_REST)


@dataclass(frozen=True, slots=True)
class Requirement:
    """One sentence of the specification. A section of 0.3.0 is written `0.3: 7.1`."""

    section: str
    level: str
    text: str
    bindings: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a requirement does not hold yet, and in which bindings."""

    reason: str
    bindings: tuple[str, ...]


def must(section: str, text: str, *bindings: str) -> pytest.MarkDecorator:
    """A MUST, a MUST NOT, a REQUIRED or a SHALL."""
    return pytest.mark.requirement(Requirement(section, "MUST", text, bindings or BINDINGS))


def should(section: str, text: str, *bindings: str) -> pytest.MarkDecorator:
    """A SHOULD, a SHOULD NOT or a RECOMMENDED."""
    return pytest.mark.requirement(Requirement(section, "SHOULD", text, bindings or BINDINGS))


def not_yet(reason: str, *bindings: str) -> pytest.MarkDecorator:
    """It fails, and has to: a test that begins to pass must lose this mark."""
    return pytest.mark.not_yet(Missing(reason, bindings or BINDINGS))


def agent(**config: object) -> pytest.MarkDecorator:
    """The config of the agent behind the front door."""
    return pytest.mark.agent(config)


def signed(kind: str) -> pytest.MarkDecorator:
    """The card is signed with a key of this kind (`tests.support.keys`), whose id is `key-1`."""
    return pytest.mark.signed(kind)


IN_ONE_LOOP = pytest.mark.asyncio(loop_scope="session")
"""The tests of this folder share the connections to Postgres, and with them the event loop."""
