"""The front door: its limits, who may call, the agent card, the operators' page."""

from __future__ import annotations

import re

from pydantic import Field, SecretStr, field_validator

from perdure.settings.values import Group, networks_in, scopes_in, web_address


class ServerSettings(Group):
    """`SERVER__...`: the front door."""

    workers: int = Field(1, ge=1, le=256, description="Processes that serve HTTP on the one port")
    max_body_bytes: int = Field(4 * 1024 * 1024, ge=1024, description="Larger requests get 413")
    max_depth: int = Field(64, ge=8, le=100, description="How deep JSON may nest")
    max_parts: int = Field(100, ge=1, description="Parts of one message")
    max_references: int = Field(
        100, ge=0, description="Tasks that one message may refer to, and extensions that it may name"
    )
    max_text_bytes: int = Field(1024 * 1024, ge=1, description="A text part of a message, in UTF-8")
    max_message_text_bytes: int = Field(
        2 * 1024 * 1024, ge=1, description="All text parts of a message together"
    )
    max_file_bytes: int = Field(3 * 1024 * 1024, ge=1, description="A file within a message, without base64")
    max_metadata_bytes: int = Field(
        64 * 1024, ge=2, description="The metadata of a request, a message or a part, as JSON"
    )
    max_metadata_depth: int = Field(16, ge=1, le=100, description="How deep metadata may nest")
    max_history: int = Field(
        1000, ge=1, le=100_000, description="Messages of a task or a conversation that one answer brings"
    )
    max_push_configs: int = Field(10, ge=1, le=1000, description="Push notification configs of a task")
    rate: float | None = Field(
        None,
        ge=0,
        description="Requests per second of one caller, in this process; 0: any number; "
        "default: 500 for who has authenticated",
    )
    burst: int = Field(2000, ge=1, description="Requests that a caller may save up while it sends fewer")
    max_open_tasks: int = Field(
        100_000, ge=0, description="Tasks of one caller that have not ended; 0: any number"
    )
    max_waiting_per_caller: int = Field(
        50_000, ge=0, description="Tasks of one caller that wait for a worker; 0: any number"
    )
    max_waiting: int = Field(
        100_000, ge=0, description="Tasks of all callers that wait for a worker; 0: any number"
    )
    max_streams_per_caller: int = Field(
        2500, ge=1, description="Streams that one caller may have open, in this process"
    )
    max_streams: int = Field(5000, ge=1, description="Streams that this process keeps open")
    max_blocking_per_caller: int = Field(
        2500, ge=1, description="Sends of one caller that may wait for their answer, in this process"
    )
    max_blocking: int = Field(5000, ge=1, description="Sends that wait for their answer in this process")
    wait_timeout: float = Field(
        600.0, gt=0, description="Seconds that a blocking send waits; then the task as it stands"
    )
    idempotency_ttl: float = Field(86400.0, gt=0, description="Seconds that an idempotency key is kept")
    idempotent_message_ids: bool = Field(
        False, description="Take a message's id for its idempotency key, where it brings none"
    )
    refresh: float = Field(
        5.0, gt=0, description="Seconds between two looks for changes whose notice was lost"
    )
    keep_alive: float = Field(15.0, gt=0, description="Seconds between two keep-alives of a stream")
    slow_reader: float = Field(
        30.0, gt=0, description="Seconds that a client may leave unread what it is sent; then it is cut off"
    )
    slow_sender: float = Field(
        30.0,
        gt=0,
        description="Seconds that the head of a request may take to arrive, and then its body, "
        "which gets one more for each 64 KiB that have come",
    )
    stop_timeout: float = Field(
        10.0, ge=0, description="Seconds that open requests get when the server stops"
    )


