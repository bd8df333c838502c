"""A turn, as its handler sees it."""

from __future__ import annotations

import functools
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ParamSpec, TypeVar, overload

from perdure.agent.output import parts_in
from perdure.agent.steps import Steps
from perdure.errors import LeaseLost
from perdure.notes import ACCEPTED_OUTPUT_MODES, EXTENSIONS, REPLY, TENANT, text_in, texts_in
from perdure.tasks import Artifact, ArtifactChunk, Message, Part, Task

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a turn is: `fraction` 0..1, or None when nobody knows; `note` for people."""

    fraction: float | None
    note: str


Emission = Progress | Artifact | ArtifactChunk | Message | Part | str | dict[str, Any] | list[Any]


class Turn:
    """What a handler may know of its turn, and say before it ends. All methods but `step` are plain calls and safe from any
    thread."""

    def __init__(
        self,
        *,
        task_id: str,
        context_id: str,
        attempt: int,
        messages: Sequence[Message],
        task_metadata: Mapping[str, Any],
        emit: Callable[[Emission], None],
        referenced_tasks: Sequence[Task] = (),
        steps: Steps | None = None,
    ) -> None:
        self.task_id = task_id
        self.context_id = context_id
        self.attempt = attempt
        """1 for the first run of the task, more after crashes, deploys, retries and follow-up messages."""
        self.messages = messages
        """The conversation as A2A messages, oldest first; the agent's artifacts stand as messages of the role agent."""
        self.task_metadata = task_metadata
        self.referenced_tasks = referenced_tasks
        """The tasks that the caller's newest message refers to, as they stood when the turn began, with their artifacts: those
        that exist and are the caller's own."""
        self.replied: Message | None = None
        """What `reply` was told."""
        self.metadata_update: dict[str, Any] = {}
        """What `update_metadata` was told."""
        self._emit = emit
        self._steps = steps or Steps({}, _unkept)
        self._canceled = False

    @property
    def message(self) -> Message:
        """The newest message of the caller."""
        return next(message for message in reversed(self.messages) if message.role == "user")

    @property
    def metadata(self) -> Mapping[str, Any]:
        """The metadata of the newest message of the caller."""
        return self.message.metadata

    @property
    def reference_task_ids(self) -> Sequence[str]:
        """The ids of tasks that the caller's newest message refers to, as they were sent."""
        return self.message.reference_task_ids

    @property
    def accepted_output_modes(self) -> Sequence[str]:
        """The media types that the caller can do something with, as it named them; empty: any."""
        return texts_in(self.metadata, ACCEPTED_OUTPUT_MODES)

    @property
    def extensions(self) -> Sequence[str]:
        """The URIs of the A2A extensions that the request of the caller's newest message activated: of those that it named, the
        ones that the agent's card declares."""
        return texts_in(self.metadata, EXTENSIONS)

    @property
    def tenant(self) -> str:
        """The tenant that the request of the caller's newest message named, as it came; empty: none. Callers choose it freely."""
        return text_in(self.metadata, TENANT)

    def progress(self, fraction: float | None = None, note: str = "") -> None:
        """Say how far the turn is, as often as you like: callers see it at most about 20 times a second.

        `fraction` from 0 to 1 (clipped), None for unknown.
        """
        self._emit(Progress(None if fraction is None else min(max(float(fraction), 0.0), 1.0), str(note)))

    def emit(
        self, chunk: Artifact | ArtifactChunk | Message | Part | str | dict[str, Any] | list[Any]
    ) -> None:
        """Stream a piece of the answer: text, data or a part is added to the answer's artifact, an Artifact stands for itself, an
        ArtifactChunk is a piece of one (its id says of which), a Message is said beside them."""
        self._emit(chunk)

    def update_metadata(self, metadata: Mapping[str, Any]) -> None:
        """Merge into the task's metadata, top level, when the turn ends: what it cost, where its sources are. None removes a key.
        The keys `progress` and `retry` are Perdure's own."""
        self.metadata_update.update(metadata)

    def reply(self, answer: Message | Part | str | dict[str, Any] | list[Any]) -> None:
        """Answer with a message instead of a task: what a chat wants. The turn ends when the handler returns; a caller that waits
        is given the message alone, without a task. The last one counts.

        It comes as the message of a completed task to whoever knows of the task already, and where the turn has given more than
        this: an artifact, a question, an error.
        """
        message = answer if isinstance(answer, Message) else Message(parts=parts_in(answer))
        self.replied = replace(message, metadata={**message.metadata, REPLY: True})

    @overload
    async def step(
        self, name: str, func: Callable[P, Awaitable[T]], /, *args: P.args, **kwargs: P.kwargs
    ) -> T: ...
    @overload
    async def step(self, name: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T: ...
    async def step(self, name: str, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call `func(*args, **kwargs)` and store its result with the task, at once; when the turn runs again, after a retry, a
        crash or a deploy, return what was stored and call nothing.

        A coroutine function is awaited; a plain one runs in a thread, so that it does not block the event loop. The result is
        JSON (`TypeError` names the step otherwise) and is given as JSON has it: a tuple as a list. Steps are told apart by
        `name` and by how many of that name came before. What `func` raises is raised, and nothing is stored. `LeaseLost` when
        the task is not this turn's any more, or the turn was told to stop: let it pass.
        """
        self._require_going_on()
        return await self._steps.run(name, functools.partial(func, *args, **kwargs))

    def step_sync(self, name: str, func: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """`step` for a handler that is a plain function or a generator."""
        self._require_going_on()
        value: T = self._steps.run_here(name, functools.partial(func, *args, **kwargs))
        return value

    def _require_going_on(self) -> None:
        if self.canceled:  # what would be paid for now might be lost
            raise LeaseLost(canceled=False)

    @property
    def canceled(self) -> bool:
        """Whether the turn should end: its caller canceled the task, or another worker has it. For plain functions, which cannot
        be interrupted; coroutines get `asyncio.CancelledError`."""
        return self._canceled

    def cancel(self) -> None:
        """For the worker: make `canceled` true."""
        self._canceled = True


async def _unkept(name: str, occurrence: int, result: Any) -> None:
    """A turn that is not stored anywhere."""
