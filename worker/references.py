"""The tasks that a message refers to (`referenceTaskIds`), for the handler of its turn."""

from __future__ import annotations

from perdure.errors import StorageUnavailable, TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage import ClaimedTurn
from perdure.tasks import Message, Role, Task

from .lease import Reins
from .worker import Worker

PAUSE = 1.0
"""Seconds until a database that is away is asked again."""


async def referenced_tasks(worker: Worker, claimed: ClaimedTurn, reins: Reins) -> tuple[Task, ...]:
    """Those that the caller's newest message names, in its order, each once. What does not exist or is somebody else's is left
    out: the two must not be told apart. An outage is waited out; pulled reins end it."""
    found = [await _load(worker, claimed.claim.owner, name, reins) for name in _names(claimed)]
    return tuple(task for task in found if task is not None)


def _names(claimed: ClaimedTurn) -> list[str]:
    asked: Message | None = next(
        (said for said in reversed(claimed.conversation) if said.role is Role.USER), None
    )
    return list(dict.fromkeys(asked.reference_task_ids)) if asked else []


async def _load(worker: Worker, owner: str, name: str, reins: Reins) -> Task | None:
    task_id = parse_task_id(name)
    while task_id is not None and reins.why is None:
        try:
            return await worker.storage.load_task(owner, task_id)
        except TaskNotFound:
            return None
        except StorageUnavailable:
            await reins.pulled(PAUSE)
    return None
