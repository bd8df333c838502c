"""The spans of a task and what they say, by OpenTelemetry's semantic conventions (1.43: HTTP, messaging, GenAI).

Names, ids, numbers and kinds of errors; never what was said, nor an address but for its origin.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from uuid import UUID

from perdure.agent import AgentConfig
from perdure.security.egress import Refused, read_url
from perdure.storage import Claim, ClaimedTurn
from perdure.storage.webhooks import ClaimedDelivery
from perdure.tracing import OFF, Attributes, Span, is_on, span

SYSTEM = "perdure"
TROUBLE = frozenset({"failed", "retry", "timeout", "lost", "abandoned", "unrecorded"})
"""The ends of a turn that are errors, by the words that the metrics have for them."""


def sending(agent: str, task_id: UUID, context_id: str) -> AbstractContextManager[Span]:
    """A message becomes a task, or more of one."""
    if not is_on():
        return OFF
    return span(f"send {agent}", "producer", _message("send", agent, task_id, context_id))


def turn(agent: str, claimed: ClaimedTurn, worker_id: str) -> AbstractContextManager[Span]:
    """An attempt, from its claim to what became of it."""
    if not is_on():
        return OFF
    claim = claimed.claim
    attributes = {
        **_message("process", agent, claim.task_id, claim.context_id),
        "messaging.client.id": worker_id,
        "perdure.attempt": claim.attempt,
    }
    return span(f"process {agent}", "consumer", attributes, origins=claimed.trace_contexts)


def ended(span: Span, outcome: str) -> None:
    """How a turn ended, in a word."""
    span.note({"perdure.outcome": outcome})
    if outcome in TROUBLE:
        span.fail(outcome)


def invocation(config: AgentConfig, claim: Claim) -> AbstractContextManager[Span]:
    """The handler. Whatever it instruments itself is inside."""
    if not is_on():
        return OFF
    attributes: Attributes = {
        "gen_ai.operation.name": "invoke_agent",
        "gen_ai.agent.name": config.name,
        "gen_ai.agent.version": config.version,
        "gen_ai.conversation.id": claim.context_id,
        "perdure.task.id": str(claim.task_id),
        "perdure.attempt": claim.attempt,
    }
    return span(f"invoke_agent {config.name}", "internal", attributes)


def delivery(claimed: ClaimedDelivery, url: str) -> AbstractContextManager[Span]:
    """One request to a webhook."""
    if not is_on():
        return OFF
    attributes: dict[str, str | int] = {
        "http.request.method": "POST",
        "perdure.task.id": str(claimed.config.task_id),
        "perdure.delivery.id": str(claimed.delivery_id),
    }
    if claimed.attempt > 1:
        attributes["http.request.resend_count"] = claimed.attempt - 1
    try:
        target = read_url(url)
    except Refused:
        pass
    else:
        attributes |= {
            "url.scheme": target.scheme,
            "server.address": target.host,
            "server.port": target.port,
        }
    return span("POST", "client", attributes, origins=claimed.trace_contexts)


def _message(operation: str, agent: str, task_id: UUID, context_id: str) -> dict[str, str | int]:
    named: dict[str, str | int] = {
        "messaging.system": SYSTEM,
        "messaging.operation.name": operation,
        "messaging.operation.type": operation,
        "messaging.destination.name": agent,
        "messaging.message.id": str(task_id),
        "perdure.task.id": str(task_id),
    }
    return {**named, "messaging.message.conversation_id": context_id} if context_id else named