class AuthSettings(Group):
    """`AUTH__...`: who may call. Without one of the methods everybody is the same, anonymous caller."""

    api_keys: bool = Field(False, description="Take the API keys that `perdure keys` makes")
    bootstrap_key: SecretStr | None = Field(
        None,
        description="A first API key, with every scope, that stands here and not in the database: "
        "32 random characters or more",
    )
    jwt_issuer: str = Field("", description="Take JWT bearer tokens of this issuer (`iss`)")
    jwks_url: str = Field("", description="Where the public keys of AUTH__JWT_ISSUER are")
    oidc_issuer: str = Field(
        "", description="Take tokens of this OpenID Connect issuer; its keys are found by discovery"
    )
    jwt_audience: str = Field("", description="What `aud` of a token must name: this server")
    jwt_leeway: float = Field(
        10.0, ge=0, le=300, description="Seconds that clocks of issuers may differ from this one"
    )
    jwt_owner_claim: str = Field("sub", min_length=1, description="The claim of a token that says who it is")
    jwt_scope_claim: str = Field("scope", min_length=1, description="The claim with its scopes")
    jwt_scope_prefix: str = Field(
        "", description="What stands before read, write and operate in tokens, such as `perdure:`"
    )
    jwt_default_scopes: str = Field(
        "", description="Scopes of a token that lacks the claim, with commas between them"
    )
    proxy_addresses: str = Field(
        "",
        description="Take the identity that these proxies vouch for: addresses or networks, with commas between",
    )
    proxy_header: str = Field(
        "X-Client-Cert-Subject",
        pattern=r"^[A-Za-z0-9-]+$",
        description="The header in which they name the client's certificate",
    )
    proxy_scopes: str = Field("read,write", description="Scopes of whoever they vouch for")
    cache: float = Field(
        5.0,
        ge=0,
        le=60,
        description="Seconds that a checked key or token is remembered: a revocation takes so long at most",
    )
    insecure: bool = Field(False, description="Serve other machines from Postgres without any of this")

    @field_validator("bootstrap_key")
    @classmethod
    def _is_long(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not re.fullmatch(r"[!-~]{32,}", key.get_secret_value()):
            raise ValueError("must be 32 characters or more, without spaces: try `openssl rand -hex 32`")
        return key

    @field_validator("jwt_issuer", "oidc_issuer")
    @classmethod
    def _is_issuer(cls, issuer: str) -> str:
        if re.search(r"[\s|]", issuer):  # an owner is `issuer|claim`: two issuers must not make the same one
            raise ValueError("an issuer has neither spaces nor |")
        return issuer

    @field_validator("jwks_url", "oidc_issuer")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        return web_address(url)

    @field_validator("jwt_default_scopes", "proxy_scopes")
    @classmethod
    def _are_scopes(cls, text: str) -> str:
        scopes_in(text)
        return text

    @field_validator("proxy_addresses")
    @classmethod
    def _are_networks(cls, text: str) -> str:
        networks_in(text)
        return text

    @property
    def is_on(self) -> bool:
        """Whether callers have to say who they are."""
        return bool(
            self.api_keys
            or self.bootstrap_key
            or self.jwt_issuer
            or self.oidc_issuer
            or self.proxy_addresses.strip()
        )


class CardSettings(Group):
    """`CARD__...`: how the agent card is signed (A2A 1.0, section 8.4)."""

    signing_key: SecretStr | None = Field(
        None,
        description="Sign the card with this private key: a PEM file or PEM, of P-256, Ed25519 or RSA",
    )
    key_id: str = Field(
        "", max_length=200, description="The key's id (`kid`); default: its thumbprint by RFC 7638"
    )
    jwks_url: str = Field("", description="Where its public key is told to be (`jku`)")
    serve_jwks: bool = Field(True, description="Serve the public key at `/.well-known/jwks.json`")

    @field_validator("jwks_url")
    @classmethod
    def _is_web_address(cls, url: str) -> str:
        return web_address(url)


class OpsSettings(Group):
    """`OPS__...`: the operators' page."""

    enabled: bool = Field(True, description="Serve `/ops`, for callers with the scope operate")
    port: int | None = Field(
        None,
        ge=1,
        le=65535,
        description="A port of its own for `/ops` and `/metrics`, which then are only there",
    )
    trace_url: str = Field(
        "",
        description="Where a task's trace is looked at, such as https://grafana.example.com/trace/{trace_id}",
    )

    @field_validator("trace_url")
    @classmethod
    def _names_the_trace(cls, url: str) -> str:
        if url and not (url.startswith(("https://", "http://")) and "{trace_id}" in url):
            raise ValueError("must start with https:// and have {trace_id} where the trace's id belongs")
        return url

    def trace_link(self, trace_id: str) -> str:
        """Where to look at a trace; empty where nobody has said."""
        return self.trace_url.replace("{trace_id}", trace_id)
