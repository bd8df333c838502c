"""The agent card: one document that clients of 1.0 and of 0.3 both read. Built once; public and cacheable."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from hashlib import sha256
from typing import Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from perdure.agent import Agent
from perdure.skills import Skill

from .wire import v03, v1
from .wire.writing import given

Json = dict[str, Any]
MAX_AGE = 300
"""Seconds that a card may be kept without asking. Whoever asks with the ETag sees a changed agent at once."""


@dataclass(frozen=True, slots=True)
class Card:
    """The document with what its caches need."""

    body: bytes
    headers: dict[str, str]

    @property
    def etag(self) -> str:
        return self.headers["ETag"]


def build_card(agent: Agent) -> Card:
    """The card of an agent, as of now."""
    body = orjson.dumps(card_json(agent))
    headers = {
        "ETag": f'"{sha256(body).hexdigest()[:32]}"',
        "Cache-Control": f"public, max-age={MAX_AGE}",
        "Last-Modified": format_datetime(datetime.now(UTC), usegmt=True),
    }
    return Card(body, headers)


def card_json(agent: Agent) -> Json:
    """An AgentCard (1.0, section 4.4.1) with the members that 0.3 wants (section 5.5 there)."""
    config = agent.config
    url = str(config.deployment.url)
    return {
        "name": config.name,
        "description": config.description or config.name,
        "version": config.version,
        "supportedInterfaces": [
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": v1.VERSION},
            {"url": url, "protocolBinding": "HTTP+JSON", "protocolVersion": v1.VERSION},
            {"url": url, "protocolBinding": "JSONRPC", "protocolVersion": v03.VERSION},
        ],
        "capabilities": {
            "streaming": config.capabilities.streaming,
            "pushNotifications": config.capabilities.push_notifications,
            "extendedAgentCard": config.capabilities.extended_agent_card,
        },
        "defaultInputModes": list(config.default_input_modes),
        "defaultOutputModes": list(config.default_output_modes),
        "skills": [_skill(skill) for skill in agent.skills],
        **given(
            provider=config.provider.model_dump() if config.provider else None,
            documentationUrl=config.documentation_url,
            iconUrl=config.icon_url,
        ),
        # What 0.3 adds.
        "protocolVersion": "0.3.0",
        "url": url,
        "preferredTransport": "JSONRPC",
        "additionalInterfaces": [{"url": url, "transport": "JSONRPC"}],
        "supportsAuthenticatedExtendedCard": config.capabilities.extended_agent_card,
    }


def _skill(skill: Skill) -> Json:
    return {
        "id": skill.id,
        "name": skill.name,
        "description": skill.description,
        "tags": list(skill.tags),
        **given(
            examples=list(skill.examples),
            inputModes=list(skill.input_modes),
            outputModes=list(skill.output_modes),
        ),
    }


async def endpoint(card: Card, request: Request) -> Response:
    """The card, or 304 when the caller has it."""
    if _has_it(request.headers.get("If-None-Match", ""), card.etag):
        return Response(status_code=304, headers=card.headers)
    return Response(card.body, headers=card.headers, media_type="application/json")


def _has_it(if_none_match: str, etag: str) -> bool:
    """Weak comparison (RFC 9110, section 13.1.2): a proxy that compresses makes the tag weak."""
    tags = {tag.strip().removeprefix("W/") for tag in if_none_match.split(",")}
    return etag in tags or "*" in tags
