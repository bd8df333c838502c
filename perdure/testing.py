"""How an author tests a handler: no network, no storage, the same code that runs it in a worker.

    from perdure.testing import run_sync
    from my_agent import handler

    def test_it_asks_for_the_city():
        result = run_sync(handler, "What is the weather?")
        assert result.state == "input-required"
        assert result.status == "Which city?"

Both take a handler or an Agent. A conversation is a list, oldest first, of texts (the caller's), `{"role": "user"|"assistant",
"content": str}` or Messages. In an async test: `await run(...)`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from perdure import ids
from perdure.agent import Agent, Progress, Turn
from perdure.answer import Answer, Piece
from perdure.notes import noted
from perdure.perform import Outcome, perform
from perdure.retries import MayPass
from perdure.steps import Steps
from perdure.tasks import Artifact, ArtifactChunk, Message, Role, Task, TaskState, TextPart, fold_chunks

__all__ = ["Result", "Said", "run", "run_sync"]

Said = str | Mapping[str, Any] | Message
"""One entry of a conversation."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one turn gave.

    `state` is where the task stands after it, `artifacts` what its caller finds in it. `status` is the text that goes with the
    state: a question, a refusal, the neutral text of a failure; `error` is then what the handler raised. What was said before
    the end, in order: `chunks` of streamed text, `progress`, `messages`. `retry` is set where the turn would be run again.
    """

    state: TaskState
    artifacts: Sequence[Artifact] = ()
    status_message: Message | None = None
    error: BaseException | None = None
    retry: MayPass | None = None
    """`after` is in seconds, None for the usual growing pause; `reason` is what the caller is told."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """What the turn adds to the task's."""
    steps: Mapping[tuple[str, int], Any] = field(default_factory=dict)
    """What `turn.step` and `turn.step_sync` stored, by name and occurrence (1, 2, ...), with what was given to `run`."""
    pieces: Sequence[Piece] = field(default=(), repr=False)

    @property
    def text(self) -> str:
        """The text of all artifacts, joined without a separator."""
        return "".join(artifact.text for artifact in self.artifacts)

    @property
    def status(self) -> str:
        """The text of the status message; empty for none."""
        return self.status_message.text if self.status_message else ""

    @property
    def chunks(self) -> Sequence[str]:
        """The texts of what was streamed, as it was yielded or emitted."""
        return tuple(piece.artifact.text for piece in self.pieces if isinstance(piece, ArtifactChunk))

    @property
    def progress(self) -> Sequence[Progress]:
        """What `turn.progress` was told."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Progress))

    @property
    def messages(self) -> Sequence[Message]:
        """Messages that were emitted."""
        return tuple(piece for piece in self.pieces if isinstance(piece, Message))


async def run(
    agent: Agent | Callable[..., Any],
    messages: Said | Sequence[Said],
    *,
    metadata: Mapping[str, Any] | None = None,
    attempt: int = 1,
    steps: Mapping[tuple[str, int], Any] | Mapping[str, Any] | None = None,
    referenced_tasks: Sequence[Task] = (),
    accepted_output_modes: Sequence[str] = (),
    extensions: Sequence[str] = (),
    tenant: str = "",
) -> Result:
    """Run one turn to its end.

    `metadata` is that of the task; `attempt` is above 1 for a turn that is run again. `steps` are results that an earlier run
    stored, by name or by name and occurrence: `steps=first.steps` is the same turn once more. `referenced_tasks` are those that
    the newest message refers to, and what follows is what its request said. Raises ConfigError for a handler with wrong
    parameters and ValueError for a conversation in which the caller says nothing; whatever the handler raises is in the result.
    Cancel it (`asyncio.timeout`) as a caller's cancel would.
    """
    if not isinstance(agent, Agent):
        agent = Agent.of({"name": "test"}, agent)
    said = [messages] if isinstance(messages, str | Mapping | Message) else messages
    conversation = [_message(one) for one in said]
    newest = next((n for n in reversed(range(len(said))) if conversation[n].role is Role.USER), None)
    if newest is None:
        raise ValueError("a conversation needs at least one message of the user")
    conversation[newest] = noted(
        conversation[newest],
        accepted_output_modes=accepted_output_modes,
        extensions=extensions,
        tenant=tenant,
    )
    pieces: list[Piece] = []
    kept = {(key, 1) if isinstance(key, str) else key: value for key, value in (steps or {}).items()}

    async def store(name: str, occurrence: int, result: Any) -> None:
        kept[name, occurrence] = result

    task_id, context_id = ids.new_task_id(), ids.new_context_id()
    answer = Answer(task_id, context_id=context_id, attempt=attempt, first_ordinal=0, put=pieces.append)
    turn = Turn(
        task_id=str(task_id),
        context_id=context_id,
        attempt=attempt,
        messages=conversation,
        task_metadata=metadata or {},
        emit=answer.emit,
        referenced_tasks=referenced_tasks,
        steps=Steps(dict(kept), store),
    )
    return _result(await perform(agent, turn, answer), pieces, kept)


def run_sync(
    agent: Agent | Callable[..., Any],
    messages: Said | Sequence[Said],
    *,
    metadata: Mapping[str, Any] | None = None,
    attempt: int = 1,
    steps: Mapping[tuple[str, int], Any] | Mapping[str, Any] | None = None,
    referenced_tasks: Sequence[Task] = (),
    accepted_output_modes: Sequence[str] = (),
    extensions: Sequence[str] = (),
    tenant: str = "",
) -> Result:
    """`run` for a test that is no coroutine."""
    return asyncio.run(
        run(
            agent,
            messages,
            metadata=metadata,
            attempt=attempt,
            steps=steps,
            referenced_tasks=referenced_tasks,
            accepted_output_modes=accepted_output_modes,
            extensions=extensions,
            tenant=tenant,
        )
    )


def _message(said: Said) -> Message:
    if isinstance(said, Message):
        return said
    if isinstance(said, str):
        return Message(role=Role.USER, parts=(TextPart(said),))
    role = Role.USER if said["role"] == "user" else Role.AGENT
    return Message(role=role, parts=(TextPart(said["content"]),))


def _result(outcome: Outcome, pieces: Sequence[Piece], steps: Mapping[tuple[str, int], Any]) -> Result:
    streamed = [piece for piece in pieces if isinstance(piece, ArtifactChunk)]
    return Result(
        state=TaskState.SUBMITTED if outcome.may_pass else outcome.state,
        artifacts=fold_chunks([*streamed, *outcome.chunks]),
        status_message=outcome.status_message,
        error=outcome.error,
        retry=outcome.may_pass,
        metadata=outcome.metadata,
        steps=steps,
        pieces=tuple(pieces),
    )
