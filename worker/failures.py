"""Why a turn failed, for operators: the caller is told a neutral text (`perdure.turns.perform`), the storage keeps the rest."""

from __future__ import annotations

import traceback

import structlog

from perdure.errors import StorageUnavailable
from perdure.storage import Claim
from perdure.storage.fingerprints import LONGEST, fingerprint
from perdure.storage.operators import Failure
from perdure.stored.storable import cleaned
from perdure.tasks import TaskState
from perdure.turns.perform import Outcome

from .lease import Stop
from .worker import Worker

log = structlog.get_logger(__name__)

MOST_OF_A_TRACEBACK = 8_000
"""Characters, of its end: where it was raised."""


async def record_failure(worker: Worker, claim: Claim, outcome: Outcome, why: Stop | None) -> None:
    """Before the turn settles, so that whoever sees it failed can see why; best effort, since the turn's end matters more."""
    if outcome.state is not TaskState.FAILED:
        return
    error_class, message = _said(outcome, why)
    failure = Failure(
        task_id=claim.task_id,
        attempt=claim.attempt,
        error_class=cleaned(error_class),
        message=cleaned(message)[:LONGEST],
        fingerprint=fingerprint(error_class, message),
        traceback=cleaned(_traceback(outcome.error))[-MOST_OF_A_TRACEBACK:],
        worker=worker.worker_id,
    )
    try:
        await worker.storage.record_failure(failure)
    except StorageUnavailable as error:
        log.warning("failure.not_recorded", error=str(error))
    except Exception:
        log.exception("failure.not_recorded")


def _said(outcome: Outcome, why: Stop | None) -> tuple[str, str]:
    if outcome.error is not None:
        return _class_of(outcome.error), str(outcome.error)
    text = outcome.status_message.text if outcome.status_message else ""
    match why:
        case Stop.TIMEOUT | Stop.DEADLINE | Stop.BROKEN:
            return why.value, text
    return ("Retry" if outcome.may_pass else "AgentError"), text


def _class_of(error: BaseException) -> str:
    """As tracebacks name it; without the module where that is the agent's own file: `perdure.agent.loader` makes up its name."""
    kind = type(error)
    local = kind.__module__ in ("builtins", "__main__") or kind.__module__.startswith("perdure_agent_")
    return kind.__qualname__ if local else f"{kind.__module__}.{kind.__qualname__}"


def _traceback(error: BaseException | None) -> str:
    return "".join(traceback.format_exception(error)) if error else ""
