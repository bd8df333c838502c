"""The config of an agent: what it may say of itself, and what of it must agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    HttpUrl,
    StringConstraints,
    field_validator,
    model_validator,
)

from perdure.security.schemes import SecurityRequirement, SecurityScheme


def _listed(skill: Any) -> Any:
    if not isinstance(skill, str | Mapping):
        raise ValueError("must be a name, a folder or a dict; functions are given in the handler's place")
    return skill


ListedSkill = Annotated[str | Mapping[str, Any], BeforeValidator(_listed)]


class _Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Deployment(_Config):
    """Where callers reach the agent. `url` is its public address, as it stands in the card; where it is not given, the card
    has the address that is listened on.

    `expose` is read for configs written for Bindu and opens nothing: HOST alone decides who can connect.
    """

    url: HttpUrl = HttpUrl("http://localhost:3773")
    expose: bool = False


class Provider(_Config):
    """Who offers the agent."""

    organization: str
    url: str


class Extension(_Config):
    """An A2A extension that the agent speaks (1.0, section 4.6). A request that does not name a `required` one is refused."""

    uri: str = Field(min_length=1, max_length=2048, pattern=r"^[^\s,]+$")
    """Stands in comma-separated headers."""
    description: str = ""
    required: bool = False
    params: Mapping[str, Any] = Field(default_factory=dict)


class Capabilities(_Config):
    """What of A2A's optional parts callers may use (1.0, section 4.4.3)."""

    streaming: bool = True
    push_notifications: bool = False
    extended_agent_card: bool = False
    extensions: Sequence[Extension] = ()


class ExtendedCard(_Config):
    """What authenticated callers see in the card besides (1.0, section 3.1.11): more skills, another description."""

    description: str = ""
    documentation_url: str = ""
    skills: Sequence[ListedSkill] = ()
    extensions: Sequence[Extension] = ()


class Limit(_Config):
    """At most `max_running` turns at once: of the whole agent, or (`per`) of each value of a member of the metadata."""

    max_running: int = Field(ge=1, le=1_000_000)
    per: str | None = Field(default=None, pattern=r"^metadata(\.[^.\x00]+)+$")
    """A path as `metadata.tenant`, in the metadata of the message, else of the request. Tasks without that member are not limited
    by it."""


class AgentConfig(_Config):
    """The config of an agent. Only `name` must be given; unknown members are an error, since they are typing errors."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
    author: str = ""
    description: str = ""
    version: str = "1.0.0"
    deployment: Deployment = Deployment()
    skills: Sequence[ListedSkill] = ()
    capabilities: Capabilities = Capabilities()
    default_input_modes: Sequence[str] = ("text/plain", "application/json")
    default_output_modes: Sequence[str] = ("text/plain", "application/json")
    provider: Provider | None = None
    documentation_url: str = ""
    icon_url: str = ""
    security_schemes: Mapping[str, SecurityScheme] = Field(default_factory=dict)
    security: Sequence[SecurityRequirement] = ()
    """What callers must satisfy one of."""
    extended_card: ExtendedCard | None = None
    conversation_policy: Literal["enqueue", "reject", "interrupt", "parallel"] = "enqueue"
    """What a new task does while its conversation has one that waits or runs."""
    priority: int = Field(default=0, ge=-100, le=100)
    """Of a message that names none; higher ones go first."""
    turn_timeout: float | None = Field(default=None, gt=0)
    """Seconds that a turn may take, where its message does not say; at most TURNS__TIMEOUT, which None stands for."""
    limits: Sequence[Limit] = ()
    slots: int | None = Field(default=None, ge=1)
    """Turns that one worker runs at once; at most WORKER__SLOTS, which None stands for."""
    direct_replies: bool = False
    """The handler may answer with `turn.reply`: streams begin once it is known whether it does."""
    retry_on: Sequence[type[Exception]] = ()
    """Exceptions that are tried again, besides lost connections, timeouts and the HTTP statuses 429, 502, 503 and 504."""

    @field_validator("limits")
    @classmethod
    def _one_each(cls, limits: Sequence[Limit]) -> Sequence[Limit]:
        if len({limit.per for limit in limits}) < len(limits):
            raise ValueError("has two limits per the same")
        return limits

    @field_validator("name", "author", "description")
    @classmethod
    def _one_line(cls, value: str) -> str:
        if "\x00" in value:
            raise ValueError("holds a NUL character")
        return value.strip()

    @model_validator(mode="after")
    def _complete(self) -> Self:
        """Members that speak of each other agree."""
        unknown = {name for each in self.security for name in each} - set(self.security_schemes)
        if unknown:
            raise ValueError(
                f"security names {', '.join(sorted(unknown))}, which security_schemes does not have"
            )
        said = self.capabilities.model_fields_set
        if self.extended_card is not None and "extended_agent_card" not in said:
            raise ValueError("extended_card is shown only with capabilities.extended_agent_card: true")
        return self
