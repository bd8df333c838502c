"""An `AgentExecutor` of the official a2a-sdk, unchanged, as a handler: `pip install 'perdure[a2a]'`.

    agent = bindufy(a2a.config(card), a2a.handler(MyExecutor()))

What it puts into its event queue becomes the turn's: artifacts (chunks as chunks), messages of a working status, its last status,
a lone Message. What the SDK's server promises an executor holds, but across processes: `execute` is called again after a crash,
a retry or a deploy, with the same request; after an answer to a question with the task as `current_task`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from perdure.adapters import needs
from perdure.agent import Turn
from perdure.errors import AgentError, AuthRequired, InputRequired, Rejected, TurnOutcome
from perdure.stored.payload import STATE_NAMES, dump_artifact, dump_message, load_artifact, load_message
from perdure.tasks import ArtifactChunk, Message, Role, Task, TaskState

with needs("a2a"):
    from a2a.server.agent_execution import AgentExecutor, RequestContext
    from a2a.server.context import ServerCallContext
    from a2a.server.events.event_queue import EventQueue
    from a2a.types import (
        AgentCard,
        SendMessageConfiguration,
        SendMessageRequest,
        TaskArtifactUpdateEvent,
        TaskStatusUpdateEvent,
    )
    from a2a.types import Message as SdkMessage
    from a2a.types import Task as SdkTask
    from google.protobuf.json_format import (  # type: ignore[import-untyped]
        MessageToDict,
        ParseDict,
    )


CANCEL_SECONDS = 5.0
"""How long an executor's `cancel` may take: the turn is over, and its worker waits."""

_STATES = {name: state for state, name in STATE_NAMES.items()}


class _Canceled(TurnOutcome):
    """The executor itself canceled the task."""

    state = TaskState.CANCELED


_ENDS: Mapping[TaskState, type[TurnOutcome]] = {
    TaskState.FAILED: AgentError,
    TaskState.REJECTED: Rejected,
    TaskState.CANCELED: _Canceled,
    TaskState.INPUT_REQUIRED: InputRequired,
    TaskState.AUTH_REQUIRED: AuthRequired,
}


def handler(executor: AgentExecutor) -> Callable[[Any, Turn], Awaitable[Any]]:
    """The executor as a handler. Its `cancel` is called when the turn is stopped: by its caller, a time limit or a deploy."""

    async def execute(messages: list[dict[str, str]], turn: Turn) -> Message | None:
        queue = _Queue(turn)
        context = _context(turn)
        try:
            await executor.execute(context, queue)
        except asyncio.CancelledError:
            with suppress(Exception):  # it has nobody to tell
                async with asyncio.timeout(CANCEL_SECONDS):
                    await executor.cancel(context, _Deaf())
            raise
        return queue.end()

    return execute


def config(card: AgentCard, **more: Any) -> dict[str, Any]:
    """An agent's config with what its card says, and `more`. Addresses, interfaces and security are the deployment's."""
    told = MessageToDict(card)
    members = {
        "name": told.get("name"),
        "description": told.get("description"),
        "version": told.get("version"),
        "provider": told.get("provider"),
        "documentation_url": told.get("documentationUrl"),
        "icon_url": told.get("iconUrl"),
        "default_input_modes": told.get("defaultInputModes"),
        "default_output_modes": told.get("defaultOutputModes"),
        "skills": told.get("skills"),
        "capabilities": {
            "streaming": card.capabilities.streaming,
            "push_notifications": card.capabilities.push_notifications,
            "extensions": told.get("capabilities", {}).get("extensions", ()),
        },
    }
    return {name: value for name, value in members.items() if value} | more


class _Queue(EventQueue):
    """What an executor says, taken as it comes."""

    def __init__(self, turn: Turn) -> None:
        self._turn = turn
        self._last: tuple[TaskState, Message | None] | None = None

    async def enqueue_event(self, event: Any) -> None:
        said = MessageToDict(event)
        match event:
            case SdkMessage():
                self._turn.reply(load_message(said))
            case TaskArtifactUpdateEvent():
                self._artifact(said["artifact"], append=event.append, last=event.last_chunk)
            case TaskStatusUpdateEvent():
                self._status(said["status"])
            case SdkTask():
                for artifact in said.get("artifacts", ()):
                    self._artifact(artifact, append=False, last=True)
                self._status(said.get("status", {}))
        await asyncio.sleep(0)  # as the SDK's queue does: others get their turn

    def _artifact(self, artifact: Mapping[str, Any], *, append: bool, last: bool) -> None:
        self._turn.emit(ArtifactChunk(load_artifact(artifact), append=append, last_chunk=last))

    def _status(self, status: Mapping[str, Any]) -> None:
        state = _STATES.get(status.get("state", ""), TaskState.WORKING)
        message = load_message(status["message"]) if "message" in status else None
        if state.rests:
            self._last = (state, message)
        elif message is not None:
            self._turn.emit(message)

    def end(self) -> Message | None:
        """What its last status becomes: a return for a completed turn, else the outcome is raised."""
        state, message = self._last or (TaskState.COMPLETED, None)
        if ending := _ENDS.get(state):
            raise ending(message or "")
        return message


class _Deaf(EventQueue):
    """For `cancel`: the state of a task that was canceled is known already."""

    async def enqueue_event(self, event: Any) -> None:
        pass


# ---------------------------------------------------------------------- what an executor is given


def _context(turn: Turn) -> RequestContext:
    metadata = {name: value for name, value in turn.metadata.items() if not name.startswith("perdure.")}
    request = SendMessageRequest(
        message=_sdk_message(turn.message),
        configuration=SendMessageConfiguration(accepted_output_modes=list(turn.accepted_output_modes)),
    )
    request.metadata.update(metadata)
    return RequestContext(
        ServerCallContext(
            state={"attempt": turn.attempt},
            tenant=turn.tenant,
            requested_extensions=set(turn.extensions),
        ),
        request=request,
        task_id=turn.task_id,
        context_id=turn.context_id,
        task=_current(turn),
        related_tasks=[_related(task) for task in turn.referenced_tasks],
    )


def _current(turn: Turn) -> SdkTask | None:
    """The task, where this message is not its first: it had asked, or the message came while it worked."""
    own = [message for message in turn.messages if message.task_id == turn.task_id]
    if sum(message.role is Role.USER for message in own) < 2:
        return None
    return _sdk_task(turn.task_id, turn.context_id, TaskState.INPUT_REQUIRED, own[:-1], [])


def _related(task: Task) -> SdkTask:
    artifacts = [dump_artifact(artifact) for artifact in task.artifacts]
    return _sdk_task(str(task.task_id), task.context_id, task.state, task.history, artifacts)


def _sdk_task(
    task_id: str, context_id: str, state: TaskState, history: Sequence[Message], artifacts: list[Any]
) -> SdkTask:
    told = {
        "id": task_id,
        "contextId": context_id,
        "status": {"state": STATE_NAMES[state]},
        "history": [dump_message(message) for message in history],
        "artifacts": artifacts,
    }
    task: SdkTask = ParseDict(told, SdkTask(), ignore_unknown_fields=True)
    return task


def _sdk_message(message: Message) -> SdkMessage:
    copy: SdkMessage = ParseDict(dump_message(message), SdkMessage(), ignore_unknown_fields=True)
    return copy
