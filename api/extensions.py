"""A2A extensions (1.0, sections 3.2.6 and 4.6): what is declared, what requests must name, what answers say was active."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request

from perdure.agent import Agent, Extension
from perdure.agent.skills import Skill

from .codes import ExtensionSupportRequired

HEADER = "A2A-Extensions"
HEADER_03 = "X-A2A-Extensions"
"""As 0.3 calls it. Both are read in both versions: clients that speak both send either."""

_NAMES = frozenset(name.lower().encode() for name in (HEADER, HEADER_03))

OURS = "urn:perdure:a2a:operations:v1"
"""What Perdure offers beyond A2A; the page docs/extension.md. Another version of it gets another URI."""


def ours(methods: Iterable[str]) -> Extension:
    """The declaration of our own operations."""
    return Extension(
        uri=OURS,
        description="Lists tasks in 0.3, takes feedback, lists, shows and clears conversations, "
        "shows and repeats deliveries to webhooks; "
        "streams resume by Last-Event-ID, sends repeat safely by Idempotency-Key",
        params={"methods": sorted(methods)},
    )


@dataclass(frozen=True, slots=True)
class Activated:
    """The extensions that are active for a request; `headers` say so in its answer, under the names that the client used."""

    uris: tuple[str, ...]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class Extensions:
    """The extensions that this agent declares, by URI."""

    declared: frozenset[str]
    required: frozenset[str]

    def activated(self, request: Request) -> Activated:
        """Which of the extensions that the client named are active. Those that nobody declared are ignored, as the protocol
        wants. `ExtensionSupportRequired` if a required one is missing."""
        if not self.required and _NAMES.isdisjoint(dict(request.headers.raw)):
            return Activated((), {})
        named = {
            header: uris
            for header in (HEADER, HEADER_03)
            if (uris := _named(request.headers.getlist(header)))
        }
        missing = self.required.difference(*named.values())
        if missing:
            raise ExtensionSupportRequired(
                f"this agent requires extensions that {HEADER} does not name: {', '.join(sorted(missing))}"
            )
        active = {header: [uri for uri in uris if uri in self.declared] for header, uris in named.items()}
        return Activated(
            uris=tuple(dict.fromkeys(uri for uris in active.values() for uri in uris)),
            headers={header: ", ".join(uris) for header, uris in active.items() if uris},
        )


def _named(values: Iterable[str]) -> list[str]:
    """URIs as the client lists them, each once."""
    found = (uri.strip() for value in values for uri in value.split(","))
    return list(dict.fromkeys(uri for uri in found if uri))


SKILL_INPUTS = "urn:perdure:a2a:skill-inputs:v1"
"""The schemas of what skills take, and how a message names one; the page docs/skill-inputs.md."""


def skill_inputs(skills: Iterable[Skill]) -> tuple[Extension, ...]:
    """Its declaration, if one of the skills has a schema: A2A's own AgentSkill has no member for it."""
    schemas = {skill.id: {"inputSchema": skill.input_schema} for skill in skills if skill.input_schema}
    if not schemas:
        return ()
    about = "JSON schemas of what skills take as data; a message names its skill in its metadata, as skillId"
    return (Extension(uri=SKILL_INPUTS, description=about, params={"skills": schemas}),)


def declared(agent: Agent, own: Extension) -> tuple[Extension, ...]:
    """What both cards list: the agent's, then ours. Beside them stands what their skills take."""
    return (*agent.config.capabilities.extensions, own)


def negotiated(agent: Agent, own: Extension) -> Extensions:
    """What requests are held to. What the extended card declares besides can be activated, but is never required: not everybody
    can know of it."""
    extended = agent.config.extended_card.extensions if agent.config.extended_card else ()
    shown = declared(agent, own)
    inputs = skill_inputs([*agent.skills, *agent.extended_skills])
    return Extensions(
        declared=frozenset(extension.uri for extension in (*shown, *inputs, *extended)),
        required=frozenset(extension.uri for extension in shown if extension.required),
    )
