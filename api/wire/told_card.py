"""The agent card."""

from __future__ import annotations

from .reading import Metadata
from .told_model import Told


class AgentInterface(Told):
    """An address of the agent, and what is spoken there."""

    url: str
    protocol_binding: str
    protocol_version: str
    tenant: str | None = None


class AgentInterface03(Told):
    """The same, as 0.3 has it."""

    url: str
    transport: str


class AgentExtension(Told):
    """An extension of A2A that the agent speaks. Requests must name a required one in `A2A-Extensions`."""

    uri: str
    description: str | None = None
    required: bool | None = None
    params: Metadata | None = None


class AgentCapabilities(Told):
    """What of A2A's optional parts may be used."""

    streaming: bool
    push_notifications: bool
    extended_agent_card: bool
    extensions: list[AgentExtension] | None = None


class AgentProvider(Told):
    """Who offers the agent."""

    organization: str
    url: str


class AgentSkill(Told):
    """One thing that the agent can do."""

    id: str
    name: str
    description: str
    tags: list[str]
    examples: list[str] | None = None
    input_modes: list[str] | None = None
    output_modes: list[str] | None = None


class SecurityRequirement(Told):
    """Schemes that are needed together, with their scopes."""

    schemes: dict[str, Metadata]


class AgentCardSignature(Told):
    """A JSON Web Signature (RFC 7515) over one canonical form of the card."""

    protected: str
    signature: str


class AgentCard(Told):
    """The agent card of both versions: the last six members are those of 0.3."""

    name: str
    description: str
    version: str
    supported_interfaces: list[AgentInterface]
    capabilities: AgentCapabilities
    default_input_modes: list[str]
    default_output_modes: list[str]
    skills: list[AgentSkill]
    provider: AgentProvider | None = None
    documentation_url: str | None = None
    icon_url: str | None = None
    security_schemes: dict[str, Metadata] | None = None
    security_requirements: list[SecurityRequirement] | None = None
    signatures: list[AgentCardSignature] | None = None
    protocol_version: str
    url: str
    preferred_transport: str
    additional_interfaces: list[AgentInterface03]
    supports_authenticated_extended_card: bool
    security: list[dict[str, list[str]]] | None = None


class KeySet(Told):
    """A JWK Set (RFC 7517)."""

    keys: list[Metadata]
