"""Push notifications: how they are delivered, and where to."""

from __future__ import annotations

from pydantic import Field, SecretStr, field_validator

from perdure.security.egress import Egress, read_allowed
from perdure.settings.values import Group, check_scheme, listed


class WebhookSettings(Group):
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
        check_scheme(url, "http", "https")
        return url

    def egress(self) -> Egress:
        """What may be asked."""
        hosts, networks = read_allowed(listed(self.allow))
        return Egress(frozenset(int(port) for port in listed(self.ports)), self.http, hosts, networks)
