"""What answers look like, for the OpenAPI document: types of which nothing is ever made.

Answers are written by `v1`, `v03`, `v03_rest` and `writing`, quicker than a model would. That both say the same is shown by
tests/api/test_openapi.py: it holds real answers of every operation against these, and allows no member that is not here.
Classes ending in 03 are 0.3's JSON-RPC, in 03Rest its HTTP+JSON; what has the same shape in requests is in the dialects.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field
from pydantic.alias_generators import to_camel

from perdure.payload import STATE_NAMES
from perdure.tasks import TaskState

from . import v03, v03_rest, v1
from .reading import Metadata, exactly_one_of, kind


class Told(BaseModel):
    """The members of an answer. Those with a default are left out where they say nothing."""

    model_config = ConfigDict(alias_generator=to_camel)


def _enum(*names: str) -> Any:
    return Field(json_schema_extra={"enum": list(names)})


State = Annotated[str, _enum(*STATE_NAMES.values())]
State03 = Annotated[str, _enum(*TaskState)]
State03Rest = Annotated[str, _enum(*v03_rest.STATES.values())]

# ---------------------------------------------------------------------- 1.0


class TaskStatus(Told):
    """Where a task stands."""

    state: State
    message: v1.MessageShape | None = None
    timestamp: datetime


class Artifact(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v1.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task(Told):
    """A task. `history` is its messages, oldest first."""

    id: str
    context_id: str
    status: TaskStatus
    artifacts: list[Artifact] | None = None
    history: list[v1.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent(Told):
    """A task's state has changed, or its agent said something."""

    task_id: str
    context_id: str
    status: TaskStatus
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent(Told):
    """An artifact, or a piece of one. `append` adds to the artifact with that id; without it the piece replaces it."""

    task_id: str
    context_id: str
    artifact: Artifact
    append: bool | None = None
    last_chunk: bool | None = None
    metadata: Metadata | None = None


class SendMessageResponse(Told):
    """A task, or the agent's bare message."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("task", "message"))

    task: Task | None = None
    message: v1.MessageShape | None = None


class StreamResponse(Told):
    """The `data` of one server-sent event."""

    model_config = ConfigDict(
        json_schema_extra=exactly_one_of("task", "message", "statusUpdate", "artifactUpdate")
    )

    task: Task | None = None
    message: v1.MessageShape | None = None
    status_update: TaskStatusUpdateEvent | None = None
    artifact_update: TaskArtifactUpdateEvent | None = None


class ListTasksResponse(Told):
    """A page of tasks. `pageSize` is the number of tasks in it, `nextPageToken` is empty on the last one."""

    tasks: list[Task]
    next_page_token: str
    page_size: int
    total_size: int


class ListTaskPushNotificationConfigsResponse(Told):
    """A page of configs."""

    configs: list[v1.CallbackShape]
    next_page_token: str


class Nothing(Told):
    """An empty object."""


# ---------------------------------------------------------------------- 0.3, JSON-RPC


class TaskStatus03(Told):
    """Where a task stands."""

    state: State03
    message: v03.MessageShape | None = None
    timestamp: datetime


class Artifact03(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v03.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task03(Told):
    """A task."""

    model_config = ConfigDict(json_schema_extra=kind("task"))

    id: str
    context_id: str
    status: TaskStatus03
    artifacts: list[Artifact03] | None = None
    history: list[v03.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent03(Told):
    """A task's state has changed. After a `final` one the stream ends."""

    model_config = ConfigDict(json_schema_extra=kind("status-update"))

    task_id: str
    context_id: str
    status: TaskStatus03
    final: bool
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent03(Told):
    """An artifact, or a piece of one."""

    model_config = ConfigDict(json_schema_extra=kind("artifact-update"))

    task_id: str
    context_id: str
    artifact: Artifact03
    append: bool
    last_chunk: bool
    metadata: Metadata | None = None


class TaskPushNotificationConfig03(Told):
    """A task's push notification config."""

    task_id: str
    push_notification_config: v03.CallbackShape


class ListTasksResponse03(Told):
    """A page of tasks; 0.3 itself has no list."""

    tasks: list[Task03]
    next_page_token: str
    page_size: int
    total_size: int


# ---------------------------------------------------------------------- 0.3, HTTP+JSON


class TaskStatus03Rest(Told):
    """Where a task stands."""

    state: State03Rest
    message: v03_rest.MessageShape | None = None
    timestamp: datetime


class Artifact03Rest(Told):
    """A result of a task."""

    artifact_id: str
    parts: list[v03_rest.PartShape]
    name: str | None = None
    description: str | None = None
    metadata: Metadata | None = None
    extensions: list[str] | None = None


