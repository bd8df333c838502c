"""What a write of a turn or a sweep says, the same for every storage."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from perdure.ids import new_token
from perdure.storage.fingerprints import fingerprint
from perdure.tasks import TRANSITIONS, Artifact, ArtifactChunk, Message, StatusChange, TaskState, TextPart

LOST = "worker lost"
YIELDS_TO_UNREAD = frozenset({TaskState.COMPLETED, TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED})
"""Ends of a turn that give way to a message which the turn has not seen; the other ends are final."""


def ends_turn(state: TaskState | None) -> bool:
    """Whether a write with `state` ends its turn. `ValueError` for what a turn cannot write."""
    if state is None or state is TaskState.WORKING:
        return False
    if state is TaskState.SUBMITTED or state not in TRANSITIONS[TaskState.WORKING]:
        raise ValueError(f"a turn cannot make its task {state}")
    return True


def bodies(
    messages: Sequence[Message], artifacts: Sequence[Artifact | ArtifactChunk]
) -> list[Message | ArtifactChunk]:
    """The events of a write, in their order; a whole artifact is its own first and last chunk."""
    chunks = (item if isinstance(item, ArtifactChunk) else ArtifactChunk(item) for item in artifacts)
    return [*messages, *chunks]


def complete(message: Message, context_id: str, task_id: UUID | None = None) -> Message:
    """With the ids that its sender could not know, or got wrong."""
    return Message(  # `replace` takes several times as long
        parts=message.parts,
        role=message.role,
        message_id=message.message_id or str(new_token()),
        context_id=context_id,
        task_id=str(task_id) if task_id else message.task_id,
        metadata=message.metadata,
        extensions=message.extensions,
        reference_task_ids=message.reference_task_ids,
    )


def crashed(*, again: bool, message_id: str = "") -> StatusChange:
    """A worker died with the task: it runs `again`, or has killed too many of them."""
    if again:
        return StatusChange(TaskState.SUBMITTED, metadata={"reason": "crash"})
    text = "The agent stopped unexpectedly each time it worked on this task. It will not be tried again."
    message = Message(parts=(TextPart(text),), message_id=message_id or str(new_token()))
    return StatusChange(TaskState.FAILED, message, {"reason": "crash"})


def worker_lost(*, spoke: bool) -> tuple[str, str, str]:
    """What operators are told of an attempt whose worker gave no sign for a lease: the failure's class, message and fingerprint.
    `spoke`: the handler had given messages or artifacts."""
    when = "after the handler had given something" if spoke else "before the handler had given anything"
    message = f"it died, or was cut off, {when}"
    return LOST, message, fingerprint(LOST, message)


def expired() -> StatusChange:
    """A task that was not begun or not done in time."""
    text = "The task was not done in time."
    message = Message(parts=(TextPart(text),), message_id=str(new_token()))
    return StatusChange(TaskState.FAILED, message, {"reason": "expired"})
