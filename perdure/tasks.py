"""Tasks, messages, artifacts and events: the data of A2A and the rules that need nothing but the data.

Everything here is immutable and knows no transport and no storage. Names are A2A's (specification 1.0, section 4);
the JSON forms are made in `perdure.stored.payload` (what is stored) and `api.wire` (what is sent).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType
from typing import Any
from uuid import UUID

ANONYMOUS = "anonymous"
"""The owner of everything while authentication is off: explicit, never NULL."""


class TaskState(StrEnum):
    """Where a task stands (A2A 1.0, section 4.1.3)."""

    SUBMITTED = "submitted"
    WORKING = "working"
    INPUT_REQUIRED = "input-required"
    AUTH_REQUIRED = "auth-required"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELED = "canceled"
    REJECTED = "rejected"

    @property
    def terminal(self) -> bool:
        """Nothing can follow."""
        return not TRANSITIONS[self]

    @property
    def interrupted(self) -> bool:
        """The task waits for its caller."""
        return self in (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)

    @property
    def rests(self) -> bool:
        """A blocking send returns here: nothing happens before the caller acts."""
        return self.terminal or self.interrupted


_ENDS = {TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED}

TRANSITIONS: Mapping[TaskState, frozenset[TaskState]] = MappingProxyType(
    {
        TaskState.SUBMITTED: frozenset({TaskState.WORKING, TaskState.CANCELED, TaskState.FAILED}),
        # Back to submitted: released by a deploy, rescued after a crash, due for a retry, or unread messages wait.
        TaskState.WORKING: frozenset(
            {TaskState.SUBMITTED, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED, *_ENDS}
        ),
        TaskState.INPUT_REQUIRED: frozenset({TaskState.SUBMITTED, TaskState.CANCELED}),
        TaskState.AUTH_REQUIRED: frozenset({TaskState.SUBMITTED, TaskState.CANCELED}),
        TaskState.COMPLETED: frozenset(),
        TaskState.FAILED: frozenset(),
        TaskState.CANCELED: frozenset(),
        TaskState.REJECTED: frozenset(),
    }
)
"""Every change of state there is; drawn in docs/architecture.md, enforced inside the statements of the storages."""


class Role(StrEnum):
    """Who speaks in a message."""

    USER = "user"
    AGENT = "agent"


@dataclass(frozen=True, slots=True)
class _PartFields:
    metadata: Mapping[str, Any] = field(default_factory=dict, kw_only=True)
    filename: str = field(default="", kw_only=True)
    media_type: str = field(default="", kw_only=True)


@dataclass(frozen=True, slots=True)
class TextPart(_PartFields):
    """A piece of text."""

    text: str


@dataclass(frozen=True, slots=True)
class RawPart(_PartFields):
    """A file's bytes, inline."""

    raw: bytes


@dataclass(frozen=True, slots=True)
class UrlPart(_PartFields):
    """A file behind an address; passed through, never fetched."""

    url: str


@dataclass(frozen=True, slots=True)
class DataPart(_PartFields):
    """Any JSON value, None included."""

    data: Any


Part = TextPart | RawPart | UrlPart | DataPart


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """One thing said by a user or an agent. An empty `message_id` is filled in when the message is stored."""

    parts: Sequence[Part]
    role: Role = Role.AGENT
    message_id: str = ""
    context_id: str = ""
    task_id: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extensions: Sequence[str] = ()
    reference_task_ids: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The text parts, a line each."""
        return "\n".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """One result of a task. An empty `artifact_id` is filled in when the artifact is stored."""

    parts: Sequence[Part]
    artifact_id: str = ""
    name: str = ""
    description: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    extensions: Sequence[str] = ()

    @property
    def text(self) -> str:
        """The text parts, joined without a separator: chunks of one text."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, slots=True)
class ArtifactChunk:
    """A step in the making of an artifact: with `append` its parts follow those already there, else they replace them."""

    artifact: Artifact
    append: bool = False
    last_chunk: bool = True


@dataclass(frozen=True, slots=True)
class StatusChange:
    """A task took `state`; `metadata` carries progress or the reason for a rerun."""

    state: TaskState
    message: Message | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One entry of a task's log. Seqs of a task are 1, 2, 3 ... without gaps; a folded event covers `first_seq..seq`.

    `attempt` is the turn that wrote it, 0 for what callers and sweeps write.
    """

    task_id: UUID
    seq: int
    first_seq: int
    attempt: int
    time: datetime
    body: Message | ArtifactChunk | StatusChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A task as one read found it: `last_seq` is the number of the newest event that it includes."""

    task_id: UUID
    context_id: str
    owner: str
    state: TaskState
    status_message: Message | None
    status_timestamp: datetime
    metadata: Mapping[str, Any]
    history: Sequence[Message]
    artifacts: Sequence[Artifact]
    created_at: datetime
    updated_at: datetime
    last_seq: int
    attempt: int = 0
    failures: int = 0
    crashes: int = 0


@dataclass(frozen=True, slots=True)
class Ring:
    """There is work: an id for the bell. `dispatch` grows with every re-ring, so that a ring is never taken for an older one.
    `agent` is whose work it is, empty for one that is alone in its deployment."""

    task_id: UUID
    dispatch: int
    agent: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """A task's log grew to `seq` and it now stands at `state`; None: it is gone (its context was cleared)."""

    task_id: UUID
    seq: int
    state: TaskState | None


def fold_chunks(chunks: Iterable[ArtifactChunk]) -> tuple[Artifact, ...]:
    """The artifacts that a sequence of chunks builds, in the order of their first chunk.

    Text that was streamed in pieces becomes one part again: neighbouring plain text parts are joined.
    """
    folded: dict[str, Artifact] = {}
    parts: dict[
        str, list[Part]
    ] = {}  # lists, since a tuple that grows by 10,000 tokens is copied 10,000 times
    for chunk in chunks:
        new, known = chunk.artifact, folded.get(chunk.artifact.artifact_id)
        if not chunk.append or known is None:
            folded[new.artifact_id], parts[new.artifact_id] = new, list(new.parts)
            continue
        parts[new.artifact_id] += new.parts
        if new.metadata or new.name or new.description:
            folded[new.artifact_id] = replace(
                known,
                metadata={**known.metadata, **new.metadata},
                name=new.name or known.name,
                description=new.description or known.description,
            )
    return tuple(replace(artifact, parts=_joined(parts[name])) for name, artifact in folded.items())


def _joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    out: list[Part] = []
    run: list[str] = []  # a list, since += on a growing text is quadratic over 10,000 tokens

    def close() -> None:
        if run:
            out.append(TextPart("".join(run)))
            run.clear()

    for part in parts:
        if isinstance(part, TextPart) and not (part.metadata or part.filename or part.media_type):
            run.append(part.text)
        else:
            close()
            out.append(part)
    close()
    return tuple(out)
