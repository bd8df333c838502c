"""The agent card: one document that clients of 1.0 and of 0.3 both read. Built once; public and cacheable."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.agent import Agent, Extension
from perdure.agent import ExtendedCard as ExtendedCardConfig
from perdure.agent.skills import Skill
from perdure.errors import UnsupportedOperation
from perdure.security.schemes import SecurityRequirement, SecurityScheme
from perdure.telling import given

from .auth import Caller
from .cached import cached
from .codes import ExtendedCardNotConfigured, Unauthenticated
from .extensions import skill_inputs
from .wire import v03, v1

Json = dict[str, Any]
Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True)
class AsTenant:
    """Where else one of several agents is reached: at an address that they share, by the name of its tenant."""

    url: str
    tenant: str


def card_json(
    agent: Agent,
    extensions: Sequence[Extension],
    more: Sequence[Skill] = (),
    *,
    also: AsTenant | None = None,
) -> Json:
    """An AgentCard (1.0, section 4.4.1) with the members that 0.3 wants (section 5.5 there); with `more` skills than the public
    one, and where else the agent is reached."""
    config, skills = agent.config, [*agent.skills, *more]
    url = str(config.deployment.url)
    return {
        "name": config.name,
        "description": config.description or config.name,
        "version": config.version,
        "supportedInterfaces": [
            *(
                {"url": url, "protocolBinding": binding, "protocolVersion": version}
                for binding, version in INTERFACES
            ),
            *(
                {
                    "url": also.url,
                    "protocolBinding": binding,
                    "protocolVersion": version,
                    "tenant": also.tenant,
                }
                for binding, version in INTERFACES
                if also and version == v1.VERSION  # 0.3 has no tenants
            ),
        ],
        "capabilities": {
            "streaming": config.capabilities.streaming,
            "pushNotifications": config.capabilities.push_notifications,
            "extendedAgentCard": config.capabilities.extended_agent_card,
            **given(extensions=[_extension(each) for each in (*extensions, *skill_inputs(skills))]),
        },
        "defaultInputModes": list(config.default_input_modes),
        "defaultOutputModes": list(config.default_output_modes),
        "skills": [_skill(skill) for skill in skills],
        **given(
            provider=config.provider.model_dump() if config.provider else None,
            documentationUrl=config.documentation_url,
            iconUrl=config.icon_url,
            securitySchemes={name: _scheme(scheme) for name, scheme in config.security_schemes.items()},
            securityRequirements=[_requirement(each) for each in config.security],
        ),
        # What 0.3 adds.
        "protocolVersion": "0.3.0",
        "url": url,
        "preferredTransport": "JSONRPC",
        "additionalInterfaces": [
            {"url": url, "transport": binding} for binding, version in INTERFACES if version == v03.VERSION
        ],
        "supportsAuthenticatedExtendedCard": config.capabilities.extended_agent_card,
        **given(security=[{name: list(scopes) for name, scopes in each.items()} for each in config.security]),
    }


INTERFACES = (
    ("JSONRPC", v1.VERSION),
    ("HTTP+JSON", v1.VERSION),
    ("JSONRPC", v03.VERSION),
    ("HTTP+JSON", v03.VERSION),
)
"""What is spoken, in the order of preference."""


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


def _extension(extension: Extension) -> Json:
    return {"uri": extension.uri, **given(**extension.model_dump(exclude={"uri"}))}


_MEMBERS = {
    "apiKey": "apiKeySecurityScheme",
    "http": "httpAuthSecurityScheme",
    "oauth2": "oauth2SecurityScheme",
    "openIdConnect": "openIdConnectSecurityScheme",
    "mutualTLS": "mtlsSecurityScheme",
}
"""0.3 tells the kind of a scheme by its type, 1.0 by the name of its only member."""


def _scheme(scheme: SecurityScheme) -> Json:
    """A SecurityScheme of both versions: the members of 0.3 beside the one of 1.0. Each ignores what it does not know."""
    old = scheme.model_dump(by_alias=True, exclude_none=True)
    new = {name: value for name, value in old.items() if name not in ("type", "in")}
    if "in" in old:
        new["location"] = old["in"]
    return {**old, _MEMBERS[scheme.type]: new}


def _requirement(schemes: SecurityRequirement) -> Json:
    """A SecurityRequirement of 1.0."""
    return {"schemes": {name: {"list": list(scopes)} for name, scopes in schemes.items()}}


# ------------------------------------------------------------------ the extended card


@dataclass(frozen=True, slots=True)
class ExtendedCard:
    """The card for callers who have identified themselves (1.0, section 3.1.11); and the challenge to others."""

    enabled: bool = False
    document: Json | None = None
    challenge: str = "Bearer"

    def shown_to(self, caller: Caller) -> Json:
        """The card. `UnsupportedOperation` if it is switched off, `ExtendedCardNotConfigured` if the agent has none,
        `Unauthenticated` for a caller that nobody knows."""
        if not self.enabled:
            raise UnsupportedOperation("this agent has no extended card")
        if self.document is None:
            raise ExtendedCardNotConfigured("the extended card is not configured")
        if not caller.authenticated:
            raise Unauthenticated("the extended card is for authenticated callers", self.challenge)
        return self.document

    def with_document(self, document: Json) -> ExtendedCard:
        """The same, showing this."""
        return replace(self, document=document)


def extended_card(
    agent: Agent, extensions: Sequence[Extension], also: AsTenant | None = None
) -> ExtendedCard:
    """The extended card of an agent, as of now."""
    more = agent.config.extended_card
    return ExtendedCard(
        enabled=agent.config.capabilities.extended_agent_card,
        document=_extended(agent, more, extensions, also) if more else None,
        challenge=", ".join(_challenges(agent.config.security_schemes.values())) or "Bearer",
    )


def _extended(
    agent: Agent, more: ExtendedCardConfig, extensions: Sequence[Extension], also: AsTenant | None
) -> Json:
    document = card_json(agent, [*extensions, *more.extensions], agent.extended_skills, also=also)
    return document | given(description=more.description, documentationUrl=more.documentation_url)


def _challenges(schemes: Iterable[SecurityScheme]) -> Iterator[str]:
    """The HTTP authentication schemes by which the declared schemes are met. Keys and certificates have none."""
    names = {
        scheme.scheme.capitalize() if scheme.type == "http" else "Bearer"
        for scheme in schemes
        if scheme.type in ("http", "oauth2", "openIdConnect")
    }
    return iter(sorted(names))


# ------------------------------------------------------------------ over HTTP


def endpoint(document: Json | None) -> Endpoint:
    """The card, or another document that anybody may have and keep; None for one that there is not."""
    shown = None if document is None else cached(orjson.dumps(document), "application/json")

    async def answer(request: Request) -> Response:
        if shown is None:
            raise HTTPException(404)
        return shown.answer(request)

    return answer
