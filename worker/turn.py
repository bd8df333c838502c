"""run_turn: claim, perform, settle. Read `run_turn` and `work_on` for the whole; the steps follow in their order.

A claim is for the best task that is due, whatever id was rung (DESIGN 4.1). Whatever a handler, a caller, Redis or a database
that is away for a while can do ends in a record, a release, or at worst in a lease that lapses and a sweep that finds it.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import structlog

from perdure import metrics
from perdure.agent import Turn
from perdure.agent.steps import Steps, Store
from perdure.errors import LeaseLost, StorageUnavailable
from perdure.ids import message_id, new_token
from perdure.logs import about
from perdure.owners import caller_of
from perdure.storage import Claim, ClaimedTurn, Written
from perdure.stored.storable import cleaned
from perdure.tasks import Message, Notice, Ring, TaskState, TextPart
from perdure.tracing import spans
from perdure.turns.answer import Answer
from perdure.turns.perform import BAD_OUTPUT, Outcome, name_of, perform
from perdure.turns.retries import MayPass

from .failures import record_failure
from .lease import Reins, Stop, kept
from .limits import Limit, hung_after, limit_of
from .outbox import Outbox
from .references import referenced_tasks
from .stuck import leave
from .worker import Worker, ring

log = structlog.get_logger(__name__)

OVERDUE = "The task was not done in time."
_CLAIMS = cache(metrics.CLAIMS.labels)
PATIENCE_AT_EXIT = 2.0
"""Seconds that a handler which was told to stop is given at most when its process ends."""


@dataclass(frozen=True, slots=True)
class Taken:
    """A claimed turn; `sent` is when its claim was sent, on the monotonic clock."""

    claimed: ClaimedTurn
    sent: float


async def run_turn(
    worker: Worker, reins: Reins, claimed: Callable[[bool], None] = lambda found: None
) -> bool:
    """Take the best task that is due, run its turn and record how it ended. False when nothing is due, which `claimed` is told
    as soon as it is known."""
    taken = await claim_turn(worker)
    claimed(taken is not None)
    if taken is None:
        return False
    await work_on(worker, taken, reins)
    return True


async def claim_turn(worker: Worker) -> Taken | None:
    """The best task that is due; None when nothing is, or an operator asked this worker to drain."""
    if worker.duty.draining:
        return None
    sent = time.monotonic()
    token, first_sent = worker.unanswered.pop() if worker.unanswered else (new_token(), sent)
    try:
        claimed = await worker.storage.claim_task(
            worker.worker_id,
            token,
            lease=worker.settings.worker.lease,
            history=worker.settings.turns.history,
            agent=worker.name,
        )
    except StorageUnavailable:
        # It may have taken a task all the same: the next claim asks for that one first.
        worker.unanswered.append((token, first_sent))
        raise
    _CLAIMS("task" if claimed else "nothing").inc()
    if claimed and claimed.claim.attempt == 1:
        waited = claimed.task.status_timestamp - claimed.task.created_at
        metrics.wait_of(worker.name).observe(max(waited.total_seconds(), 0.0))
    return Taken(claimed, first_sent if claimed.again else sent) if claimed else None


async def work_on(worker: Worker, taken: Taken, reins: Reins) -> None:
    """Run a claimed turn and record how it ended."""
    claim = taken.claimed.claim
    with (
        metrics.SLOTS_USED.track_inprogress(),
        spans.turn(worker.agent.config.name, taken.claimed, worker.worker_id) as span,
        about(
            task_id=str(claim.task_id),
            context_id=claim.context_id,
            attempt=claim.attempt,
            caller=caller_of(claim.owner),
            worker=worker.worker_id,
            **_named(worker),
        ),
    ):
        if reins.why or _too_late(worker, taken):
            reason = Stop.DEPLOY.value if reins.why else "late"
            spans.ended(span, await _release(worker, claim, reins, reason))
            return
        limit = limit_of(worker, taken.claimed)
        hung = limit.seconds + hung_after(worker.settings)
        reins.task_id, reins.react_by = claim.task_id, time.monotonic() + hung
        with kept(worker.keeper, worker.watch, claim, reins, limit=hung):
            outbox = Outbox(worker, claim, reins)
            try:
                outcome = await _performed(worker, taken.claimed, outbox, reins, limit)
            finally:
                reins.react_by = math.inf
                worker.keeper.settling(claim)
                await outbox.close()
            ended = await _recorded(worker, taken.claimed, outbox, reins, outcome)
            spans.ended(span, ended)
            count, seconds = metrics.turns_of(worker.name, ended)
            count.inc()
            seconds.observe(time.monotonic() - taken.sent)


def _named(worker: Worker) -> dict[str, str]:
    """Among several agents it is said whose turn it is."""
    return {"agent": worker.name} if worker.name else {}


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
    worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins, limit: Limit
) -> Outcome | _Stuck | None:
    """How the handler ended; None when it was stopped before."""
    turn, answer = _stage(worker, claimed, outbox, reins)
    started = time.monotonic()
    log.info("turn.started")
    handler = asyncio.create_task(
        _handled(worker, claimed, turn, answer), name=name_of(turn.task_id, turn.attempt)
    )
    _deliver(worker)
    worker.queue.tell([Notice(claimed.task.task_id, claimed.task.last_seq, claimed.task.state)])
    await _first_of(handler, reins, started + limit.seconds)
    if handler.done():
        outcome = handler.result()
        log.debug("turn.performed", state=outcome.state.value)
        return outcome
    if reins.why is None:
        log.warning("turn.timeout", seconds=round(limit.seconds, 3), limit=limit.why.value)
        reins.pull(limit.why)
    turn.cancel()
    handler.cancel()
    return await _stopped(worker, handler, reins)


def _stage(worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins) -> tuple[Turn, Answer]:
    claim, task = claimed.claim, claimed.task
    answer = Answer(
        claim.task_id,
        context_id=claim.context_id,
        attempt=claim.attempt,
        first_ordinal=len(task.artifacts),
        put=outbox.put,
        limits=worker.settings.turns,
    )
    turn = Turn(
        task_id=str(claim.task_id),
        context_id=claim.context_id,
        attempt=claim.attempt,
        messages=claimed.conversation,
        task_metadata=task.metadata,
        emit=answer.emit,
        steps=Steps(claimed.steps, _keeping_steps(worker, claim, reins, answer)),
    )
    return turn, answer


async def _handled(worker: Worker, claimed: ClaimedTurn, turn: Turn, answer: Answer) -> Outcome:
    """What is loaded for a handler takes of its time, and is stopped with it."""
    turn.referenced_tasks = await referenced_tasks(worker.storage, claimed)
    with spans.invocation(worker.agent.config, claimed.claim) as span:
        outcome = await perform(worker.agent, turn, answer)
        if outcome.state is TaskState.FAILED:
            span.fail(type(outcome.error).__qualname__ if outcome.error else "failed")
        return outcome


def _keeping_steps(worker: Worker, claim: Claim, reins: Reins, answer: Answer) -> Store:
    async def store(name: str, occurrence: int, result: Any) -> None:
        answer.scale.check_step(result)
        try:
            await reins.patiently(
                lambda: worker.storage.store_step(claim, name, occurrence, result), only_running=True
            )
        except LeaseLost as lost:  # the handler is stopped, also one that catches everything
            reins.pull(Stop.CANCELED if lost.canceled else Stop.LOST)
            raise

    return store


async def _first_of(handler: asyncio.Task[Outcome], reins: Reins, until: float) -> None:
    """Return when the handler has ended, the reins are pulled or, on the monotonic clock, it is too late."""
    if reins.why is not None:
        return
    loop = asyncio.get_running_loop()
    over = loop.create_future()  # what asyncio.wait does, by half: every turn waits here

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    too_late = loop.call_later(max(until - time.monotonic(), 0), end)
    handler.add_done_callback(end)
    reins.pulled.add_done_callback(end)
    try:
        await over
    finally:
        too_late.cancel()
        handler.remove_done_callback(end)
        reins.pulled.remove_done_callback(end)


async def _stopped(worker: Worker, handler: asyncio.Task[Outcome], reins: Reins) -> _Stuck | None:
    """Wait for a handler that was told to stop. What it still returns is dropped: it may be half of an answer."""
    leaving = asyncio.create_task(reins.leaving.wait())
    patience = worker.settings.turns.patience
    started = time.monotonic()
    try:
        await asyncio.wait((handler, leaving), timeout=patience, return_when=asyncio.FIRST_COMPLETED)
        if not handler.done() and reins.leaving.is_set():
            await asyncio.wait((handler,), timeout=min(PATIENCE_AT_EXIT, patience))
    finally:
        leaving.cancel()
    if handler.done():
        return None
    leave(worker, handler, seconds=time.monotonic() - started)
    return _Stuck()


# ---------------------------------------------------------------------- record


async def _recorded(
    worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins, outcome: Outcome | _Stuck | None
) -> str:
    """Record how the turn ended; in a word, for the metrics."""
    match reins.why, outcome:
        case Stop.LOST, _:
            log.warning("turn.lost")
            return "lost"
        case Stop.CANCELED | Stop.TIMEOUT | Stop.DEADLINE | Stop.BROKEN, _Stuck():
            # It may still act: its conversation waits until the lease is over, and then a crash is counted (decision 010).
            log.warning("turn.abandoned")
            return "abandoned"
        case Stop.CANCELED, _:
            return await _release(worker, claimed.claim, reins, Stop.CANCELED.value)
        case why, _ if ended := _ended(worker, claimed, why, outcome):
            return await _settle_or_retry(worker, claimed, outbox, reins, ended)
        case _:  # a deploy: this process ends, and with it a handler that is stuck
            return await _release(worker, claimed.claim, reins, Stop.DEPLOY.value)


def _ended(
    worker: Worker, claimed: ClaimedTurn, why: Stop | None, outcome: Outcome | _Stuck | None
) -> Outcome | None:
    """How the turn ended; None when it did not."""
    match why:
        case Stop.BROKEN:
            return _failure(claimed.claim, BAD_OUTPUT)
        case Stop.DEADLINE:
            return _failure(claimed.claim, OVERDUE)
        case Stop.TIMEOUT:
            text = f"The agent was not done within {limit_of(worker, claimed).seconds:g} seconds."
            return replace(_failure(claimed.claim, text), may_pass=MayPass(reason=text))
    return outcome if isinstance(outcome, Outcome) else None


async def _settle_or_retry(
    worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins, ended: Outcome
) -> str:
    """A failure that may pass: the turn is due again after a while, until the task's budget is used up."""
    turns, failures, passing = worker.settings.turns, claimed.task.failures, ended.may_pass
    await record_failure(worker, claimed.claim, ended, reins.why)
    if passing is None:
        return await _settle(worker, claimed, outbox, reins, ended)
    elif failures >= turns.max_failures:
        log.error("turn.given_up", failures=failures + 1, exc_info=ended.error)
        return await _settle(worker, claimed, outbox, reins, _given_up(claimed, ended))
    else:
        delay = passing.delay(failures, base=turns.retry_base, cap=turns.retry_cap)
        note = {"note": cleaned(passing.reason)} if passing.reason else {}
        retry = {"number": failures + 1, "of": turns.max_failures, "after": round(delay, 3), **note}
        log.info("turn.retry", number=failures + 1, of=turns.max_failures, after=round(delay, 3))
        reason = Stop.TIMEOUT.value if reins.why is Stop.TIMEOUT else "retry"
        told = {"retry": retry}
        return await _release(worker, claimed.claim, reins, reason, failed=True, delay=delay, metadata=told)


