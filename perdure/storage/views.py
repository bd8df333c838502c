"""What a log says: events in, history, artifacts and conversation out. Pure, so that every storage reads its log alike.

Events are those of one task, in the order of their seqs. `lost_attempts` are its attempts that never settled: what they
said is left out everywhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence

from perdure.tasks import Artifact, ArtifactChunk, Event, Message, Role, StatusChange, fold_chunks


def task_history(events: Iterable[Event], lost_attempts: Collection[int], status_seq: int) -> list[Message]:
    """The messages of a task, oldest first: what was said, and what came with every status but the present one.

    `status_seq` is the seq of the present status: of the newest status event that changed the state or had a message.
    """
    spoken = ((event.seq, _spoken(event)) for event in _visible(events, lost_attempts))
    return [message for seq, message in spoken if message is not None and seq != status_seq]


def task_artifacts(events: Iterable[Event], lost_attempts: Collection[int]) -> tuple[Artifact, ...]:
    """The artifacts of a task, folded from their chunks, in the order of their first chunks."""
    visible = _visible(events, lost_attempts)
    return fold_chunks(event.body for event in visible if isinstance(event.body, ArtifactChunk))


def task_conversation(events: Iterable[Event], lost_attempts: Collection[int]) -> list[Message]:
    """All that was said in a task, oldest first, as a handler sees it: messages, the messages of every status, the present one
    included, and the artifacts as messages of the agent, each at the place of its first chunk."""
    visible = list(_visible(events, lost_attempts))
    artifacts = {artifact.artifact_id: artifact for artifact in task_artifacts(visible, ())}
    said: list[Message] = []
    for event in visible:
        if isinstance(event.body, ArtifactChunk):
            artifact = artifacts.pop(event.body.artifact.artifact_id, None)
            message = artifact and _as_message(artifact)
        else:
            message = _spoken(event)
        if message:
            said.append(message)
    return said


def conversation(newest_first: Iterable[Sequence[Message]], limit: int | None) -> tuple[Message, ...]:
    """The last `limit` messages of a context (None: all), oldest first.

    `newest_first` gives what was said at each place of the context, the last place first; it is read only as far as needed.
    """
    said: list[Sequence[Message]] = []
    wanted = limit
    for piece in newest_first:
        said.append(last(piece, wanted))
        if wanted is not None:
            wanted -= len(said[-1])
            if wanted <= 0:
                break
    return tuple(message for piece in reversed(said) for message in piece)


def last(messages: Sequence[Message], limit: int | None) -> Sequence[Message]:
    """The last `limit` messages; None: all, 0: none."""
    return messages if limit is None else messages[max(len(messages) - limit, 0) :]


def _visible(events: Iterable[Event], lost_attempts: Collection[int]) -> Iterator[Event]:
    return (event for event in events if event.attempt not in lost_attempts)


def _spoken(event: Event) -> Message | None:
    match event.body:
        case Message() as message:
            return message
        case StatusChange(message=message):
            return message
        case ArtifactChunk():
            return None


def _as_message(artifact: Artifact) -> Message:
    return Message(role=Role.AGENT, parts=artifact.parts, message_id=artifact.artifact_id)
