"""The attempts of a task, read off its log: what each storage keeps is told the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from perdure.storage.operators import Attempt, Failure, Why
from perdure.tasks import StatusChange, TaskState


@dataclass(frozen=True, slots=True)
class Status:
    """A status event; `worker` is set where it is a claim's."""

    seq: int
    attempt: int
    time: datetime
    change: StatusChange
    worker: str = ""


_ENDS = {
    TaskState.COMPLETED: Why.COMPLETED,
    TaskState.FAILED: Why.FAILED,
    TaskState.REJECTED: Why.REJECTED,
    TaskState.CANCELED: Why.CANCELED,
    TaskState.INPUT_REQUIRED: Why.ASKED,
    TaskState.AUTH_REQUIRED: Why.ASKED,
}
_RELEASES = {
    "retry": Why.RETRY,
    "timeout": Why.TIMEOUT,
    "crash": Why.CRASH,
    "deploy": Why.DEPLOY,
    "late": Why.LATE,
}


def attempts_of(statuses: Iterable[Status], failures: Mapping[int, Failure]) -> Sequence[Attempt]:
    """The status events of a task in their order, as its attempts."""
    found: list[Attempt] = []
    for status in statuses:
        open_one = found[-1] if found and found[-1].ended_at is None else None
        if status.change.state is TaskState.WORKING:
            if status.attempt and (open_one is None or open_one.attempt != status.attempt):
                found.append(_begun(status, failures))
        elif open_one is not None:
            found[-1] = _ended(open_one, status)
    return found


def _begun(status: Status, failures: Mapping[int, Failure]) -> Attempt:
    failure = failures.get(status.attempt)
    worker = status.worker or (failure.worker if failure else "")
    return Attempt(
        attempt=status.attempt,
        seq=status.seq,
        worker=worker,
        began_at=status.time,
        ended_at=None,
        why=Why.RUNNING,
        failure=failure,
    )


def _ended(attempt: Attempt, status: Status) -> Attempt:
    reason = status.change.metadata.get("reason")
    if status.attempt == attempt.attempt:
        why = _ENDS.get(status.change.state, Why.AGAIN)
    elif reason in _RELEASES:
        why = _RELEASES[reason]
    else:
        why = _ENDS.get(status.change.state, Why.OTHER)
    retry = status.change.metadata.get("retry")
    after = retry.get("after") if isinstance(retry, Mapping) else None
    return replace(attempt, ended_at=status.time, why=why, retry=after)
