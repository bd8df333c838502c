"""The tasks that a message refers to (`referenceTaskIds`), for the handler of its turn."""

from __future__ import annotations

import asyncio

from perdure.errors import StorageUnavailable, TaskNotFound
from perdure.ids import parse_task_id
from perdure.storage import ClaimedTurn, Storage
from perdure.tasks import Message, Role, Task

PAUSE = 1.0
"""Seconds until a database that is away is asked again."""


async def referenced_tasks(storage: Storage, claimed: ClaimedTurn) -> tuple[Task, ...]:
    """Those that the caller's newest message names, in its order, each once. What does not exist or is somebody else's is left
    out: the two must not be told apart. An outage is waited out."""
    found = [await _load(storage, claimed.claim.owner, name) for name in _names(claimed)]
    return tuple(task for task in found if task is not None)


def _names(claimed: ClaimedTurn) -> list[str]:
    asked: Message | None = next(
        (said for said in reversed(claimed.conversation) if said.role is Role.USER), None
    )
    return list(dict.fromkeys(asked.reference_task_ids)) if asked else []


async def _load(storage: Storage, owner: str, name: str) -> Task | None:
    task_id = parse_task_id(name)
    while task_id is not None:
        try:
            return await storage.load_task(owner, task_id)
        except TaskNotFound:
            return None
        except StorageUnavailable:
            await asyncio.sleep(PAUSE)
    return None