def _given_up(claimed: ClaimedTurn, ended: Outcome) -> Outcome:
    """The caller is told what a Retry said, or how often it was tried."""
    if claimed.task.failures == 0 or (ended.may_pass and ended.may_pass.reason):
        return ended
    text = f"The agent failed after {claimed.task.failures + 1} attempts; the error was logged."
    return replace(ended, status_message=_failure(claimed.claim, text).status_message)


async def _settle(
    worker: Worker, claimed: ClaimedTurn, outbox: Outbox, reins: Reins, outcome: Outcome
) -> str:
    claim = claimed.claim
    if claimed.task.failures:  # what a retry has left there: it waits no more
        outcome = replace(outcome, metadata={**outcome.metadata, "retry": None})
    try:
        written = await _kept_or_failed(claim, outbox, outcome)
    except LeaseLost as lost:
        metrics.FENCED_WRITES.inc()
        if lost.canceled:
            return await _release(worker, claim, reins, Stop.CANCELED.value)
        elif reins.leaving.is_set():  # or a write was given up before this one, and the turn is still ours
            return await _release(worker, claim, reins, Stop.DEPLOY.value)
        log.warning("turn.lost")
        return "lost"
    except StorageUnavailable as error:
        log.error("turn.unrecorded", error=str(error))
        return "unrecorded"
    else:
        seconds = round(time.monotonic() - outbox.begun, 3)
        log.info("turn.settled", state=written.state.value, seconds=seconds)
        await _tell(worker, written.rings, [Notice(claim.task_id, written.seq, written.state)])
        return written.state.value


