"""perform: runs an author's handler in the right way and makes every return and every raise one closed value, the `Outcome`.

Plain functions and generators run on a daemon thread of their own. Coroutines and async generators run on the loop. Storing the
outcome is somebody else's.
"""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator, Generator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from perdure.agent import Agent, Turn
from perdure.agent.output import BadOutput, storable_object
from perdure.errors import AgentError, LeaseLost, Retry, TurnOutcome
from perdure.tasks import ArtifactChunk, DataPart, Message, Part, RawPart, Role, TaskState, TextPart, UrlPart
from perdure.threads import in_thread
from perdure.turns.answer import Answer
from perdure.turns.calls import call_for
from perdure.turns.retries import MayPass, may_pass
from perdure.turns.weight import TooLarge

log = structlog.get_logger(__name__)

CRASHED = "The agent failed; the error was logged."
BAD_OUTPUT = "The agent gave an answer that cannot be stored; the error was logged."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a handler ended its turn.

    `chunks` is what is left to write of its artifacts. `error` is set where the handler crashed: the caller gets a neutral text.
    With `may_pass` the turn should be run again while its budget lasts; the rest is for when it is used up.
    """

    state: TaskState
    status_message: Message | None = None
    chunks: Sequence[ArtifactChunk] = ()
    messages: Sequence[Message] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None
    may_pass: MayPass | None = None


async def perform(agent: Agent, turn: Turn, answer: Answer) -> Outcome:
    """Run the handler to its end.

    Raises nothing but CancelledError, and that only when this was cancelled and the handler has ended: a plain function is waited
    for, since it cannot be interrupted (`turn.canceled` tells it). Cancelled a second time it is waited for no longer.
    """
    return _with_metadata(agent, turn, answer, await _performed(agent, turn, answer))


async def _performed(agent: Agent, turn: Turn, answer: Answer) -> Outcome:
    try:
        return _replied(agent, turn, answer, _ended(agent, answer, await _value_of(agent, turn)))
    except TurnOutcome as ending:
        return _ended(agent, answer, ending)
    except asyncio.CancelledError as error:
        if _cancelled_from_outside():
            raise
        return _crashed(agent, answer, error)  # the handler's own: something that it waited for was cancelled
    except (Exception, SystemExit) as error:
        return _crashed(agent, answer, error)


def _ended(agent: Agent, answer: Answer, value: Any) -> Outcome:
    """The outcome of a handler that returned `value`, or raised it as the end of its turn."""
    if answer.scale.broken:
        return _crashed(agent, answer, answer.scale.broken)
    try:
        match value:
            case Retry(message=""):
                return _crashed(agent, answer, value)
            case TurnOutcome():
                message = value.message or _default_text(value)
                return Outcome(
                    state=value.state,
                    status_message=answer.message(message),
                    chunks=answer.closing(),
                    may_pass=may_pass(value),
                )
            case Message():
                return Outcome(
                    state=TaskState.COMPLETED, status_message=answer.message(value), chunks=answer.closing()
                )
            case _:
                return Outcome(state=TaskState.COMPLETED, chunks=answer.closing(value))
    except BadOutput as error:
        return _crashed(agent, answer, error)


def _replied(agent: Agent, turn: Turn, answer: Answer, outcome: Outcome) -> Outcome:
    """A turn that went well and has no message yet ends with its reply."""
    if turn.replied is None or outcome.state is not TaskState.COMPLETED or outcome.status_message:
        return outcome
    try:
        return replace(outcome, status_message=answer.message(turn.replied))
    except BadOutput as error:
        return _crashed(agent, answer, error)


def _with_metadata(agent: Agent, turn: Turn, answer: Answer, outcome: Outcome) -> Outcome:
    if not turn.metadata_update:
        return outcome
    try:
        return replace(outcome, metadata={**storable_object(turn.metadata_update), **outcome.metadata})
    except BadOutput as error:
        return _crashed(agent, answer, error)


def _crashed(agent: Agent, answer: Answer, error: BaseException) -> Outcome:
    if answer.scale.broken:  # whatever the handler made of it; and it would be too much the next time, too
        return _too_large(answer, answer.scale.broken)
    passing = may_pass(error, agent.config.retry_on)
    if passing or isinstance(error, LeaseLost):
        log.warning("handler.interrupted", exc_info=error)
    else:
        log.error("handler.failed", exc_info=error)
    text = BAD_OUTPUT if isinstance(error, BadOutput) else CRASHED
    return Outcome(
        state=TaskState.FAILED,
        status_message=answer.message(text),
        chunks=answer.closing(),
        error=error,
        may_pass=passing,
    )


def _too_large(answer: Answer, error: TooLarge) -> Outcome:
    log.error("handler.failed", exc_info=error)
    return Outcome(
        state=TaskState.FAILED, status_message=answer.said(error.told), chunks=answer.closing(), error=error
    )


def _default_text(ending: TurnOutcome) -> str:
    return "The agent failed." if isinstance(ending, AgentError) else ""


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# ---------------------------------------------------------------------- running it


async def _value_of(agent: Agent, turn: Turn) -> Any:
    """What the handler returned, all that it yielded emitted. An outcome that it yielded is returned."""
    call, kind = call_for(agent, turn, spoken(turn.messages))
    if kind in ("function", "generator"):
        name = name_of(turn.task_id, turn.attempt)
        value = await _to_its_end(in_thread(lambda: _drained(call(), turn), name), turn)
    else:
        value = call()
    # A wrapper may hide what it wraps: go by what the call gave.
    if inspect.isawaitable(value):
        value = await value
    return await _drained_async(value, turn) if isinstance(value, AsyncIterator) else value


def _drained(value: Any, turn: Turn) -> Any:
    """The value, or the end of a generator: its return value, the outcome it yielded, None once the turn is canceled."""
    if not isinstance(value, Generator):
        return value
    try:
        while not turn.canceled:
            chunk = next(value)
            if isinstance(chunk, TurnOutcome):
                return chunk
            turn.emit(chunk)
    except StopIteration as end:
        return end.value
    finally:
        value.close()
    return None


async def _drained_async(chunks: AsyncIterator[Any], turn: Turn) -> Any:
    try:
        async for chunk in chunks:
            if isinstance(chunk, TurnOutcome):
                return chunk
            turn.emit(chunk)
    finally:
        if inspect.isasyncgen(chunks):
            await chunks.aclose()
    return None


def name_of(task_id: str, attempt: int) -> str:
    """Of the thread in which the plain function of a turn runs."""
    return f"turn {task_id} {attempt}"


async def _to_its_end(ended: asyncio.Future[Any], turn: Turn) -> Any:
    try:
        return await asyncio.shield(ended)
    except asyncio.CancelledError:
        turn.cancel()
        await asyncio.shield(ended)
        raise


# ---------------------------------------------------------------------- what it is given


def spoken(messages: Sequence[Message]) -> list[dict[str, str]]:
    """The conversation as handlers get it: `{"role": "user"|"assistant", "content": str}`, oldest first."""
    return [
        {
            "role": "user" if message.role is Role.USER else "assistant",
            "content": "\n".join(_as_text(part) for part in message.parts),
        }
        for message in messages
    ]


def _as_text(part: Part) -> str:
    match part:
        case TextPart(text=text):
            return text
        case DataPart(data=data):
            return json.dumps(data, ensure_ascii=False)
        case UrlPart(url=url):
            return url
        case RawPart():
            return f"[{' '.join(word for word in ('file', part.filename, part.media_type) if word)}]"
