"""What requests ask for and streams say, in the words of the domain: between the wire and `TaskManager`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from uuid import UUID

from perdure.storage import IdempotencyKey
from perdure.tasks import ArtifactChunk, Message, StatusChange


@dataclass(frozen=True, slots=True, kw_only=True)
class Callback:
    """A push notification config before it belongs to a task. An empty `config_id` is filled in."""

    url: str
    config_id: str = ""
    token: str = ""
    scheme: str = ""
    credentials: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """A message to the agent. `metadata` is that of the request: a new task keeps it as its own."""

    message: Message
    metadata: Mapping[str, Any] = field(default_factory=dict)
    history_length: int | None = None
    return_immediately: bool = False
    callback: Callback | None = None
    accepted_output_modes: Sequence[str] = ()
    """Media types that the caller can do something with; none: any."""
    tenant: str = ""
    key: IdempotencyKey | None = None
    """Of a send that may be repeated; it does not come from the body."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What a stream says after its task: `seq` is the number of the event, from which the stream can be resumed."""

    task_id: UUID
    context_id: str
    seq: int
    time: datetime
    body: StatusChange | ArtifactChunk
