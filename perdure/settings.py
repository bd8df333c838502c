"""Settings, from the environment and `.env`: the only reader of the environment.

Nested ones are spelled with two underscores: `STORAGE__POOL_SIZE=20`. docs/configuration.md and `.env.example` list them all
(a test holds both against this file). The environment goes before `.env`, `.env` before the default; an empty value counts
as not given; upper and lower case are the same.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Any, ClassVar, Literal, TextIO
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from perdure.egress import Egress, Refused, read_allowed
from perdure.errors import ConfigError
from perdure.security import SCOPES
from perdure.signatures import is_secret


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


class StorageSettings(_Group):
    """`STORAGE__...`: the database. Times are seconds."""

    run_migrations_on_startup: bool = Field(True, description="Upgrade the schema when a process starts")
    pool_size: int = Field(10, ge=1, le=1000, description="Connections that a process keeps")
    max_overflow: int = Field(0, ge=0, le=1000, description="Connections beyond those, under load")
    pool_timeout: float = Field(10.0, gt=0, description="How long a request waits for a connection")
    connect_timeout: float = Field(5.0, gt=0, description="How long one attempt to connect may take")
    startup_timeout: float = Field(30.0, ge=0, description="How long a start waits for the database")
    statement_timeout: float = Field(10.0, gt=0, description="After this the server ends a statement")
    lock_timeout: float = Field(5.0, gt=0, description="After this a statement stops waiting for a lock")
    migration_lock_timeout: float = Field(
        3.0,
        gt=0,
        le=600,
        description="How long a migration waits for a table, with everybody behind it waiting too; then it lets them through "
        "and tries again, five times in all",
    )
    retry_timeout: float = Field(
        5.0, ge=0, description="How long a lost connection, deadlock or serialization failure is retried"
    )
    row_security: bool = Field(
        False,
        description="Front doors see one owner's rows at a time, see docs/security.md; "
        "needs `perdure migrate row-security on`",
    )
    prepared_statements: bool = Field(
        True,
        description="Off behind a PgBouncer before 1.21 in transaction mode: statements are prepared anew each time",
    )
    finished_tasks: int = Field(10_000, ge=0, description="Memory only: how many ended tasks are kept")


class WorkerSettings(_Group):
    """`WORKER__...`: who runs turns. Times are seconds."""

    slots: int = Field(50, ge=1, le=10_000, description="Turns that one process runs at once")
    max_stuck: int = Field(
        5, ge=1, description="Handlers that do not end when told to; with so many of them the process exits"
    )
    lease: float = Field(15.0, gt=0, description="How long a task stays with a worker that gives no sign")
    lease_grace: float = Field(
        2.0, ge=0, description="What a lapsed lease is given on top before it is taken over"
    )
    grace: float = Field(20.0, ge=0, description="How long a stopping worker lets its turns finish")
    sweep_interval: float = Field(
        2.0, gt=0, description="How often forgotten and lapsed tasks are looked for"
    )
    beat_interval: float = Field(5.0, gt=0, description="How often a worker gives a sign of life")
    fold_after: float = Field(
        3600.0,
        ge=0,
        description="How long after its end the pieces of a task's streamed artifacts are put together",
    )
    health_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="A port for `/healthz`, `/readyz` and `/metrics` of `perdure worker`, on HOST",
    )
    poll_delay: float = Field(
        0.05, gt=0, description="How often stock arq looks for rings; `perdure worker` is woken"
    )


class TurnSettings(_Group):
    """`TURNS__...`: one run of a handler."""

    timeout: float = Field(
        3600.0,
        gt=0,
        le=366 * 86400,
        description="Seconds that a turn may take at most; an agent or a message may say less",
    )
    patience: float = Field(
        10.0,
        gt=0,
        le=86400,
        description="Seconds that a handler which was told to stop is given; then it is left behind",
    )
    max_failures: int = Field(
        3, ge=0, description="How often a task is tried again after a failure that may pass"
    )
    retry_base: float = Field(
        1.0,
        gt=0,
        description="The first retry comes within so many seconds, each next one within twice as many",
    )
    retry_cap: float = Field(
        300.0,
        gt=0,
        description="The longest of these pauses; what a Retry or a Retry-After asks for may be more",
    )
    max_crashes: int = Field(3, ge=1, description="A task that was held by so many dying workers fails")
    history: int = Field(
        200, ge=1, le=10_000, description="How many messages of the conversation a handler gets"
    )
    max_artifact_bytes: int = Field(
        16 * 1024 * 1024,
        ge=1024,
        le=128 * 1024 * 1024,
        description="One artifact, message or step of an agent; a turn that gives more fails",
    )
    max_output_bytes: int = Field(
        32 * 1024 * 1024, ge=1024, description="All that one turn gives; one that gives more fails"
    )
    max_artifacts: int = Field(1000, ge=1, description="Artifacts of one task; a turn that makes more fails")
    chunk_interval: float = Field(0.05, ge=0, description="Seconds between two writes of streamed chunks")


class ServerSettings(_Group):
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


class WebhookSettings(_Group):
    """`WEBHOOKS__...`: how push notifications are delivered. Times are seconds."""

    keys: SecretStr | None = Field(
        None,
        description="What seals their addresses and secrets in the database, from `perdure webhooks key`; "
        "the first seals, the others still open",
    )
    timeout: float = Field(15.0, gt=0, le=300, description="How long a receiver may take to answer")
    concurrency: int = Field(100, ge=1, le=10_000, description="Deliveries that one process sends at once")
    per_endpoint: int = Field(
        4, ge=1, le=1000, description="Deliveries to one origin of one caller at once, by all processes"
    )
    interval: float = Field(1.0, gt=0, description="How often a worker looks for deliveries unasked")
    max_answer_bytes: int = Field(
        65_536, ge=1024, description="More of an answer is not read; the log keeps its head"
    )
    retention: float = Field(
        7 * 86400.0, gt=0, description="How long what was delivered or given up stays in the log"
    )
    disable_after: float = Field(
        5 * 86400.0, gt=0, description="A config that only failed for so long is disabled"
    )
    breaker_failures: int = Field(
        5, ge=1, description="An endpoint that failed so often in a row is left alone"
    )
    breaker_pause: float = Field(
        30.0, gt=0, le=600, description="For how long, at first; twice as long each time, at most ten minutes"
    )
    ports: str = Field("443,8443", description="The ports that an address may have")
    http: bool = Field(False, description="Whether addresses may begin with http:// as well")
    allow: str = Field(
        "",
        description="For development: hosts and networks that may be asked whatever they are, "
        "such as 127.0.0.1/32,hooks.test",
    )
    proxy: SecretStr | None = Field(
        None, description="A proxy that every delivery goes through: http://user:password@host:port"
    )

    @field_validator("ports")
    @classmethod
    def _are_ports(cls, value: str) -> str:
        if not all(port.isdecimal() and 0 < int(port) < 65536 for port in listed(value)) or not value:
            raise ValueError("ports are numbers, divided by commas")
        return value

    @field_validator("allow")
    @classmethod
    def _are_places(cls, value: str) -> str:
        read_allowed(listed(value))
        return value

    @field_validator("proxy")
    @classmethod
    def _is_proxy(cls, url: SecretStr | None) -> SecretStr | None:
        _check_scheme(url, "http", "https")
        return url

    def egress(self) -> Egress:
        """What may be asked."""
        hosts, networks = read_allowed(listed(self.allow))
        return Egress(frozenset(int(port) for port in listed(self.ports)), self.http, hosts, networks)


class RetentionSettings(_Group):
    """`RETENTION__...`: how long what has ended is kept, in seconds from its end. Not set: for ever."""

    completed: float | None = Field(None, ge=0, description="How long completed tasks are kept")
    failed: float | None = Field(None, ge=0, description="How long failed tasks are kept")
    canceled: float | None = Field(None, ge=0, description="How long canceled tasks are kept")
    rejected: float | None = Field(None, ge=0, description="How long rejected tasks are kept")
    events: float | None = Field(
        None,
        ge=0,
        description="How long the whole log of a task is kept; then what history, artifacts and status do not need goes",
    )
    actions: float | None = Field(None, ge=0, description="How long entries of the operators' audit are kept")
    archive: Path | None = Field(
        None, description="A folder that every task is written to, as a line of JSON, before it is deleted"
    )
    compress: bool = Field(True, description="Whether the files of the archive are compressed (gzip)")
    interval: float = Field(
        60.0, gt=0, description="Seconds between two looks for what is old, by all workers together"
    )


class AuthSettings(_Group):
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
        return _web_address(url)

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


def _web_address(url: str) -> str:
    """The address, or an empty text. ValueError for one that others could tamper with on its way."""
    try:
        split = urlsplit(url)
    except ValueError:
        raise ValueError("is no address") from None
    local = split.scheme == "http" and split.hostname in ("127.0.0.1", "::1", "localhost")
    if url and not local and (split.scheme != "https" or not split.hostname):
        raise ValueError("must start with https:// (http:// is for 127.0.0.1, ::1 and localhost)")
    return url


def scopes_in(text: str) -> list[str]:
    """`read,write` as a list. ValueError for what is no scope."""
    scopes = listed(text)
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"{unknown[0]!r} is no scope: there are {', '.join(SCOPES)}")
    return scopes


def networks_in(text: str) -> list[IPv4Network | IPv6Network]:
    """`10.0.0.0/8,::1` as a list. ValueError for what is no address."""
    return [ip_network(each) for each in listed(text)]


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


class CardSettings(_Group):
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
        return _web_address(url)


class OpsSettings(_Group):
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


class LogSettings(_Group):
    """`LOG__...`: what is said on stderr."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="The least that is said")
    format: Literal["auto", "console", "json"] = Field(
        "auto", description="auto: console on a terminal, else json"
    )

    contents: Literal["auto", "shown", "redacted"] = Field(
        "auto",
        description="The texts of errors, which may repeat what an agent was told: auto shows them on a terminal alone",
    )

    _lower = field_validator("level", "format", "contents", mode="before")(_lower_case)


