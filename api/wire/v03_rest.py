"""A2A 0.3 over HTTP+JSON (`/v1/...`): a dialect of its own, the ProtoJSON of the 0.3 `a2a.proto`.

Other than in 0.3's JSON-RPC, nothing has a `kind`, a message's parts are its `content`, states and roles have the names of the
enums, results are wrapped, and a push config is named by its path. Other than in 1.0, `file` and `data` are objects and CANCELLED
has two L.
What was written for 0.3's text instead of its proto (`parts`, `kind`, `user`, `pushNotificationConfig`) is understood as well.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated, Any, Self

from pydantic import AliasChoices, ConfigDict, Discriminator, Field, Tag, model_validator

from perdure.errors import InvalidParams
from perdure.notes import without_notes
from perdure.storage import WebhookConfig, WebhookConfigPage
from perdure.stored.payload import STATE_NAMES, dump_artifact
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    Part,
    RawPart,
    Role,
    StatusChange,
    Task,
    TaskState,
    TextPart,
    UrlPart,
)
from perdure.telling import Json, Update, given, told_status, told_task

from . import v03, v1
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
    enum,
    exactly_one_of,
    read,
)
from .writing import error_details

VERSION = "0.3"
NOTHING: Json | None = {}
UNKNOWN_CODES = v03.UNKNOWN_CODES

_ROLES = {"ROLE_USER": Role.USER, "ROLE_AGENT": Role.AGENT, 1: Role.USER, 2: Role.AGENT}
_ROLE_NAMES = {Role.USER: "ROLE_USER", Role.AGENT: "ROLE_AGENT"}
STATES = {
    state: "TASK_STATE_CANCELLED" if state is TaskState.CANCELED else STATE_NAMES[state]
    for state in TaskState
}
_STATES_BACK = {name: state for state, name in STATES.items()}


# ---------------------------------------------------------------------- requests


class FileShape(Shape):
    """A FilePart: its bytes or its address."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("fileWithBytes", "fileWithUri"))

    file_with_bytes: Base64 | None = None
    file_with_uri: Url | None = None
    mime_type: Name | None = None
    name: Name | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.file_with_bytes is None) == (self.file_with_uri is None):
            raise ValueError("must have exactly one of fileWithBytes and fileWithUri")
        return self


class DataShape(Shape):
    """A DataPart."""

    data: dict[str, Any]


class PartShape(Shape):
    """Exactly one of text, file and data."""

    model_config = ConfigDict(json_schema_extra=exactly_one_of("text", "file", "data"))

    text: str | None = None
    file: FileShape | None = None
    data: DataShape | None = None
    metadata: Metadata | None = None

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if sum(value is not None for value in (self.text, self.file, self.data)) != 1:
            raise ValueError("must have exactly one of text, file and data")
        return self

    def part(self) -> Part:
        if self.file is None:
            data = self.data.data if self.data else None
            return v03.PartShape(text=self.text, data=data, metadata=self.metadata).part()
        extra: dict[str, Any] = {
            "metadata": self.metadata or {},
            "filename": self.file.name or "",
            "media_type": self.file.mime_type or "",
        }
        if self.file.file_with_bytes is not None:
            return RawPart(_file(self.file.file_with_bytes), **extra)
        return UrlPart(self.file.file_with_uri or "", **extra)


def _file(found: bytes) -> bytes:
    """The file in the proto's bytes. To the official clients they are its base64, which ProtoJSON encodes once more
    (docs/decisions/016). Bytes that are no base64 are the file itself."""
    try:
        return b64decode(found, validate=True) or found
    except ValueError:
        return found


def _spelling(part: Any) -> str:
    return "text" if isinstance(part, Mapping) and "kind" in part else "proto"


AnyPart = Annotated[
    Annotated[PartShape, Tag("proto")] | Annotated[v03.PartShape, Tag("text")], Discriminator(_spelling)
]


class MessageShape(MessageMembers):
    """A Message."""

    # `referenceTaskIds` are of 0.3's text: its proto has none, and answers leave them out.

    role: Annotated[
        Role, *enum({**_ROLES, **{role.value: role for role in Role}}, shown=_ROLE_NAMES.values())
    ]
    parts: Annotated[list[AnyPart], Field(min_length=1, validation_alias=AliasChoices("content", "parts"))]


class Configuration(Shape):
    """A SendMessageConfiguration. The proto cannot tell `blocking` left out from false."""

    accepted_output_modes: list[Name] | None = None
    push_notification: Annotated[
        v03.CallbackShape | None,
        Field(
            validation_alias=AliasChoices(
                "pushNotification",
                "push_notification",
                "pushNotificationConfig",
                "push_notification_config",
            )
        ),
    ] = None
    history_length: Count | None = None
    blocking: Flag | None = None


class SendShape(Shape):
    """A SendMessageRequest."""

    message: Annotated[MessageShape, Field(validation_alias=AliasChoices("message", "request"))]
    configuration: Configuration | None = None
    metadata: Metadata | None = None


class NamedCallback(Shape):
    """A TaskPushNotificationConfig."""

    name: Name | None = None
    push_notification_config: v03.CallbackShape


