"""Send so many bad requests, half of them over HTTP+JSON, half over JSON-RPC; then look into the database."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable

from tests.fuzz.consistency import wrong
from tests.fuzz.requests import message, rpc, written
from tests.fuzz.served import Served, served


@dataclass
class Report:
    """What was sent and what came of it."""

    rest: int = 0
    rpc: int = 0
    seconds: float = 0.0
    slowest: tuple[float, str] = (0.0, "")
    statuses: Counter[str] = field(default_factory=Counter)
    codes: Counter[str] = field(default_factory=Counter)
    wrong: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    @property
    def defects(self) -> int:
        return len(self.errors) + len(self.wrong)

    def __str__(self) -> str:
        answers = ", ".join(f"{status}: {number}" for status, number in sorted(self.statuses.items()))
        codes = ", ".join(f"{code}: {number}" for code, number in sorted(self.codes.items()))
        lines = [
            f"{self.rest} requests over HTTP+JSON and {self.rpc} over JSON-RPC in {self.seconds:.0f} s",
            f"the slowest answer took {self.slowest[0]:.2f} s: {self.slowest[1]}",
            f"answers by status: {answers}",
            f"errors by code: {codes}",
            *(f"LOGGED {line.strip()}" for line in self.errors),
            *(f"WRONG {what}: {', '.join(rows[:5])}" for what, rows in self.wrong.items()),
        ]
        return "\n".join(lines)


def run(folder: Path, database_url: str, *, inputs: int, number: int) -> Report:
    """`number` is the seed. AssertionError, with the smallest request that shows it, for an answer that is not as it must be."""
    report, began = Report(), time.monotonic()
    with served(folder, database_url) as door:
        _begin(door)
        _over_rest(door, inputs // 2, number)
        report.rest = door.asked
        _over_rpc(door, inputs - inputs // 2, number)
        report.rpc = door.asked - report.rest
        report.slowest, report.statuses, report.codes = door.slowest, door.statuses, door.errors_told
    report.errors = door.errors()
    report.wrong = asyncio.run(wrong(database_url))
    report.seconds = time.monotonic() - began
    return report


def _begin(door: Served) -> None:
    """A task that is done, one that waits for its caller and one that waits for its time."""
    for text, metadata in (("done", {}), ("why?", {}), ("later", {"perdure": {"notBefore": 3600}})):
        said = message(parts=[{"text": text}], metadata=metadata)
        door.ask("POST", "/message:send", written({"message": said}), {"Content-Type": "application/json"})
    assert len(door.tasks) == 3


def _given(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )


# ---------------------------------------------------------------------- over HTTP+JSON


def _over_rest(door: Served, inputs: int, number: int) -> None:
    """Requests that the served document does not allow, for each of its operations; some of them for tasks that are there."""
    schema = schemathesis.openapi.from_url(f"{door.url}/openapi.json")
    found: Any = list(schema.get_all_operations())
    operations = [each.ok() for each in found if each.ok().path not in WITHOUT_INPUT]
    for operation in operations:
        _try(door, operation, -(-inputs // len(operations)), number)


WITHOUT_INPUT = ("/.well-known/agent-card.json", "/.well-known/jwks.json", "/healthz", "/readyz")


def _try(door: Served, operation: Any, examples: int, number: int) -> None:
    known = st.none() | st.sampled_from(door.tasks[-20:])

    @seed(number)
    @_given(examples)
    @given(operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE), known)
    def ask(case: schemathesis.Case[Any], task_id: str | None) -> None:
        for name in ("id", "taskId"):
            if task_id and name in (case.path_parameters or {}):
                case.path_parameters[name] = task_id
        prepared = requests.Request(**case.as_transport_kwargs(base_url=door.url)).prepare()
        body: Any = prepared.body or b""
        with suppress(httpx.LocalProtocolError):  # not even a client would send it
            door.ask(
                operation.method.upper(),
                prepared.path_url,
                body.encode() if isinstance(body, str) else body,
                {name: _text(value) for name, value in prepared.headers.items() if name != "Content-Length"},
            )

    try:
        ask()
    except Unsatisfiable as error:
        raise AssertionError(
            f"{operation.method} {operation.path}: nothing wrong can be asked there"
        ) from error


def _text(value: str | bytes) -> str:
    return value.decode("latin-1") if isinstance(value, bytes) else value


# ---------------------------------------------------------------------- over JSON-RPC


def _over_rpc(door: Served, inputs: int, number: int) -> None:
    """Half of them for the ids that were there in the beginning, the rest for those that came since."""
    _mutate(door, inputs // 2, number)
    _mutate(door, inputs - inputs // 2, number + 1)


def _mutate(door: Served, inputs: int, number: int) -> None:
    tasks, contexts = door.tasks[:3] + door.tasks[-20:], door.contexts[:3] + door.contexts[-20:]

    @seed(number)
    @_given(inputs)
    @given(rpc(tasks, contexts))
    def ask(request: tuple[bytes, dict[str, str]]) -> None:
        body, headers = request
        door.ask("POST", "/", body, headers)

    ask()
