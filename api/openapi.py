"""The OpenAPI 3.1 document: made of the routes, the methods, the wire's types and the table of errors that the front door uses.

What stands here and nowhere else is prose, and which types an operation takes and gives.
"""

from __future__ import annotations

from typing import Any

from perdure import __version__
from perdure.agent import AgentConfig
from perdure.security.schemes import SecurityScheme
from perdure.telling import Json

from .openapi_operations import Model
from .openapi_paths import rest_paths, rpc
from .openapi_pieces import HEADERS, JSON, PARAMETERS, content, told_headers, used
from .wire import told
from .wire.schema import components, ref


def document(config: AgentConfig) -> Json:
    """The OpenAPI document of an agent's front door."""
    paths = {**rpc(), **rest_paths(), **_others()}
    parts = {"schemas": used(paths, components()), "parameters": PARAMETERS, "headers": HEADERS}
    schemes = {name: _scheme(scheme) for name, scheme in config.security_schemes.items()}
    security: Json = {"security": [dict(each) for each in config.security]} if config.security else {}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": config.name,
            "version": config.version,
            "summary": (config.description or config.name).splitlines()[0],
            "description": _ABOUT,
        },
        "servers": [
            {"url": ".", "description": "where this document is"},
            {"url": str(config.deployment.url), "description": "the agent's address, as its card has it"},
        ],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "components": parts | ({"securitySchemes": schemes} if schemes else {}),
        **security,
    }


_ABOUT = f"""An [A2A](https://a2a-protocol.org) agent, served by Perdure {__version__}.

A member that is null counts as left out, an unknown one is ignored, and names in snake_case are taken for those in camelCase.
The agent card says which of this the agent offers."""

_TAGS = {
    "JSON-RPC": "A2A 1.0 and 0.3. The version is told by the method's name.",
    "HTTP+JSON 1.0": "A2A 1.0 (section 11).",
    "HTTP+JSON 1.0 of a tenant": "The same. The tenant is opaque.",
    "HTTP+JSON 0.3": "A2A 0.3: the ProtoJSON of its proto.",
    "agent": "The agent's card, and whether it is well.",
}


# ---------------------------------------------------------------------- the card, and the probes


def _others() -> Json:
    def get(name: str, summary: str, responses: Json) -> Json:
        return {
            "get": {
                "operationId": name,
                "summary": summary,
                "tags": ["agent"],
                "security": [],
                "responses": responses,
            }
        }

    def ok(description: str, model: Model, **members: Any) -> Json:
        return {"description": description, **members, "content": content(ref(model), JSON)}

    cached = told_headers(["ETag", "Cache-Control"])
    card = {
        "200": ok("The card.", told.AgentCard, headers=cached),
        "304": {"description": "The card is the one that If-None-Match names."},
    }
    keys = {
        "200": ok("The public key.", told.KeySet, headers=cached),
        "304": {"description": "They are those that If-None-Match names."},
        "404": ok("The card is not signed, or its key is elsewhere.", told.Refused),
    }
    return {
        "/.well-known/agent-card.json": get("getAgentCard", "The agent card, of 1.0 and of 0.3", card),
        "/.well-known/jwks.json": get("getCardKeys", "What the card is signed with", keys),
        "/healthz": get("healthz", "Whether the process lives", {"200": ok("It does.", told.Health)}),
        "/readyz": get(
            "readyz",
            "Whether messages are accepted and worked on",
            {
                "200": ok("They are accepted; `degraded` says that they may wait.", told.Readiness),
                "503": ok("The task store is away or out of date.", told.Readiness),
            },
        ),
    }


_FLOWS = ("implicit", "password", "clientCredentials", "authorizationCode")


def _scheme(scheme: SecurityScheme) -> Json:
    """A Security Scheme Object. OpenAPI 3.1 knows neither the device flow nor where OAuth's metadata is."""
    told_by_config = scheme.model_dump(by_alias=True, exclude_none=True)
    told_by_config.pop("oauth2MetadataUrl", None)
    if "flows" in told_by_config:
        flows = told_by_config["flows"]
        told_by_config["flows"] = {name: _flow(flow) for name, flow in flows.items() if name in _FLOWS}
    return told_by_config


def _flow(flow: Json) -> Json:
    return {
        name: value
        for name, value in flow.items()
        if name in ("authorizationUrl", "tokenUrl", "refreshUrl", "scopes")
    }
