"""What a test gets to see of a turn, or of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure.agent import Progress
from perdure.tasks import Artifact, ArtifactChunk, Message, StatusChange, TaskState
from perdure.turns.answer import Piece
from perdure.turns.retries import MayPass

Happening = Piece | StatusChange
"""What can happen to a task: a message, a chunk of an artifact, progress, a change of state."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one turn gave (`run`), or how a task stands (`Harness`).

    `state` is where the task stands, `artifacts` what its caller finds in it. `status` is the text that goes with the state: a
    question, a refusal, the neutral text of a failure. What was said before the end, in order: `chunks` of streamed text,
    `progress`, `messages`; and `events` is all of it, the changes of state included.
    """

    state: TaskState
    task_id: str = ""
    context_id: str = ""
    artifacts: Sequence[Artifact] = ()
    status_message: Message | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """Of the task; with `run`, what the turn adds to it."""
    history: Sequence[Message] = field(default=(), repr=False)
    """What caller and agent said, oldest first. With `Harness`."""
    events: Sequence[Happening] = field(default=(), repr=False)
    pieces: Sequence[Piece] = field(default=(), repr=False)
    """Those of the events that the agent gave; not what was lost with an attempt that ran again."""
    attempts: int = 1
    """How often the handler was begun."""
    failures: int = 0
    """How many of these ended in a failure that may pass."""
    crashes: int = 0
    """How many of these died with their worker."""
    error: BaseException | None = None
    """What the handler raised, where it is no outcome. With `run`."""
    traceback: str = field(default="", repr=False)
    """The same as a text, of the last attempt that failed. Callers never see it."""
    retry: MayPass | None = None
    """Set where the turn would be run again: `after` is in seconds, None for the usual growing pause; `reason` is what the caller
    is told. With `run`."""
    steps: Mapping[tuple[str, int], Any] = field(default_factory=dict)
    """What `turn.step` and `turn.step_sync` stored, by name and occurrence (1, 2, ...), with what was given to `run`."""

    @property
    def text(self) -> str:
        """The text of all artifacts, joined without a separator."""
        return "".join(artifact.text for artifact in self.artifacts)

    @property
    def status(self) -> str:
        """The text of the status message; empty for none."""
        return self.status_message.text if self.status_message else ""

    @property
    def states(self) -> Sequence[TaskState]:
        """The states that the task went through, each once in a row."""
        taken = [event.state for event in self.events if isinstance(event, StatusChange)]
        return tuple(
            state for place, state in enumerate(taken) if place == 0 or taken[place - 1] is not state
        )

    @property
    def chunks(self) -> Sequence[str]:
        """The texts of what was streamed. With `run` as it was yielded or emitted; with `Harness` as it was stored, where pieces
        of the same moment are one."""
        texts = (piece.artifact.text for piece in self.pieces if isinstance(piece, ArtifactChunk))
        return tuple(text for text in texts if text)

    @property
    def progress(self) -> Sequence[Progress]:
        """What `turn.progress` was told. With `Harness` the last of those of the same moment."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Progress))

    @property
    def messages(self) -> Sequence[Message]:
        """Messages that were emitted."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Message))