async def _kept_or_failed(claim: Claim, outbox: Outbox, outcome: Outcome) -> Written:
    try:
        return await outbox.settle(outcome)
    except (LeaseLost, StorageUnavailable):
        raise
    except Exception:
        # The storage does not take what the handler gave: the task must not run for ever because of it.
        log.exception("turn.unstorable")
        return await outbox.settle(_failure(claim, BAD_OUTPUT))


def _failure(claim: Claim, text: str) -> Outcome:
    said = Message(
        parts=(TextPart(text),),
        message_id=message_id(claim.task_id, claim.attempt, -1),
        context_id=claim.context_id,
        task_id=str(claim.task_id),
    )
    return Outcome(state=TaskState.FAILED, status_message=said)


async def _release(worker: Worker, claim: Claim, reins: Reins, reason: str, **how: Any) -> str:
    """Give the task back, or let go of a canceled one. `how` is for `Storage.release_task`.
    The reason again."""
    try:
        rings = await reins.patiently(lambda: worker.storage.release_task(claim, reason=reason, **how))
        notices = await worker.storage.notices([claim.task_id])
    except StorageUnavailable as error:
        log.error("turn.unreleased", reason=reason, error=str(error))
    else:
        log.info("turn.released", reason=reason)
        await _tell(worker, rings, notices)
    return reason


async def _tell(worker: Worker, rings: Sequence[Ring], notices: Sequence[Notice]) -> None:
    _deliver(worker)
    worker.queue.tell(notices)
    if rings:
        await ring(worker.queue, rings)


def _deliver(worker: Worker) -> None:
    """What was written may be for a webhook, where there can be any. (Those of an earlier deploy are found unasked.)"""
    if worker.agent.config.capabilities.push_notifications:
        worker.deliver()
