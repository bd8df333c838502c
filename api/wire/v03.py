"""A2A 0.3 JSON: `kind` on everything, lower-case states and roles, bare results, files nested under `file`."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from perdure.errors import InvalidParams
from perdure.storage import WebhookConfig, WebhookConfigPage
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
from perdure.telling import v03 as telling

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
    Shape,
    Url,
    WebUrl,
    enum,
    exactly_one_of,
    kind,
    read,
)
from .writing import only_origin

VERSION = "0.3"
NOTHING: Json | None = None
UNKNOWN_CODES = frozenset({-32008, -32009})
WRAPPED = telling.WRAPPED

_ROLES = {role.value: role for role in Role}


class FileShape(Shape):
    """A file: its bytes or its address."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("bytes", "uri"))

    bytes: Base64 | None = None
    uri: Url | None = None
    name: Name | None = None
    mime_type: Name | None = None


class PartShape(Shape):
    """A TextPart, FilePart or DataPart. A `kind` that was left out is told from the member."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("text", "file", "data"))

    kind: Literal["text", "file", "data"] | None = None
    text: str | None = None
    file: FileShape | None = None
    data: dict[str, Any] | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _complete(self) -> Self:
        present = [kind for kind in ("text", "file", "data") if getattr(self, kind) is not None]
        if len(present) != 1 or self.kind not in (None, present[0]):
            raise ValueError("must have exactly one of text, file and data, the one that kind names")
        if self.file is not None and (self.file.bytes is None) == (self.file.uri is None):
            raise ValueError("must have exactly one of file.bytes and file.uri")
        return self

    def part(self) -> Part:
        metadata = dict(self.metadata or {})
        if self.text is not None:
            return TextPart(self.text, metadata=metadata)
        if self.data is not None:
            wrapped = metadata.pop(WRAPPED, False) is True and set(self.data) == {"value"}
            return DataPart(self.data["value"] if wrapped else self.data, metadata=metadata)
        file = self.file or FileShape()
        extra: dict[str, Any] = {
            "metadata": metadata,
            "filename": file.name or "",
            "media_type": file.mime_type or "",
        }
        return RawPart(file.bytes, **extra) if file.bytes is not None else UrlPart(file.uri or "", **extra)


class MessageShape(MessageMembers):
    """A Message."""

    model_config = ConfigDict(json_schema_extra=kind("message"))

    role: Annotated[Role, *enum(_ROLES)]
    parts: Annotated[list[PartShape], Field(min_length=1)]


class Authentication(Shape):
    """A PushNotificationAuthenticationInfo. The first scheme counts."""

    schemes: Annotated[list[Name], Field(min_length=1)]
    credentials: Annotated[str, Field(max_length=8192)] | None = None


class CallbackShape(Shape):
    """A PushNotificationConfig."""

    id: Id | None = None
    url: WebUrl
    token: Annotated[str, Field(max_length=8192)] | None = None
    authentication: Authentication | None = None

    def callback(self, place: str = "pushNotificationConfig.url", *, default_id: str = "") -> Callback:
        return Callback(
            version=VERSION,
            place=place,
            config_id=self.id or default_id,
            url=self.url,
            token=self.token or "",
            scheme=self.authentication.schemes[0] if self.authentication else "",
            credentials=(self.authentication.credentials or "") if self.authentication else "",
        )


class SetCallback(Shape):
    """A TaskPushNotificationConfig."""

    task_id: GivenId
    push_notification_config: CallbackShape


class CallbackName(Shape):
    """`tasks/pushNotificationConfig/get|list`: `id` is the task's."""

    id: GivenId
    push_notification_config_id: Id | None = None


class DeleteCallback(Shape):
    """`tasks/pushNotificationConfig/delete`: `id` is the task's. Only `get` finds a config without its id."""

    id: GivenId
    push_notification_config_id: GivenId


class Configuration(Shape):
    """A MessageSendConfiguration."""

    accepted_output_modes: list[Name] | None = None
    history_length: Count | None = None
    push_notification_config: CallbackShape | None = None
    blocking: Flag | None = None


class SendShape(Shape):
    """MessageSendParams."""

    message: MessageShape
    configuration: Configuration | None = None
    metadata: Metadata | None = None


def read_send(params: Any) -> Send:
    """MessageSendParams. Waits unless `blocking` is false."""
    asked = read(SendShape, params)
    configuration = asked.configuration or Configuration()
    callback = configuration.push_notification_config
    return Send(
        message=asked.message.message(),
        metadata=asked.metadata or {},
        history_length=configuration.history_length,
        return_immediately=configuration.blocking is False,
        callback=callback.callback("configuration.pushNotificationConfig.url") if callback else None,
        accepted_output_modes=tuple(configuration.accepted_output_modes or ()),
    )


def read_state(name: Any) -> TaskState | None:
    """`completed`, ...; `unknown` is no filter."""
    try:
        return None if name == "unknown" else TaskState(name)
    except ValueError:
        raise InvalidParams("status", f"must be one of {', '.join(TaskState)}") from None


def read_callback(params: Any) -> tuple[str, Callback]:
    """`{taskId, pushNotificationConfig}`. A task's config without an id is the one that `get` without an id finds."""
    asked = read(SetCallback, params)
    return asked.task_id, asked.push_notification_config.callback(default_id=asked.task_id)


def read_callback_id(params: Any) -> tuple[str, str]:
    """`{id, pushNotificationConfigId?}`."""
    asked = read(CallbackName, params)
    return asked.id, asked.push_notification_config_id or ""


def read_callback_to_delete(params: Any) -> tuple[str, str]:
    """`{id, pushNotificationConfigId}`."""
    asked = read(DeleteCallback, params)
    return asked.id, asked.push_notification_config_id


def read_callback_list(params: Any) -> tuple[str, int | None, str | None]:
    """`{id}`: 0.3 knows no pages, so this is all of them."""
    return read(CallbackName, params).id, None, None


message = telling.message
sent = telling.sent
task = telling.task
update = telling.update


def read_tenant(params: Any) -> str:
    """0.3 has none."""
    return ""


def callback(config: WebhookConfig, tenant: str = "") -> Json:
    """A TaskPushNotificationConfig, without its secrets."""
    return {
        "taskId": str(config.task_id),
        "pushNotificationConfig": {
            "id": config.config_id,
            "url": only_origin(config.url),
            **given(authentication={"schemes": [config.scheme]} if config.scheme else None),
        },
    }


def callbacks(page: WebhookConfigPage, tenant: str = "") -> Any:
    """A bare array."""
    return [callback(config) for config in page.configs]


def error_data(reason: str, field: str | None, description: str) -> Any:
    """The field that is wrong; 0.3 leaves the form open."""
    return {"field": field, "description": description} if field is not None else None
