"""What a send becomes for the storage: the message, the agent's config and `metadata.perdure` put together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from perdure.agent import AgentConfig, Limit
from perdure.errors import InvalidParams
from perdure.ids import new_context_id
from perdure.scheduling import MEMBER, NOTHING, Scheduling, scheduling_of
from perdure.storage import NewTask, Policy, WebhookConfig
from perdure.tasks import Message

from .wire.asked import Send

_POLICIES = {policy.value: policy for policy in Policy}
LONGEST_KEY = 200
"""Bytes of a limit's key. A longer one is hashed: callers choose the values."""


def new_task(
    config: AgentConfig,
    owner: str,
    task_id: UUID,
    send: Send,
    now: datetime,
    webhooks: Sequence[WebhookConfig] = (),
) -> NewTask:
    """The task that a message begins. `InvalidParams` names what is wrong with its scheduling."""
    message = send.message
    asked, path = _scheduling(send, now)
    if asked is not NOTHING:
        _refuse_never(asked, path)
    return NewTask(
        task_id=task_id,
        owner=owner,
        context_id=message.context_id or new_context_id(),
        message=message,
        metadata=send.metadata,
        policy=_POLICIES[config.conversation_policy],
        priority=config.priority if asked.priority is None else asked.priority,
        delay=asked.not_before or 0.0,
        expires=asked.expires,
        deadline=asked.deadline,
        limits=limits_of(config, _metadata(send)) if config.limits else {},
        webhooks=webhooks,
    )


def follow_up(send: Send, now: datetime) -> Message:
    """The message to a task that is there: with the request's metadata, which has no other place.

    `InvalidParams` for scheduling that is a new task's: when it may begin and must end is settled.
    """
    asked, path = _scheduling(send, now)
    if asked != Scheduling(turn_timeout=asked.turn_timeout):
        raise InvalidParams(
            path,
            "may have nothing but turnTimeout in a message to an existing task: the rest was settled with the first",
        )
    return replace(send.message, metadata=_metadata(send))


def _metadata(send: Send) -> dict[str, Any]:
    return {**send.metadata, **send.message.metadata}


def _scheduling(send: Send, now: datetime) -> tuple[Scheduling, str]:
    """What is asked for, and where in the request: in the message's metadata, or else in the request's."""
    place, metadata = ("message.", send.message.metadata)
    if MEMBER not in metadata:
        place, metadata = "", send.metadata
        if MEMBER not in metadata:
            return NOTHING, ""
    try:
        return scheduling_of(metadata, now), f"{place}metadata.{MEMBER}"
    except InvalidParams as error:
        raise InvalidParams(f"{place}{error.field}", error.description) from None


def _refuse_never(asked: Scheduling, path: str) -> None:
    """A task that would be over its time before it may begin. Not where both have passed: that may be a send that is repeated."""
    for name, end in (("expires", asked.expires), ("deadline", asked.deadline)):
        if asked.not_before and end is not None and end <= asked.not_before:
            raise InvalidParams(f"{path}.{name}", "must be later than notBefore")


# ---------------------------------------------------------------------- limits


def limits_of(config: AgentConfig, metadata: Mapping[str, Any]) -> dict[str, int]:
    """What a task counts against while it runs: a key for each of the agent's limits that applies to it, and how many may run.

    A key is the JSON of the agent's name and, for a limit by a member, its path and its value: the same in all processes, and
    1 and "1" are different.
    """
    found = ((limit, _steps(config.name, limit, metadata)) for limit in config.limits)
    return {_key(steps): limit.max_running for limit, steps in found if steps is not None}


def _steps(agent: str, limit: Limit, metadata: Mapping[str, Any]) -> list[Any] | None:
    """None for a task that is not limited by it: the member is missing or null."""
    if limit.per is None:
        return [agent]
    value = _member(metadata, limit.per.split(".")[1:])
    return None if value is None else [agent, limit.per, value]


def _member(value: Any, path: Iterable[str]) -> Any:
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _key(steps: list[Any]) -> str:
    text = orjson.dumps(steps, option=orjson.OPT_SORT_KEYS)
    return text.decode() if len(text) <= LONGEST_KEY else f"sha256:{sha256(text).hexdigest()}"
