"""How long a turn may take."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from perdure.errors import InvalidParams
from perdure.scheduling import MEMBER, scheduling_of
from perdure.settings import Settings
from perdure.storage import ClaimedTurn
from perdure.tasks import Role

from .lease import Stop
from .worker import Worker


@dataclass(frozen=True, slots=True)
class Limit:
    """`seconds` from the turn's begin; `why` is what it then ends with: TIMEOUT or DEADLINE."""

    seconds: float
    why: Stop


def limit_of(worker: Worker, claimed: ClaimedTurn) -> Limit:
    """The task's deadline, where it is nearer; else what the message asks for, else what the agent says, but never more than
    TURNS__TIMEOUT."""
    longest = worker.settings.turns.timeout
    asked = _of_message(claimed) or worker.agent.config.turn_timeout or longest
    seconds = min(asked, longest)
    if claimed.deadline is not None and claimed.deadline <= seconds:
        return Limit(claimed.deadline, Stop.DEADLINE)
    return Limit(seconds, Stop.TIMEOUT)


def hung_after(settings: Settings) -> float:
    """Seconds after its limit in which a turn has been told to stop, and then has ended or was left behind; if the event loop
    can do anything at all."""
    return settings.turns.patience + settings.worker.lease_grace


def _of_message(claimed: ClaimedTurn) -> float | None:
    said = next((each for each in reversed(claimed.conversation) if each.role is Role.USER), None)
    metadata: Mapping[str, Any] = said.metadata if said else {}
    if MEMBER not in metadata:
        return None
    with suppress(InvalidParams):  # stored before this member had a meaning
        return scheduling_of(metadata, datetime.now(UTC)).turn_timeout
    return None
