"""The first wall: the owner stands in every statement that a front door sends."""

from __future__ import annotations

import re
from importlib import import_module
from pkgutil import iter_modules

import pytest

from perdure.storage import postgres
from perdure.storage.postgres import moving, operator_statements, operators

_VERBS = re.compile(r"^\s*(?:WITH|SELECT|INSERT|UPDATE|DELETE)\b")
_OWNER_GIVEN = re.compile(
    r"\bowner = \$\d"  # in a WHERE
    r"|\(owner, [a-z_, ]+\)\s+VALUES \(\$\d"  # in a new row
    r"|AS (?:a|asked)\([^)]*\bowner\b[^)]*\)(?s:.*)\.owner = |AS a\([^)]*\bowner\b[^)]*\)(?s:.*)SELECT owner"  # of many
)

WITHOUT_OWNER = {
    # Of workers and sweeps, which serve all owners; a turn's statements are fenced by its claim.
    "CLAIM", "CLAIM_OF", "RENEW", "WRITE", "SETTLE", "RELEASE", "DIAGNOSE", "STORE_STEP", "STEPS",
    "RESCUE", "EXPIRE", "FORGET_KEYS", "STRANDED", "STRANDED_OF", "REDISPATCH", "BEAT", "FORGET_WORKER",
    "DUE", "PIECES", "FOLD", "DONE", "UNUSED", "FORGET_UNUSED",
    # Of workers that deliver webhooks, under the claim of a line; and of those who change the keys that secrets are sealed with.
    "HOLD", "RECORD", "END", "UNSEND", "LET_GO", "BLAME", "CLOSE", "EVENTS", "FORGET", "RESEAL_NEXT", "RESEAL",
    # Of sweeps and operators, who prune what has ended long ago, whoever owned it.
    "ENDED", "LOCK", "LOCK_WEBHOOKS", "FREE", "REFERENCED", "LOCK_CONTEXTS", "DELETE_CONTEXTS", "WEIGH", "TRIM", "FORGET_ACTIONS",
    "BEGIN", "GO_ON", "AGE",
    # Of callers and operators, by the conditions that are asked for: a caller's own are put in by `webhooks.filters`.
    "DELIVERIES", "REPLAY",
    # Of operators, who see which endpoints are in trouble.
    "ENDPOINTS",
    # Of operators, who make keys for all owners.
    "ADD_KEY", "LIST_KEYS", "ROTATE_KEY", "REVOKE_KEY",
    # Of front doors, about no owner's rows; and who a caller is, is known only when the key has been found.
    "WORKERS_ALIVE", "COUNT_WAITING", "OWNER_OF_KEY", "LOAD_KEY", "NOTE_KEY_USED",
    # Of front doors, for all who wait in the process: number and state of tasks that they have found by their owner before.
    "NOTICES",
}  # fmt: skip


def _statements() -> dict[str, str]:
    found = {}
    names = (each.name for each in iter_modules(postgres.__path__, postgres.__name__ + "."))
    for module in map(import_module, names):
        if module in (operators, operator_statements, moving):
            # Who operates sees all owners' tasks, as the workers' role.
            continue
        for name, value in vars(module).items():
            if name.isupper() and not name.startswith("_") and isinstance(value, str) and _VERBS.match(value):
                found[name] = value
    return found


STATEMENTS = _statements()


@pytest.mark.parametrize("name", STATEMENTS)
def test_the_owner_is_in_every_statement_of_a_caller(name: str) -> None:
    if name not in WITHOUT_OWNER:
        assert _OWNER_GIVEN.search(STATEMENTS[name]), (
            f"{name} has no owner: put it in the WHERE, or say in this test why it needs none"
        )


def test_exceptions_are_statements() -> None:
    assert set(STATEMENTS) >= WITHOUT_OWNER
