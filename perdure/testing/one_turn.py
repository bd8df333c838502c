"""One turn of a handler, in the way that a worker runs it, and nothing else: no storage, no time that passes."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perdure import ids, logs
from perdure.agent import Agent, Turn
from perdure.agent.steps import Steps
from perdure.notes import noted
from perdure.tasks import ArtifactChunk, Message, Role, StatusChange, Task, TaskState, TextPart, fold_chunks
from perdure.turns.answer import Answer, More, Piece
from perdure.turns.perform import Outcome, perform

from .result import Result

Said = str | Mapping[str, Any] | Message
"""One entry of a conversation."""


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
    logs.set_up_for_tests()
    agent = as_agent(agent)
    said = [messages] if isinstance(messages, str | Mapping | Message) else messages
    conversation = [as_message(one) for one in said]
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

    def put(piece: Piece | More) -> None:
        pieces.append(piece.chunk() if isinstance(piece, More) else piece)

    task_id, context_id = ids.new_task_id(), ids.new_context_id()
    answer = Answer(task_id, context_id=context_id, attempt=attempt, first_ordinal=0, put=put)
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
    return _result(turn, await perform(agent, turn, answer), pieces, kept)


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


def as_agent(agent: Agent | Callable[..., Any]) -> Agent:
    """A handler alone is an agent too. ConfigError for one with wrong parameters."""
    return agent if isinstance(agent, Agent) else Agent.of({"name": "test"}, agent)


def as_message(said: Said) -> Message:
    """What was said, as a message."""
    if isinstance(said, Message):
        return said
    if isinstance(said, str):
        return Message(role=Role.USER, parts=(TextPart(said),))
    role = Role.USER if said["role"] == "user" else Role.AGENT
    return Message(role=role, parts=(TextPart(said["content"]),))


def _result(
    turn: Turn, outcome: Outcome, pieces: Sequence[Piece], steps: Mapping[tuple[str, int], Any]
) -> Result:
    state = TaskState.SUBMITTED if outcome.may_pass else outcome.state
    streamed = [piece for piece in pieces if isinstance(piece, ArtifactChunk)]
    return Result(
        state=state,
        task_id=turn.task_id,
        context_id=turn.context_id,
        attempts=turn.attempt,
        artifacts=fold_chunks([*streamed, *outcome.chunks]),
        status_message=outcome.status_message,
        error=outcome.error,
        traceback="".join(traceback.format_exception(outcome.error)) if outcome.error else "",
        retry=outcome.may_pass,
        metadata=outcome.metadata,
        steps=steps,
        pieces=tuple(pieces),
        events=(*pieces, *outcome.chunks, StatusChange(state, outcome.status_message)),
    )
