"""run_turn: claim, perform, settle. Read `run_turn` and `work_on` for the whole; the steps follow in their order.

A claim is for the best task that is due, whatever id was rung (DESIGN 4.1). Whatever a handler, a caller, Redis or a database
that is away for a while can do ends in a record, a release, or at worst in a lease that lapses and a sweep that finds it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import structlog
from structlog.contextvars import bound_contextvars

from perdure.agent import Turn
from perdure.answer import Answer
from perdure.errors import LeaseLost, StorageUnavailable
from perdure.ids import message_id, new_token
from perdure.perform import BAD_OUTPUT, Outcome, perform
from perdure.storage import Claim, ClaimedTurn, Written
from perdure.tasks import Message, Notice, Ring, TaskState, TextPart

from .lease import Reins, Stop, kept
from .outbox import Outbox
from .references import referenced_tasks
from .worker import Worker, announce, ring

log = structlog.get_logger(__name__)

PATIENCE = 10.0
"""Seconds that a handler which was told to stop is given; then it is left to itself, fenced."""
PATIENCE_AT_EXIT = 2.0

_abandoned: set[asyncio.Task[Any]] = set()


@dataclass(frozen=True, slots=True)
class Taken:
    """A claimed turn; `sent` is when its claim was sent, on the monotonic clock."""

    claimed: ClaimedTurn
    sent: float


async def run_turn(worker: Worker, reins: Reins) -> bool:
    """Take the best task that is due, run its turn and record how it ended. False when nothing is due."""
    taken = await claim_turn(worker)
    if taken is None:
        return False
    await work_on(worker, taken, reins)
    return True


async def claim_turn(worker: Worker) -> Taken | None:
    """The best task that is due; None when nothing is."""
    sent = time.monotonic()
    claimed = await worker.storage.claim_task(
        worker.worker_id,
        new_token(),
        lease=worker.settings.worker.lease,
        history=worker.settings.turns.history,
    )
    return Taken(claimed, sent) if claimed else None


async def work_on(worker: Worker, taken: Taken, reins: Reins) -> None:
    """Run a claimed turn and record how it ended."""
    claim = taken.claimed.claim
    with bound_contextvars(task_id=str(claim.task_id), attempt=claim.attempt, worker=worker.worker_id):
        if reins.why or _too_late(worker, taken):
            await _release(worker, claim, Stop.DEPLOY.value if reins.why else "late")
            return
        with kept(worker.keeper, worker.watch, claim, reins):
            outbox = Outbox(worker, claim, reins)
            try:
                outcome = await _performed(worker, taken.claimed, outbox, reins)
            finally:
                await outbox.close()
            await _recorded(worker, claim, outbox, reins, outcome)


# ---------------------------------------------------------------------- before


def _too_late(worker: Worker, taken: Taken) -> bool:
    """Whether half the lease may be over before the keeper's first renewal (DESIGN 4.4): an answer that took its time, an event
    loop that was blocked."""
    return time.monotonic() - taken.sent >= worker.settings.worker.lease / 2


# ---------------------------------------------------------------------- perform


@dataclass(frozen=True, slots=True)
class _Stuck:
    """The handler was told to stop and has not ended."""


async def _performed(
    worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins
) -> Outcome | _Stuck | None:
    """How the handler ended; None when it was stopped before."""
    turn, answer = _stage(claimed, outbox)
    started = time.monotonic()
    log.info("turn.started", context_id=claimed.claim.context_id)
    handler = asyncio.create_task(_handled(worker, claimed, turn, answer), name=f"turn {turn.task_id}")
    await _announce_start(worker, claimed)
    await _first_of(handler, reins)
    if handler.done():
        outcome = handler.result()
        log.info("turn.performed", state=outcome.state.value, seconds=round(time.monotonic() - started, 3))
        return outcome
    turn.cancel()
    handler.cancel()
    return await _stopped(handler, PATIENCE_AT_EXIT if reins.why is Stop.DEPLOY else PATIENCE)


def _stage(claimed: ClaimedTurn, outbox: Outbox) -> tuple[Turn, Answer]:
    claim, task = claimed.claim, claimed.task
    answer = Answer(
        claim.task_id,
        context_id=claim.context_id,
        attempt=claim.attempt,
        first_ordinal=len(task.artifacts),
        put=outbox.put,
    )
    turn = Turn(
        task_id=str(claim.task_id),
        context_id=claim.context_id,
        attempt=claim.attempt,
        messages=claimed.conversation,
        task_metadata=task.metadata,
        emit=answer.emit,
    )
    return turn, answer


async def _handled(worker: Worker, claimed: ClaimedTurn, turn: Turn, answer: Answer) -> Outcome:
    """What is loaded for a handler takes of its time, and is stopped with it."""
    turn.referenced_tasks = await referenced_tasks(worker.storage, claimed)
    return await perform(worker.agent, turn, answer)


async def _announce_start(worker: Worker, claimed: ClaimedTurn) -> None:
    task = claimed.task
    await announce(worker.queue, [Notice(task.task_id, task.last_seq, task.state)])


async def _first_of(handler: asyncio.Task[Outcome], reins: Reins) -> None:
    pulled = asyncio.create_task(reins.pulled())
    try:
        await asyncio.wait((handler, pulled), return_when=asyncio.FIRST_COMPLETED)
    finally:
        pulled.cancel()


async def _stopped(handler: asyncio.Task[Outcome], patience: float) -> _Stuck | None:
    """Wait for a handler that was told to stop. What it still returns is dropped: it may be half of an answer."""
    _, still_running = await asyncio.wait((handler,), timeout=patience)
    if not still_running:
        return None
    log.error("turn.stuck", seconds=patience, where=_where(handler))
    _abandoned.add(handler)
    handler.add_done_callback(_abandoned.discard)
    handler.cancel()  # the second time: a thread is waited for no longer
    return _Stuck()


def _where(handler: asyncio.Task[Any]) -> str:
    """The line that a task stands at: `/path/file.py:12`."""
    frames = handler.get_stack()
    return f"{frames[-1].f_code.co_filename}:{frames[-1].f_lineno}" if frames else ""


# ---------------------------------------------------------------------- record


async def _recorded(
    worker: Worker, claim: Claim, outbox: Outbox, reins: Reins, outcome: Outcome | _Stuck | None
) -> None:
    match reins.why, outcome:
        case Stop.LOST, _:
            log.warning("turn.lost")
        case Stop.CANCELED, _Stuck():
            log.warning("turn.abandoned")  # it may still act: its conversation waits until the lease is over
        case Stop.CANCELED, _:
            await _release(worker, claim, Stop.CANCELED.value)
        case Stop.BROKEN, _:
            await _settle(worker, claim, outbox, _unstorable(claim))
        case _, Outcome():
            await _settle(worker, claim, outbox, outcome)
        case _:  # a deploy: this process ends, and with it a handler that is stuck
            await _release(worker, claim, Stop.DEPLOY.value)


async def _settle(worker: Worker, claim: Claim, outbox: Outbox, outcome: Outcome) -> None:
    worker.keeper.settling(claim)
    try:
        written = await _kept_or_failed(claim, outbox, outcome)
    except LeaseLost as lost:
        if lost.canceled:
            await _release(worker, claim, Stop.CANCELED.value)
        else:
            log.warning("turn.lost")
    except StorageUnavailable as error:
        log.error("turn.unrecorded", error=str(error))
    else:
        log.info("turn.settled", state=written.state.value)
        await _tell(worker, written.rings, [Notice(claim.task_id, written.seq, written.state)])


async def _kept_or_failed(claim: Claim, outbox: Outbox, outcome: Outcome) -> Written:
    try:
        return await outbox.settle(outcome)
    except (LeaseLost, StorageUnavailable):
        raise
    except (
        Exception
    ):  # the storage does not take what the handler gave: the task must not run for ever because of it
        log.exception("turn.unstorable")
        return await outbox.settle(_unstorable(claim))


def _unstorable(claim: Claim) -> Outcome:
    said = Message(
        parts=(TextPart(BAD_OUTPUT),),
        message_id=message_id(claim.task_id, claim.attempt, -1),
        context_id=claim.context_id,
        task_id=str(claim.task_id),
    )
    return Outcome(state=TaskState.FAILED, status_message=said)


async def _release(worker: Worker, claim: Claim, reason: str) -> None:
    """Give the task back, or let go of a canceled one."""
    try:
        rings = await worker.storage.release_task(claim, reason=reason)
        notices = await worker.storage.notices([claim.task_id])
    except StorageUnavailable as error:
        log.error("turn.unreleased", reason=reason, error=str(error))
    else:
        log.info("turn.released", reason=reason)
        await _tell(worker, rings, notices)


async def _tell(worker: Worker, rings: Sequence[Ring], notices: Sequence[Notice]) -> None:
    await asyncio.gather(ring(worker.queue, rings), announce(worker.queue, notices))
