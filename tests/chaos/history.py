"""What happened in a run, written down while it happens: a folder of JSON lines, and the same as values for the checker.

- `history.jsonl`: every operation of a client as two lines, its invocation and its end (`ok`, `fail` or `unknown`), every fault,
  every process that started or ended. An operation without an end is unknown.
- `effects.jsonl`: what the handlers did (see `agent.py`), a line each, appended by themselves.
- `tasks.jsonl`: every task with its log and its views as Postgres has them after the end; `views.jsonl`: what HTTP says of some.
- `rest.json`: what is left in Redis, and what Postgres still calls held.

`at` is the monotonic clock, which all processes of a machine share and nobody shifts; `wall` is the time of day.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

TERMINAL = ("completed", "failed", "canceled", "rejected")
HELD_UP = ("submitted", "working")
"""States in which a task is the server's to move."""


@dataclass(frozen=True, kw_only=True)
class Frame:
    """One event of a stream as a client got it. `seq` is its id; a snapshot stands for all events up to it."""

    seq: int
    kind: str  # snapshot, status, artifact
    said: str  # the state, or the text of the chunk


@dataclass(frozen=True, kw_only=True)
class Op:
    """One operation of a client. `tag` is what its message is marked with, `key` its idempotency key."""

    number: int
    client: int
    do: str  # send, answer, stream, resubscribe, get, cancel
    tag: str = ""
    key: str = ""
    asked: str = ""  # the task it is about, for all but send and stream
    at: float = 0.0
    ended: float = 0.0
    outcome: str = "unknown"  # ok: it was done; fail: it was not; unknown: nobody can tell
    task: str = ""
    state: str = ""  # where the task stood, as the client was told
    frames: Sequence[Frame] = ()
    error: str = ""

    @property
    def sends(self) -> bool:
        """Whether it makes a new task."""
        return self.do in ("send", "stream")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """What the nemesis did. `targets` are process ids; none: it hit everybody."""

    kind: str
    at: float
    ended: float
    targets: Sequence[int] = ()


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What a handler did outside of the server: `begin`, `end`, or `stopped` when it was interrupted."""

    what: str
    task: str
    context: str
    tag: str
    attempt: int
    pid: int
    at: float


@dataclass(frozen=True, kw_only=True)
class Event:
    """One entry of a task's log. `said` is a status's state (`completed`), else the text; `time` is the database's clock."""

    seq: int
    first_seq: int
    kind: str
    attempt: int
    said: str
    time: float
    message: str = ""  # what the agent said with a status
    reason: str = ""  # why a turn was taken back


@dataclass(frozen=True, kw_only=True)
class View:
    """A task as it is shown: what callers and the agent said, and its artifacts."""

    task: str
    source: str  # postgres, http
    state: str
    asked: Sequence[str]
    said: Sequence[str]
    artifacts: Sequence[str]


@dataclass(frozen=True, kw_only=True)
class TaskRow:
    """A task as it is stored."""

    task: str
    context: str
    tag: str
    pause: float = 0.0  # seconds between two signs of life of its handler, as it was told
    chunks: int = 0  # how many it was told to give
    fail: bool = False  # it was told to fail
    state: str
    attempt: int
    lost: Sequence[int]
    last_seq: int
    events: Sequence[Event]


@dataclass(frozen=True, kw_only=True)
class History:
    """A whole run. `redis` is what was left there: a key and its seconds to live, -1 for ever. `held` are leases, slots of
    conversations and counts of waiting tasks that outlived their tasks."""

    ops: Sequence[Op] = ()
    faults: Sequence[Fault] = ()
    effects: Sequence[Effect] = ()
    tasks: Mapping[str, TaskRow] = field(default_factory=dict)
    views: Sequence[View] = ()
    redis: Mapping[str, int] = field(default_factory=dict)
    held: Sequence[str] = ()
    deaths: Mapping[int, float] = field(default_factory=dict)
    unasked: Sequence[str] = ()
    """Processes that ended though nobody had told them to, or with an error."""


class Recorder:
    """Writes `history.jsonl`. A line is written at once: what is known survives a run that is broken off."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file = (folder / "history.jsonl").open("a", buffering=1)
        self._ops = 0

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def note(self, what: str, **members: Any) -> None:
        """One line."""
        line = {"what": what, "at": time.monotonic(), "wall": time.time(), **members}
        self._file.write(json.dumps(line) + "\n")

    def invoke(self, client: int, do: str, **members: str) -> int:
        """An operation begins; its number."""
        self._ops += 1
        self.note("invoke", number=self._ops, client=client, do=do, **members)
        return self._ops

    def end(self, number: int, outcome: str, **members: Any) -> None:
        """It ended."""
        self.note(outcome, number=number, **members)


def keep(folder: Path, name: str, rows: Iterable[Any]) -> None:
    """Write dataclasses to a file of a run."""
    with (folder / name).open("w") as file:
        file.writelines(json.dumps(asdict(row)) + "\n" for row in rows)


def load(folder: Path) -> History:
    """Read a run."""
    lines = list(_lines(folder / "history.jsonl"))
    rest = json.loads((folder / "rest.json").read_text())
    tasks = (
        TaskRow(**{**row, "events": [Event(**event) for event in row["events"]]})
        for row in _lines(folder / "tasks.jsonl")
    )
    ends = [line for line in lines if line["what"] == "ended"]
    return History(
        ops=list(_operations(lines)),
        faults=[_fault(line) for line in lines if line["what"] == "fault"],
        effects=[Effect(**line) for line in _lines(folder / "effects.jsonl")],
        tasks={row.task: row for row in tasks},
        views=[View(**row) for row in _lines(folder / "views.jsonl")],
        redis=rest["redis"],
        held=rest["held"],
        deaths={line["pid"]: line["at"] for line in ends},
        unasked=[
            f"{line['name']} (code {line['code']})" for line in ends if not line["asked"] or line["code"] > 0
        ],
    )


def _lines(path: Path) -> Iterable[dict[str, Any]]:
    with path.open() as file:
        yield from (json.loads(line) for line in file)


def _fault(line: Mapping[str, Any]) -> Fault:
    return Fault(kind=line["kind"], at=line["begun"], ended=line["at"], targets=line["targets"])


def _operations(lines: Sequence[Mapping[str, Any]]) -> Iterable[Op]:
    ends = {line["number"]: line for line in lines if line["what"] in ("ok", "fail", "unknown")}
    for line in lines:
        if line["what"] == "invoke":
            begun = {name: value for name, value in line.items() if name not in ("what", "wall")}
            yield Op(**begun, **_ending(ends.get(line["number"])))


def _ending(line: Mapping[str, Any] | None) -> dict[str, Any]:
    if line is None:
        return {}
    ending = {name: value for name, value in line.items() if name not in ("what", "at", "wall", "number")}
    ending["frames"] = [Frame(**frame) for frame in ending.get("frames", ())]
    return {**ending, "outcome": line["what"], "ended": line["at"]}
