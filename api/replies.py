"""Agents that answer with a message instead of a task (`turn.reply`; A2A 1.0, section 3.1.2).

The task is there all the same: it is stored, runs again if its worker dies, and completes with the reply as the message of its
status. But a caller that waited for the answer to a new message gets the message alone. A stream is that only with
`direct_replies`, since it then has to wait before it says the id of its task.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import replace

from perdure.notes import REPLY
from perdure.tasks import Message, StatusChange, Task, TaskState
from perdure.telling import Update

from .wire.asked import Send


def shown(send: Send, task: Task) -> Task | Message:
    """What a send is answered with. Who did not wait, or knows of the task, gets the task."""
    if send.return_immediately or send.message.task_id:
        return task
    return _whole_answer(task) or task


async def held_back(items: AsyncIterator[Task | Update]) -> AsyncIterator[Task | Update | Message | None]:
    """A send's stream for an agent that may reply: the one message alone, or the task and its updates from the moment when the
    turn says anything else. None first, so that the stream stands while nobody knows. If it ends before that, the task is told,
    to be resumed from."""
    held: list[Task | Update] = []
    holds = True
    async with aclosing(items):  # type: ignore[type-var] # it is a generator
        async for item in items:
            if holds and (reply := _whole_answer(item)):
                yield reply
                return
            if holds := holds and _says_nothing(item):
                held.append(item)
                yield None
                continue
            for earlier in held:
                yield earlier
            held.clear()
            yield item
    for earlier in held:
        yield earlier


def _whole_answer(item: Task | Update) -> Message | None:
    """The reply, if there is nothing else. It stands for itself: a follow-up is a new message in its conversation."""
    match item:
        case Task(state=TaskState.COMPLETED, status_message=Message() as message, artifacts=()):
            pass
        case Update(body=StatusChange(state=TaskState.COMPLETED, message=Message() as message)):
            pass
        case _:
            return None
    if message.metadata.get(REPLY) is not True:
        return None
    return replace(message, task_id="")


def _says_nothing(item: Task | Update) -> bool:
    """That the task waits or has begun."""
    match item:
        case Task(state=state, artifacts=()):
            return not state.rests
        case Update(body=StatusChange(state=state, message=None, metadata=metadata)):
            return state is TaskState.SUBMITTED or (state is TaskState.WORKING and not metadata)
    return False
