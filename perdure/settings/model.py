"""All settings in one: those that belong to no group, and the groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic.fields import FieldInfo
from pydantic_settings import (
    BaseSettings,
    DotEnvSettingsSource,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from perdure.security.signatures import is_secret
from perdure.settings.running import (
    LogSettings,
    RetentionSettings,
    StorageSettings,
    TurnSettings,
    WorkerSettings,
)
from perdure.settings.serving import AuthSettings, CardSettings, OpsSettings, ServerSettings
from perdure.settings.values import Group, check_scheme, listed, lower_case
from perdure.settings.webhooks import WebhookSettings


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

    _lower = field_validator("storage_type", "queue_type", mode="before")(lower_case)

    @field_validator("database_url", "migrations_database_url", "worker_database_url")
    @classmethod
    def _is_postgres(cls, url: SecretStr | None) -> SecretStr | None:
        check_scheme(url, "postgresql", "postgres", "postgresql+asyncpg")
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
        check_scheme(url, "redis", "rediss", "unix")
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


class SettingsOfThisProcess(Settings):
    """Reads the environment and `.env` when it is made."""

    _read_from_process = True


class _GroupsByMember:
    """A group is given by its members (`LOG__LEVEL`), never by its own name: `LOG=/var/log` is meant for somebody else."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        value, key, is_complex = super().get_field_value(field, field_name)  # type: ignore[misc]
        return (None if isinstance(field.default, Group) else value), key, is_complex


class _Environment(_GroupsByMember, EnvSettingsSource):
    pass


class _DotEnv(_GroupsByMember, DotEnvSettingsSource):
    pass


# ---------------------------------------------------------------------- their names


def fields() -> Iterator[tuple[str, str, FieldInfo]]:
    """NAME, the group's attribute ("" for none) and the field of each setting."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, Group):
            for member, nested in type(field.default).model_fields.items():
                yield f"{name}__{member}".upper(), name, nested
        else:
            yield name.upper(), "", field


def names() -> list[str]:
    """The names of the variables: `STORAGE__POOL_SIZE`."""
    return [name for name, _, _ in fields()]
