"""A2A 1.0 JSON: ProtoJSON, the member's name discriminates, full enum names."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field, model_validator

from perdure.errors import InvalidParams
from perdure.storage import WebhookConfig, WebhookConfigPage
from perdure.stored.payload import STATE_NAMES
from perdure.tasks import (
    DataPart,
    Part,
    RawPart,
    Role,
    TaskState,
    TextPart,
    UrlPart,
)
from perdure.telling import Json, given
from perdure.telling import v1 as telling

from .asked import Callback, Send
from .reading import (
    Base64,
    Count,
    Flag,
    GivenId,
    Id,
    MessageMembers,
    Metadata,
    Name,
    PageSize,
    Shape,
    Url,
    WebUrl,
    enum,
    exactly_one_of,
    read,
)
from .writing import error_details, only_origin

VERSION = "1.0"
NOTHING: Json | None = {}
UNKNOWN_CODES: frozenset[int] = frozenset()

# Names and, as ProtoJSON allows, the numbers of a2a.proto.
_ROLES = {"ROLE_USER": Role.USER, "ROLE_AGENT": Role.AGENT, 1: Role.USER, 2: Role.AGENT}
_STATE_NUMBERS = (
    "SUBMITTED",
    "WORKING",
    "COMPLETED",
    "FAILED",
    "CANCELED",
    "INPUT_REQUIRED",
    "REJECTED",
    "AUTH_REQUIRED",
)
_STATES: dict[str | int, TaskState | None] = {
    "TASK_STATE_UNSPECIFIED": None,
    0: None,
    **{name: state for state, name in STATE_NAMES.items()},
    **{number: TaskState[name] for number, name in enumerate(_STATE_NUMBERS, start=1)},
}


class PartShape(Shape):
    """Exactly one of text, raw, url and data; data may be null."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("text", "raw", "url", "data"))

    text: str | None = None
    raw: Base64 | None = None
    url: Url | None = None
    data: Any = None
    metadata: Metadata | None = None
    filename: Name | None = None
    media_type: Name | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        number = (
            (self.text is not None)
            + (self.raw is not None)
            + (self.url is not None)
            + (self.data is not None)
        )
        if number > 1 or (number == 0 and "data" not in self.model_fields_set):
            raise ValueError("must have exactly one of text, raw, url and data")
        return self

    def part(self) -> Part:
        if self.text is not None and len(self.model_fields_set) == 1:  # as nearly all are
            return TextPart(self.text)
        extra: dict[str, Any] = {
            "metadata": self.metadata or {},
            "filename": self.filename or "",
            "media_type": self.media_type or "",
        }
        if self.text is not None:
            return TextPart(self.text, **extra)
        if self.raw is not None:
            return RawPart(self.raw, **extra)
        if self.url is not None:
            return UrlPart(self.url, **extra)
        return DataPart(self.data, **extra)


class MessageShape(MessageMembers):
    """A Message."""

    role: Annotated[Role, *enum(_ROLES)]
    parts: Annotated[list[PartShape], Field(min_length=1)]


class Authentication(Shape):
    """An AuthenticationInfo: how a webhook is authenticated to."""

    scheme: Annotated[str, Field(min_length=1, max_length=1024)]
    credentials: Annotated[str, Field(max_length=8192)] | None = None


class Tenanted(Shape):
    """What names a tenant: opaque, in the request or as the first part of its path (section 3.2.1)."""

    tenant: Name | None = None


class CallbackShape(Tenanted):
    """A TaskPushNotificationConfig."""

    id: Id | None = None
    task_id: Id | None = None
    url: WebUrl
    token: Annotated[str, Field(max_length=8192)] | None = None
    authentication: Authentication | None = None

    def callback(self, place: str = "url") -> Callback:
        return Callback(
            version=VERSION,
            place=place,
            config_id=self.id or "",
            url=self.url,
            token=self.token or "",
            scheme=self.authentication.scheme if self.authentication else "",
            credentials=(self.authentication.credentials or "") if self.authentication else "",
        )


class Configuration(Shape):
    """A SendMessageConfiguration."""

    accepted_output_modes: list[Name] | None = None
    task_push_notification_config: CallbackShape | None = None
    history_length: Count | None = None
    return_immediately: Flag | None = None


_NOT_CONFIGURED = Configuration()


class SendShape(Tenanted):
    """A SendMessageRequest."""

    message: MessageShape
    configuration: Configuration | None = None
    metadata: Metadata | None = None


class CallbackName(Tenanted):
    """GetTaskPushNotificationConfig, DeleteTaskPushNotificationConfig."""

    task_id: GivenId
    id: GivenId


class CallbackList(Tenanted):
    """ListTaskPushNotificationConfigs."""

    task_id: GivenId
    page_size: PageSize | None = None
    page_token: Id | None = None


def read_tenant(params: Any) -> str:
    """`tenant`, of any request; "" for none."""
    return read(Tenanted, params).tenant or ""


def read_send(params: Any) -> Send:
    """A SendMessageRequest."""
    asked = read(SendShape, params)
    configuration = asked.configuration or _NOT_CONFIGURED
    callback = configuration.task_push_notification_config
    return Send(
        message=asked.message.message(),
        metadata=asked.metadata or {},
        history_length=configuration.history_length,
        return_immediately=bool(configuration.return_immediately),
        callback=callback.callback("configuration.taskPushNotificationConfig.url") if callback else None,
        accepted_output_modes=tuple(configuration.accepted_output_modes or ()),
        tenant=asked.tenant or "",
    )


def read_state(name: Any) -> TaskState | None:
    """`TASK_STATE_...`, or its number, which is a text in a query; unspecified is no filter."""
    if isinstance(name, str) and name.isascii() and name.isdigit():
        name = int(name[:4])
    if name not in _STATES:
        raise InvalidParams("status", f"must be one of {', '.join(STATE_NAMES.values())}")
    return _STATES[name]


def read_callback(params: Any) -> tuple[str, Callback]:
    """The flat TaskPushNotificationConfig."""
    asked = read(CallbackShape, params)
    if not asked.task_id:
        raise InvalidParams("taskId", "is required")
    return asked.task_id, asked.callback()


def read_callback_id(params: Any) -> tuple[str, str]:
    """`{taskId, id}`."""
    asked = read(CallbackName, params)
    return asked.task_id, asked.id


read_callback_to_delete = read_callback_id


def read_callback_list(params: Any) -> tuple[str, int, str | None]:
    """`{taskId, pageSize, pageToken}`: the token is the last id of the page before."""
    asked = read(CallbackList, params)
    return asked.task_id, asked.page_size or 50, asked.page_token or None


message = telling.message
sent = telling.sent
task = telling.task
update = telling.update


def callback(config: WebhookConfig, tenant: str = "") -> Json:
    """A TaskPushNotificationConfig, without its secrets."""
    return {
        "id": config.config_id,
        "taskId": str(config.task_id),
        "url": only_origin(config.url),
        **given(tenant=tenant, authentication=given(scheme=config.scheme)),
    }


def callbacks(page: WebhookConfigPage, tenant: str = "") -> Any:
    """A ListTaskPushNotificationConfigsResponse."""
    return {
        "configs": [callback(config, tenant) for config in page.configs],
        "nextPageToken": page.next or "",
    }


def error_data(reason: str, field: str | None, description: str) -> Any:
    """An array of typed details."""
    return error_details(reason, field, description)