class SetCallback(Shape):
    """What the body names beside the path: the config itself, as the proto has it, or the whole request, as the official client
    sends it."""

    task_id: GivenId
    config_id: Id | None = None
    config: NamedCallback | None = None
    push_notification_config: v03.CallbackShape | None = None


def read_send(params: Any) -> Send:
    """A SendMessageRequest."""
    asked = read(SendShape, params)
    configuration = asked.configuration or Configuration()
    callback = configuration.push_notification
    return Send(
        message=asked.message.message(),
        metadata=asked.metadata or {},
        history_length=configuration.history_length,
        return_immediately=not configuration.blocking,
        callback=callback.callback("configuration.pushNotification.url") if callback else None,
        accepted_output_modes=tuple(configuration.accepted_output_modes or ()),
    )


def read_state(name: Any) -> TaskState | None:
    """The enum's name or number, or what 0.3's text calls it."""
    if name == "TASK_STATE_UNSPECIFIED":
        return None
    if name in _STATES_BACK:
        return _STATES_BACK[name]
    for read_other in (v03.read_state, v1.read_state):  # the numbers are those of 1.0
        with suppress(InvalidParams):
            return read_other(name)
    raise InvalidParams("status", f"must be one of {', '.join(_STATES_BACK)}")


def read_callback(params: Any) -> tuple[str, Callback]:
    """The task of the path and the config of the body."""
    asked = read(SetCallback, params)
    shape = asked.config.push_notification_config if asked.config else asked.push_notification_config
    if shape is None:
        raise InvalidParams("pushNotificationConfig", "is required")
    return asked.task_id, shape.callback(default_id=asked.config_id or asked.task_id)


read_callback_id = v1.read_callback_id
read_callback_to_delete = v1.read_callback_to_delete
read_callback_list = v1.read_callback_list
read_tenant = v03.read_tenant


# ---------------------------------------------------------------------- answers


def _part(part: Part) -> Json:
    metadata = dict(part.metadata)
    match part:
        case TextPart(text=text):
            return {"text": text, **given(metadata=metadata)}
        case DataPart(data=Mapping() as data):
            return {"data": {"data": dict(data)}, **given(metadata=metadata)}
        case DataPart(data=data):
            return {"data": {"data": {"value": data}}, "metadata": {**metadata, v03.WRAPPED: True}}
        case RawPart(raw=raw):
            content = {"fileWithBytes": b64encode(b64encode(raw)).decode()}  # as `_file` takes it
        case UrlPart(url=url):
            content = {"fileWithUri": url}
    return {
        "file": {**content, **given(mimeType=part.media_type, name=part.filename)},
        **given(metadata=metadata),
    }


def message(said: Message) -> Json:
    """A Message."""
    return {
        "messageId": said.message_id,
        "role": _ROLE_NAMES[said.role],
        "content": [_part(part) for part in said.parts],
        **given(
            contextId=said.context_id,
            taskId=said.task_id,
            metadata=without_notes(said.metadata),
            extensions=list(said.extensions),
        ),
    }


def _artifact(artifact: Artifact) -> Json:
    return dump_artifact(artifact, _part)


def task(found: Task) -> Json:
    """A Task."""
    return told_task(
        found,
        STATES[found.state],
        said=message(found.status_message) if found.status_message else None,
        history=[message(each) for each in found.history],
        artifacts=[_artifact(each) for each in found.artifacts],
    )


def sent(answer: Task | Message) -> Json:
    """A SendMessageResponse."""
    return {"message": message(answer)} if isinstance(answer, Message) else {"task": task(answer)}


def update(item: Task | Update | Message) -> Json:
    """A StreamResponse."""
    if not isinstance(item, Update):
        return sent(item)
    ids = {"taskId": str(item.task_id), "contextId": item.context_id}
    if isinstance(item.body, ArtifactChunk):
        chunk = item.body
        flags = given(append=chunk.append, lastChunk=chunk.last_chunk)
        return {"artifactUpdate": {**ids, "artifact": _artifact(chunk.artifact), **flags}}
    return {"statusUpdate": {**ids, **_status_change(item.body, item)}}


def _status_change(change: StatusChange, item: Update) -> Json:
    said = message(change.message) if change.message else None
    status = told_status(STATES[change.state], said, item.time)
    return {"status": status, **given(final=change.state.rests, metadata=dict(change.metadata))}


def callback(config: WebhookConfig, tenant: str = "") -> Json:
    """A TaskPushNotificationConfig."""
    name = f"tasks/{config.task_id}/pushNotificationConfigs/{config.config_id}"
    return {"name": name, "pushNotificationConfig": v03.callback(config)["pushNotificationConfig"]}


def callbacks(page: WebhookConfigPage, tenant: str = "") -> Any:
    """A ListTaskPushNotificationConfigResponse."""
    return {"configs": [callback(config) for config in page.configs], **given(nextPageToken=page.next)}


def error_data(reason: str, field: str | None, description: str) -> Any:
    """An array of typed details, as in 1.0."""
    return error_details(reason, field, description)
