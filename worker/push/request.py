"""What a delivery says: the body and the headers of its request (A2A 1.0, section 4.3.3; 0.3, section 9.5; Standard
Webhooks)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime

import orjson

from perdure import __version__
from perdure.security import signatures
from perdure.settings import Settings, listed
from perdure.storage.views import task_artifacts, task_history
from perdure.storage.webhooks import GLOBAL, WebhookConfig
from perdure.tasks import ArtifactChunk, Event, Message, StatusChange, Task, TaskState, fold_chunks
from perdure.telling import Update, v03, v1

USER_AGENT = f"perdure/{__version__}"


@dataclass(frozen=True, slots=True)
class Receiver:
    """Who is told, as of now: for the operator's own webhook what the settings say."""

    url: str
    token: str
    authorization: str
    secrets: tuple[str, ...]


def receiver(config: WebhookConfig, settings: Settings) -> Receiver | None:
    """None where the operator's own webhook has been taken away since.

    A token that is one or several signing secrets (`whsec_...`, divided by spaces) signs, and is not sent: so a caller's
    receiver can verify signatures, since A2A has no place for its secret.
    """
    signing = tuple(listed(_secret(settings.webhook_secrets)))
    if config.config_id == GLOBAL:
        url, token = _secret(settings.webhook_url), _secret(settings.webhook_token)
        return Receiver(url, token, "", signing) if url else None
    own = tuple(config.token.split())
    is_own = bool(own) and all(map(signatures.is_secret, own))
    return Receiver(
        url=config.url,
        token="" if is_own else config.token,
        authorization=f"{config.scheme} {config.credentials}".strip() if config.scheme else "",
        secrets=own if is_own else signing,
    )


def _secret(setting: object) -> str:
    get = getattr(setting, "get_secret_value", str)
    return "" if setting is None else str(get())


def headers(to: Receiver, version: str, delivery_id: str, time: datetime, body: bytes) -> dict[str, str]:
    """All but Host and Content-Length."""
    named = {
        "Content-Type": "application/json" if version == "0.3" else "application/a2a+json",
        "User-Agent": USER_AGENT,
        "A2A-Version": version,
    }
    if to.authorization:
        named["Authorization"] = to.authorization
    if to.token:
        named["X-A2A-Notification-Token"] = to.token
    return named | signatures.headers(delivery_id, time, body, to.secrets)


def body(task: Task, events: Sequence[Event], version: str) -> bytes:
    """1.0: one StreamResponse. 0.3: the bare Task, as it stood at the event. The last of `events` is the one that is told."""
    if version == "0.3":
        return orjson.dumps(v03.task(task_at(task, events)))
    told = events[-1]
    said = told.body
    if isinstance(said, ArtifactChunk):
        pieces = (event.body for event in events if isinstance(event.body, ArtifactChunk))
        said = ArtifactChunk(fold_chunks(pieces)[0], append=False, last_chunk=True)
    if isinstance(said, Message):
        raise TypeError("messages are not told")
    update = Update(task_id=task.task_id, context_id=task.context_id, seq=told.seq, time=told.time, body=said)
    return orjson.dumps(v1.update(update))


def task_at(task: Task, events: Sequence[Event]) -> Task:
    """The task after the last of `events`, which are all up to that one. Its metadata is that of now."""
    stood = replace(task, state=TaskState.SUBMITTED, status_message=None, status_timestamp=task.created_at)
    status_seq = 0
    for event in events:
        change = event.body
        if isinstance(change, StatusChange) and (change.state is not stood.state or change.message):
            status_seq = event.seq
            stood = replace(
                stood, state=change.state, status_message=change.message, status_timestamp=event.time
            )
    return replace(
        stood,
        history=tuple(task_history(events, (), status_seq)),
        artifacts=task_artifacts(events, ()),
        last_seq=events[-1].seq,
    )
