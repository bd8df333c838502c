"""How an agent says, in its card, that its callers identify themselves (A2A 1.0, section 4.5).

A config spells schemes as OpenAPI does (3.1, Security Scheme Object), in snake_case or camelCase:
`{"type": "http", "scheme": "bearer"}`. The card tells of them; the door's authentication holds callers to them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

SCOPES = ("read", "write", "operate")
"""What a caller may do. None implies another: see docs/security.md."""


class _Scheme(BaseModel):
    model_config = ConfigDict(
        extra="forbid", frozen=True, alias_generator=to_camel, validate_by_name=True, validate_by_alias=True
    )

    description: str | None = None


class ApiKey(_Scheme):
    """A key in a header, the query or a cookie."""

    type: Literal["apiKey"]
    place: Literal["header", "query", "cookie"] = Field(alias="in")
    name: str


class HttpAuth(_Scheme):
    """An HTTP authentication scheme: `bearer`, `basic`, ... (RFC 9110, section 11)."""

    type: Literal["http"]
    scheme: str
    bearer_format: str | None = None


class Flow(_Scheme):
    """One flow of OAuth 2.0. Which addresses are needed depends on its name, see `Flows`."""

    authorization_url: str | None = None
    device_authorization_url: str | None = None
    token_url: str | None = None
    refresh_url: str | None = None
    scopes: Mapping[str, str] = Field(default_factory=dict)
    pkce_required: bool | None = None


_NEEDED = {
    "authorization_code": ("authorization_url", "token_url"),
    "client_credentials": ("token_url",),
    "device_code": ("device_authorization_url", "token_url"),
    "implicit": ("authorization_url",),
    "password": ("token_url",),
}


class Flows(_Scheme):
    """Exactly one flow: 1.0 has no place for more in a scheme. An agent with two declares two schemes."""

    authorization_code: Flow | None = None
    client_credentials: Flow | None = None
    device_code: Flow | None = None
    implicit: Flow | None = None
    password: Flow | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Flows:
        given = {name: flow for name in _NEEDED if (flow := getattr(self, name)) is not None}
        if len(given) != 1:
            raise ValueError(f"must have exactly one of {', '.join(_NEEDED)}: declare a scheme for each flow")
        for name, flow in given.items():
            missing = [each for each in _NEEDED[name] if getattr(flow, each) is None]
            if missing:
                raise ValueError(f"{name} must have {' and '.join(missing)}")
        return self


class OAuth2(_Scheme):
    """OAuth 2.0."""

    type: Literal["oauth2"]
    flows: Flows
    oauth2_metadata_url: str | None = None


class OpenIdConnect(_Scheme):
    """OpenID Connect."""

    type: Literal["openIdConnect"]
    open_id_connect_url: str


class MutualTls(_Scheme):
    """A client certificate."""

    type: Literal["mutualTLS"]


SecurityScheme = Annotated[
    ApiKey | HttpAuth | OAuth2 | OpenIdConnect | MutualTls, Field(discriminator="type")
]
SecurityRequirement = Mapping[str, Sequence[str]]
"""Scheme -> scopes: all of them together. A list of requirements is a choice of one."""
