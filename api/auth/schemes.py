"""How the agent's card tells of the ways in: derived from the settings, unless the agent's config has its own words for them."""

from __future__ import annotations

from dataclasses import replace

from perdure.agent import Agent
from perdure.security.schemes import ApiKey, HttpAuth, MutualTls, OpenIdConnect, SecurityScheme
from perdure.settings import AuthSettings

from .credentials import API_KEY_HEADER
from .issuers import DISCOVERY


def with_security(agent: Agent, settings: AuthSettings) -> Agent:
    """The agent whose config declares what the settings ask callers for. Each scheme alone is enough."""
    if agent.config.security_schemes or agent.config.security or not settings.is_on:
        return agent
    schemes = schemes_of(settings)
    declared = {"security_schemes": schemes, "security": [{name: []} for name in schemes]}
    return replace(agent, config=agent.config.model_copy(update=declared))


def schemes_of(settings: AuthSettings) -> dict[str, SecurityScheme]:
    """Security schemes (OpenAPI 3.1; A2A 1.0, section 4.5) by name."""
    found: dict[str, SecurityScheme] = {}
    if settings.api_keys or settings.bootstrap_key:
        found["apiKey"] = ApiKey(type="apiKey", place="header", name=API_KEY_HEADER)
    if settings.jwt_issuer:
        found["bearer"] = HttpAuth(type="http", scheme="bearer", bearer_format="JWT")
    if settings.oidc_issuer:
        url = settings.oidc_issuer.rstrip("/") + DISCOVERY
        found["openIdConnect"] = OpenIdConnect(type="openIdConnect", open_id_connect_url=url)
    if settings.proxy_addresses.strip():
        found["mutualTLS"] = MutualTls(type="mutualTLS")
    return found
