"""What happens to tasks, in a word each, so that a test reads as a story."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterable, Sequence
from typing import Any
from uuid import UUID

from perdure.ids import new_task_id, new_token
from perdure.storage import Accepted, Claim, ClaimedTurn, NewTask, Storage, Written
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    Event,
    Message,
    Role,
    StatusChange,
    Task,
    TaskState,
    TextPart,
)

ME = "me"
SOMEONE_ELSE = "someone else"
ENDS = (TaskState.COMPLETED, TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED)
INTERRUPTIONS = (TaskState.INPUT_REQUIRED, TaskState.AUTH_REQUIRED)


def says(text: str, message_id: str = "", **members: Any) -> Message:
    """A caller's message."""
    return Message(parts=(TextPart(text),), role=Role.USER, message_id=message_id, **members)


def answers(text: str, message_id: str = "") -> Message:
    """An agent's message, its ids complete."""
    return Message(parts=(TextPart(text),), role=Role.AGENT, message_id=message_id or str(new_token()))


def artifact(text: str, artifact_id: str = "a") -> Artifact:
    """An artifact with one text part."""
    return Artifact(parts=(TextPart(text),), artifact_id=artifact_id)


def chunk(text: str, artifact_id: str = "a", *, append: bool = True, last: bool = False) -> ArtifactChunk:
    """A streamed piece of an artifact."""
    return ArtifactChunk(artifact(text, artifact_id), append=append, last_chunk=last)


async def submit(
    storage: Storage, text: str = "hello", *, owner: str = ME, context: str = "talk", **members: Any
) -> Accepted:
    """A new task."""
    new: dict[str, Any] = {"task_id": new_task_id(), "message": says(text), **members}
    return await storage.submit_task(NewTask(owner=owner, context_id=context, **new))


async def claim(storage: Storage, *, lease: float = 60.0, **options: Any) -> ClaimedTurn:
    """A turn: there must be one."""
    turn = await storage.claim_task("worker-1", new_token(), lease=lease, **options)
    assert turn is not None, "nothing is due"
    return turn


async def idle(storage: Storage) -> bool:
    """Whether there is nothing to claim."""
    return await storage.claim_task("worker-1", new_token(), lease=60.0) is None


async def started(storage: Storage, text: str = "hello", **members: Any) -> ClaimedTurn:
    """A new task, and its turn."""
    accepted = await submit(storage, text, **members)
    turn = await claim(storage)
    assert turn.claim.task_id == accepted.task.task_id
    return turn


async def settle(
    storage: Storage, turn: ClaimedTurn, state: TaskState = TaskState.COMPLETED, **write: Any
) -> Written:
    """The end of a turn, by its first write."""
    return await storage.update_task(turn.claim, write.pop("write_no", 1), state=state, **write)


async def ended(storage: Storage, state: TaskState, **members: Any) -> ClaimedTurn:
    """A task whose turn ended in `state`."""
    turn = await started(storage, **members)
    await settle(storage, turn, state)
    return turn


async def load(storage: Storage, task: ClaimedTurn | Claim | Accepted | UUID, **options: Any) -> Task:
    """A task of mine as it stands now."""
    return await storage.load_task(ME, id_of(task), **options)


async def log(storage: Storage, task: ClaimedTurn | Claim | Accepted | UUID) -> Sequence[Event]:
    """All events of a task of mine."""
    return await storage.events_since(ME, id_of(task), 0)


def id_of(task: ClaimedTurn | Claim | Accepted | UUID) -> UUID:
    """A task's id, however one has it."""
    match task:
        case UUID():
            return task
        case Accepted():
            return task.task.task_id
        case ClaimedTurn():
            return task.claim.task_id
        case Claim():
            return task.task_id


def texts(messages: Iterable[Message | Artifact]) -> list[str]:
    """What they say."""
    return [message.text for message in messages]


def told(events: Iterable[Event]) -> list[str]:
    """A log in short: texts of messages and chunks, states of statuses."""
    return [_told(event.body) for event in events]


def _told(body: Message | ArtifactChunk | StatusChange) -> str:
    match body:
        case Message():
            return body.text
        case ArtifactChunk():
            return body.artifact.text
        case StatusChange():
            return f"<{body.state}>"


def numbers(events: Iterable[Event]) -> list[int]:
    """The seqs."""
    return [event.seq for event in events]


async def race(*acts: Awaitable[Any], last_first: bool) -> list[Any]:
    """Let all of them start at once, in the order given or the other way round; results and exceptions in the order given."""
    barrier = asyncio.Barrier(len(acts))

    async def run(act: Awaitable[Any]) -> Any:
        await barrier.wait()
        return await act

    ordered = list(reversed(acts)) if last_first else list(acts)
    results = await asyncio.gather(*map(run, ordered), return_exceptions=True)
    return list(reversed(results)) if last_first else list(results)
