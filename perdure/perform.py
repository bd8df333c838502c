"""perform: runs an author's handler in the right way and makes every return and every raise one closed value, the `Outcome`.

Plain functions and generators run on a daemon thread of their own: never on the event loop, and not in an executor, whose threads
are waited for when the interpreter ends. Coroutines and async generators run on the loop. Storing the outcome is somebody else's.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import threading
from collections.abc import AsyncIterator, Callable, Generator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from perdure.agent import Agent, Turn
from perdure.answer import Answer
from perdure.errors import AgentError, TurnOutcome
from perdure.output import BadOutput
from perdure.tasks import ArtifactChunk, DataPart, Message, Part, RawPart, Role, TaskState, TextPart, UrlPart

log = structlog.get_logger(__name__)

CRASHED = "The agent failed; the error was logged."
BAD_OUTPUT = "The agent gave an answer that cannot be stored; the error was logged."


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a handler ended its turn.

    `chunks` is what is left to write of its artifacts. `error` is set where the handler crashed: the caller gets a neutral text.
    """

    state: TaskState
    status_message: Message | None = None
    chunks: Sequence[ArtifactChunk] = ()
    messages: Sequence[Message] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)
    error: BaseException | None = None


async def perform(agent: Agent, turn: Turn, answer: Answer) -> Outcome:
    """Run the handler to its end.

    Raises nothing but CancelledError, and that only when this was cancelled and the handler has ended: a plain function is waited
    for, since it cannot be interrupted (`turn.canceled` tells it). Cancelled a second time it is waited for no longer.
    """
    try:
        return _replied(turn, answer, _ended(answer, await _value_of(agent, turn)))
    except TurnOutcome as ending:
        return _ended(answer, ending)
    except asyncio.CancelledError as error:
        if _cancelled_from_outside():
            raise
        return _crashed(answer, error)  # the handler's own: something that it waited for was cancelled
    except (Exception, SystemExit) as error:
        return _crashed(answer, error)


def _ended(answer: Answer, value: Any) -> Outcome:
    """The outcome of a handler that returned `value`, or raised it as the end of its turn."""
    try:
        match value:
            case TurnOutcome():
                message = value.message or _default_text(value)
                return Outcome(
                    state=value.state, status_message=answer.message(message), chunks=answer.closing()
                )
            case Message():
                return Outcome(
                    state=TaskState.COMPLETED, status_message=answer.message(value), chunks=answer.closing()
                )
            case _:
                return Outcome(state=TaskState.COMPLETED, chunks=answer.closing(value))
    except BadOutput as error:
        return _crashed(answer, error)


def _replied(turn: Turn, answer: Answer, outcome: Outcome) -> Outcome:
    """A turn that went well and has no message yet ends with its reply."""
    if turn.replied is None or outcome.state is not TaskState.COMPLETED or outcome.status_message:
        return outcome
    try:
        return replace(outcome, status_message=answer.message(turn.replied))
    except BadOutput as error:
        return _crashed(answer, error)


def _crashed(answer: Answer, error: BaseException) -> Outcome:
    log.error("handler.failed", exc_info=error)
    text = BAD_OUTPUT if isinstance(error, BadOutput) else CRASHED
    return Outcome(
        state=TaskState.FAILED, status_message=answer.message(text), chunks=answer.closing(), error=error
    )


def _default_text(ending: TurnOutcome) -> str:
    return "The agent failed." if isinstance(ending, AgentError) else ""


def _cancelled_from_outside() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


# ---------------------------------------------------------------------- running it


async def _value_of(agent: Agent, turn: Turn) -> Any:
    """What the handler returned, all that it yielded emitted. An outcome that it yielded is returned."""
    messages = spoken(turn.messages)

    def call() -> Any:
        return agent.handler(messages, turn) if agent.takes_turn else agent.handler(messages)

    if agent.kind in ("function", "generator"):
        value = await _in_thread(lambda: _drained(call(), turn), turn)
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


async def _in_thread(call: Callable[[], Any], turn: Turn) -> Any:
    """Call it on a daemon thread with this task's context variables. Ends when the thread does, cancelled or not."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[tuple[Any, BaseException | None]] = loop.create_future()
    context = contextvars.copy_context()

    def tell(value: Any, error: BaseException | None) -> None:
        if not ended.done():
            ended.set_result((value, error))

    def run() -> None:
        value, error = None, None
        try:
            value = context.run(call)
        except BaseException as raised:  # a thread has nobody above it: even SystemExit is told
            error = raised
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(tell, value, error)

    threading.Thread(target=run, name=f"turn {turn.task_id}", daemon=True).start()
    value, error = await _to_its_end(ended, turn)
    if isinstance(error, StopIteration | asyncio.CancelledError | KeyboardInterrupt):
        # Raised here these would mean something else.
        raise RuntimeError(f"the handler raised {type(error).__name__}") from error
    if error is not None:
        raise error
    return value


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