class Settings(BaseSettings):
    """All settings. `Settings()` is the defaults; processes get theirs from `load_settings`."""

    model_config = SettingsConfigDict(
        env_nested_delimiter="__",
        env_file=".env",
        env_file_encoding="utf-8",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    storage_type: Literal["memory", "postgres"] = Field("memory", description="Where tasks are kept")
    database_url: SecretStr | None = Field(
        None, description="The database: postgresql://user:password@host:5432/name"
    )
    migrations_database_url: SecretStr | None = Field(
        None, description="Another way to the same database for migrations: past a PgBouncer"
    )
    worker_database_url: SecretStr | None = Field(
        None, description="The same database as the workers' role, with row security"
    )
    queue_type: Literal["inline", "arq"] = Field(
        "inline", description="inline: turns run in the server; arq: in workers"
    )
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="Redis, for QUEUE_TYPE=arq"
    )
    queue_name: str = Field("perdure", min_length=1, description="Prefix of every key in Redis")
    agent: str | None = Field(None, description="The agent: a file's path or module:attribute")
    agents: str | None = Field(
        None, description="Several agents instead: files or module:attribute, or name=file, divided by commas"
    )
    host: str = Field("127.0.0.1", description="The address to listen on")
    port: int | None = Field(
        None, ge=0, le=65535, description="The port to listen on; default: that of deployment.url, or 3773"
    )
    data_dir: Path = Field(Path(".perdure"), description="Where `perdure up` keeps its database")
    webhook_url: SecretStr | None = Field(
        None, description="Your own webhook: every change of every task is told there"
    )
    webhook_token: SecretStr | None = Field(
        None, description="Sent to WEBHOOK_URL as X-A2A-Notification-Token"
    )
    webhook_secrets: SecretStr | None = Field(
        None, description="Secrets that sign deliveries, whsec_..., the newest first, divided by commas"
    )
    otel_sdk_disabled: bool = Field(False, description="Trace nothing, whatever else is set")
    otel_service_name: str | None = Field(
        None, description="What traces call this process; default: the agent's name"
    )
    otel_traces_exporter: str | None = Field(
        None, description="otlp, console (on stdout) or none; otlp where there is an endpoint"
    )
    otel_exporter_otlp_endpoint: str | None = Field(
        None, description="Where traces go: http://collector:4318, to which /v1/traces is added"
    )
    otel_exporter_otlp_traces_endpoint: str | None = Field(
        None, description="The same, with its path, before the one above"
    )
    otel_exporter_otlp_protocol: str | None = Field(None, description="http/protobuf is the one there is")
    otel_exporter_otlp_traces_protocol: str | None = Field(None, description="The same for traces")
    storage: StorageSettings = StorageSettings()
    worker: WorkerSettings = WorkerSettings()
    turns: TurnSettings = TurnSettings()
    server: ServerSettings = ServerSettings()
    webhooks: WebhookSettings = WebhookSettings()
    retention: RetentionSettings = RetentionSettings()
    auth: AuthSettings = AuthSettings()
    card: CardSettings = CardSettings()
    ops: OpsSettings = OpsSettings()
    log: LogSettings = LogSettings()

    _lower = field_validator("storage_type", "queue_type", mode="before")(_lower_case)

    @field_validator("database_url", "migrations_database_url", "worker_database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        _check_scheme(url, "postgresql", "postgres", "postgresql+asyncpg")
        return url

    @field_validator("webhook_secrets")
    @classmethod
    def _sign(cls, secrets: SecretStr | None) -> SecretStr | None:
        for secret in listed(secrets.get_secret_value()) if secrets else ():
            if not is_secret(secret):
                raise ValueError("a signing secret is whsec_ and 24 to 64 bytes in base64")
        return secrets

    @field_validator("redis_url")
    @classmethod
    def _is_redis(cls, url: SecretStr) -> SecretStr:
        _check_scheme(url, "redis", "rediss", "unix")
        return url

    _read_from_process: ClassVar[bool] = False

    @property
    def traces(self) -> bool:
        """Whether OpenTelemetry's variables ask for traces."""
        exporters = listed(self.otel_traces_exporter or "")
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return not self.otel_sdk_disabled and exporters != ["none"] and bool(exporters or endpoint)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing but what is given, unless a process asks: a test's settings must not be those of the developer's shell."""
        if not cls._read_from_process:
            return (init_settings,)
        return init_settings, _Environment(settings_cls), _DotEnv(settings_cls)


class _GroupsByMember:
    """A group is given by its members (`LOG__LEVEL`), never by its own name: `LOG=/var/log` is meant for somebody else."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)  # type: ignore[misc]
        return (None if isinstance(field.default, _Group) else value), key, is_complex


class _Environment(_GroupsByMember, EnvSettingsSource):
    pass


class _DotEnv(_GroupsByMember, DotEnvSettingsSource):
    pass


class _SettingsOfThisProcess(Settings):
    _read_from_process = True


def _check_scheme(url: SecretStr | None, *schemes: str) -> None:
    if url is not None and url.get_secret_value().partition("://")[0].lower() not in schemes:
        raise ValueError(f"an address must start with {schemes[0]}://")


# ---------------------------------------------------------------------- reading them


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process: `overrides` (None: not given), else the environment, else `.env`, else the defaults.

    Raises ConfigError with one line for a wrong value, for combinations that cannot work, and for a variable that is most
    likely one of ours with a typing error. No other variable matters.
    """
    _refuse_typing_errors(_variables())
    try:
        given = {name: value for name, value in overrides.items() if value is not None}
        settings = Settings(**dict(_SettingsOfThisProcess(**given)))
    except ValidationError as error:
        raise ConfigError(_readable(error)) from None
    except SettingsError as error:
        raise ConfigError(str(error)) from None
    _refuse_contradictions(settings)
    _refuse_webhook(settings)
    return settings


def _variables() -> dict[str, tuple[str, str]]:
    """Every variable of `.env` and the environment that has a value, as NAME -> (value, source)."""
    return {**_from(_dotenv(), ".env"), **_from(os.environ, "environment")}


def _from(variables: Mapping[str, str | None], source: str) -> dict[str, tuple[str, str]]:
    # Upper case last: where both PORT and port are given, PORT counts.
    names = sorted(variables, key=str.isupper)
    return {name.upper(): (value, source) for name in names if (value := variables[name])}


def _dotenv() -> Mapping[str, str | None]:
    from dotenv import dotenv_values

    if not Path(".env").exists():
        return {}
    try:
        return dotenv_values(".env", encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f".env cannot be read: {error}") from None


def given() -> dict[str, str]:
    """The settings that the environment and `.env` give, by NAME, as they stand there: secrets too."""
    known = set(_names())
    return {name: value for name, (value, _) in _variables().items() if name in known}


def sources() -> dict[str, str]:
    """Which settings are given, by NAME, and where: `environment` or `.env`."""
    known = set(_names())
    return {name: source for name, (_, source) in _variables().items() if name in known}


def _readable(error: ValidationError) -> str:
    return "; ".join(
        f"{'__'.join(str(step) for step in problem['loc']).upper()}: {problem['msg'].removeprefix('Value error, ')}"
        for problem in error.errors(include_url=False, include_input=False, include_context=False)
    )


def _refuse_contradictions(settings: Settings) -> None:
    _refuse_half_of_a_method(settings.auth)
    if settings.storage_type == "postgres":
        if settings.database_url is None:
            raise ConfigError(
                "STORAGE_TYPE=postgres needs DATABASE_URL=postgresql://user:password@host:5432/name"
            )
        return
    remedy = "set STORAGE_TYPE=postgres as well, or remove it: in memory all tasks end with the process"
    if settings.queue_type == "arq":
        raise ConfigError(f"QUEUE_TYPE=arq is set, but STORAGE_TYPE is memory: {remedy}")
    for name in ("DATABASE_URL", "MIGRATIONS_DATABASE_URL", "WORKER_DATABASE_URL"):
        if getattr(settings, name.lower()) is None:
            continue
        raise ConfigError(f"{name} is set, but STORAGE_TYPE is memory: {remedy}")
    if settings.auth.api_keys:
        raise ConfigError(
            "AUTH__API_KEYS is set, but STORAGE_TYPE is memory, which `perdure keys` cannot reach: "
            "set AUTH__BOOTSTRAP_KEY instead, or STORAGE_TYPE=postgres as well"
        )


def _refuse_half_of_a_method(auth: AuthSettings) -> None:
    if bool(auth.jwt_issuer) != bool(auth.jwks_url):
        raise ConfigError("AUTH__JWT_ISSUER and AUTH__JWKS_URL belong together (or set AUTH__OIDC_ISSUER)")
    if (auth.jwt_issuer or auth.oidc_issuer) and not auth.jwt_audience:
        raise ConfigError(
            "AUTH__JWT_AUDIENCE is missing: without it, tokens that were made for other services would be taken"
        )
    if auth.jwt_audience and not (auth.jwt_issuer or auth.oidc_issuer):
        raise ConfigError("AUTH__JWT_AUDIENCE is set, but neither AUTH__JWT_ISSUER nor AUTH__OIDC_ISSUER")


def _refuse_webhook(settings: Settings) -> None:
    """An operator's own address is held to the same rules: an exception is made by name, in WEBHOOKS__ALLOW."""
    if settings.webhook_url is None:
        if settings.webhook_token is not None:
            raise ConfigError("WEBHOOK_TOKEN is set, but there is no WEBHOOK_URL to send it to")
        return
    try:
        settings.webhooks.egress().check_url(settings.webhook_url.get_secret_value())
    except Refused as error:
        raise ConfigError(
            f"WEBHOOK_URL {error}; what is inside your own network goes into WEBHOOKS__ALLOW"
        ) from None


# ---------------------------------------------------------------------- typing errors

_OTHERS = {"LOG_LEVEL", "LOG_FORMAT"}
"""One edit from ours, but far more likely meant for another program: platforms set them for every process."""


def _refuse_typing_errors(names: Iterable[str]) -> None:
    known = _names()
    groups = tuple(name.partition("__")[0] + "__" for name in known if "__" in name)
    for name in names:
        if name in known or name in _OTHERS:
            continue
        near = next((ours for ours in known if len(ours) >= 6 and _one_edit(name, ours)), None)
        if near:
            raise ConfigError(f"{name} is not a setting; did you mean {near}?")
        if name.startswith(groups):
            raise ConfigError(f"{name} is not a setting; `perdure settings` lists those there are")


def _one_edit(one: str, other: str) -> bool:
    """Whether inserting, deleting or replacing one character, or swapping two neighbours, makes one of the other."""
    short, long = sorted((one, other), key=len)
    same = 0
    while same < len(short) and short[same] == long[same]:
        same += 1
    short, long = short[same:], long[same:]
    if len(short) < len(long):
        return short == long[1:]
    swapped = short[:2] == long[1::-1] and short[2:] == long[2:]
    return short != long and (swapped or short[1:] == long[1:])


# ---------------------------------------------------------------------- their names


def _names() -> list[str]:
    return [name for name, _, _ in fields()]


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """NAME, the group's attribute ("" for none) and the field of each setting."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, _Group):
            for member, nested in type(field.default).model_fields.items():
                yield f"{name}__{member}".upper(), name, nested
        else:
            yield name.upper(), "", field


# ---------------------------------------------------------------------- other things of the environment


def wants_colour(stream: TextIO) -> bool:
    """Whether text on `stream` may be coloured: a terminal without NO_COLOR (https://no-color.org), or FORCE_COLOR."""
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or stream.isatty()


def hand_on_opentelemetry(settings: Settings) -> None:
    """Put into the environment what `settings` and `.env` have of OpenTelemetry's variables: its SDK looks nowhere else."""
    ours = {name: getattr(settings, name.lower()) for name in _names() if name.startswith("OTEL_")}
    theirs = {name: value for name, value in _dotenv().items() if name.startswith("OTEL_")}
    for name, value in {**theirs, **ours}.items():
        if value and (name in ours or name not in os.environ):
            os.environ[name] = str(value)


def environment(**changes: str) -> dict[str, str]:
    """The environment of a process that is started by this one."""
    return {**os.environ, **changes}