class Task03Rest(Told):
    """A task."""

    id: str
    context_id: str
    status: TaskStatus03Rest
    artifacts: list[Artifact03Rest] | None = None
    history: list[v03_rest.MessageShape] | None = None
    metadata: Metadata | None = None


class TaskStatusUpdateEvent03Rest(Told):
    """A task's state has changed."""

    task_id: str
    context_id: str
    status: TaskStatus03Rest
    final: bool | None = None
    metadata: Metadata | None = None


class TaskArtifactUpdateEvent03Rest(Told):
    """An artifact, or a piece of one."""

    task_id: str
    context_id: str
    artifact: Artifact03Rest
    append: bool | None = None
    last_chunk: bool | None = None
    metadata: Metadata | None = None


class SendMessageResponse03Rest(Told):
    """A task, or the agent's bare message."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("task", "message"))

    task: Task03Rest | None = None
    message: v03_rest.MessageShape | None = None


class StreamResponse03Rest(Told):
    """The `data` of one server-sent event."""

    model_config = ConfigDict(
        json_schema_extra=exactly_one_of("task", "message", "statusUpdate", "artifactUpdate")
    )

    task: Task03Rest | None = None
    message: v03_rest.MessageShape | None = None
    status_update: TaskStatusUpdateEvent03Rest | None = None
    artifact_update: TaskArtifactUpdateEvent03Rest | None = None


class ListTasksResponse03Rest(Told):
    """A page of tasks."""

    tasks: list[Task03Rest]
    next_page_token: str
    page_size: int
    total_size: int


class ListTaskPushNotificationConfigResponse03Rest(Told):
    """All configs of a task."""

    configs: list[v03_rest.NamedCallback]
    next_page_token: str | None = None


# ---------------------------------------------------------------------- ours


class Feedback(Told):
    """What was stored."""

    feedback_id: str
    task_id: str
    feedback: str
    created_at: datetime
    rating: int | None = None
    metadata: Metadata | None = None


class Context(Told):
    """A conversation."""

    context_id: str
    created_at: datetime
    updated_at: datetime
    metadata: Metadata | None = None


class ContextPage(Told):
    """A page of conversations, last change first."""

    contexts: list[Context]
    next_page_token: str
    page_size: int


class WholeContext(Context):
    """A conversation with its tasks and messages, oldest first."""

    task_ids: list[str]
    messages: list[v1.MessageShape]


class WholeContext03(Context):
    """A conversation with its tasks and messages, oldest first."""

    task_ids: list[str]
    messages: list[v03.MessageShape]


class ClearedContext(Told):
    """What was deleted."""

    context_id: str
    tasks_deleted: int


# ---------------------------------------------------------------------- the card


class AgentInterface(Told):
    """An address of the agent, and what is spoken there."""

    url: str
    protocol_binding: str
    protocol_version: str


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


class AgentCard(Told):
    """The agent card of both versions: the last seven members are those of 0.3."""

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
    protocol_version: str
    url: str
    preferred_transport: str
    additional_interfaces: list[AgentInterface03]
    supports_authenticated_extended_card: bool
    security: list[dict[str, list[str]]] | None = None


# ---------------------------------------------------------------------- errors, health


class ErrorInfo(Told):
    """A google.rpc.ErrorInfo: which error it is."""

    type: Annotated[
        str, Field(alias="@type", json_schema_extra={"const": "type.googleapis.com/google.rpc.ErrorInfo"})
    ]
    reason: str
    domain: str
    metadata: dict[str, str]


class FieldViolation(Told):
    """A member of the request that is wrong."""

    field: str
    description: str


class BadRequest(Told):
    """A google.rpc.BadRequest: what in the request is wrong."""

    type: Annotated[
        str, Field(alias="@type", json_schema_extra={"const": "type.googleapis.com/google.rpc.BadRequest"})
    ]
    field_violations: list[FieldViolation]


class Status(Told):
    """A google.rpc.Status. `code` is the HTTP status."""

    code: int
    status: str
    message: str
    details: list[ErrorInfo | BadRequest]


class Refused(Told):
    """An error over HTTP+JSON (1.0, section 11.6; AIP-193)."""

    error: Status


class Refused03(Told):
    """An error over 0.3's HTTP+JSON."""

    type: str
    message: str
    error: Status


class RpcError(Told):
    """An error over JSON-RPC. 1.0's `data` is a list of details, 0.3's names a field."""

    code: int
    message: str
    data: list[ErrorInfo | BadRequest] | FieldViolation | None = None


class RpcRefused(Told):
    """The answer to a JSON-RPC request that failed."""

    jsonrpc: Literal["2.0"]
    id: str | int | None
    error: RpcError


class Health(Told):
    """The process answers."""

    status: Literal["ok"]


class Readiness(Told):
    """Whether messages are accepted and worked on, and if not, why."""

    status: Literal["ready", "degraded", "unavailable"]
    reasons: list[str]
