"""The stored form: A2A 1.0 JSON (ProtoJSON, camelCase, full enum names) of messages, artifacts and events.

The storages keep it, and 1.0 answers are made of it; how 0.3 says the same is in `perdure.telling.v03` and `api.wire.v03_rest`.
Fields at their default are left out, required ones excepted (A2A 1.0, section 5.5).
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    DataPart,
    Message,
    Part,
    RawPart,
    Role,
    StatusChange,
    TaskState,
    TextPart,
    UrlPart,
)

Json = dict[str, Any]

_ROLES = {Role.USER: "ROLE_USER", Role.AGENT: "ROLE_AGENT"}
_ROLES_BACK = {name: role for role, name in _ROLES.items()}
STATE_NAMES = {state: f"TASK_STATE_{state.name}" for state in TaskState}
_STATES_BACK = {name: state for state, name in STATE_NAMES.items()}


def given(**members: Any) -> Json:
    """The members that say something: no empty text, list or object."""
    return {name: value for name, value in members.items() if value}


def dump_part(part: Part) -> Json:
    """`{"text": ...}`, `{"raw": <base64>}`, `{"url": ...}` or `{"data": ...}`, with metadata, filename and mediaType."""
    extra: Json = {}
    if part.metadata or part.filename or part.media_type:  # the parts of a stream have none
        extra = given(metadata=dict(part.metadata), filename=part.filename, mediaType=part.media_type)
    match part:
        case TextPart(text=text):
            return {"text": text, **extra}
        case RawPart(raw=raw):
            return {"raw": b64encode(raw).decode(), **extra}
        case UrlPart(url=url):
            return {"url": url, **extra}
        case DataPart(data=data):
            return {"data": data, **extra}


def load_part(json: Mapping[str, Any]) -> Part:
    """The inverse of `dump_part`."""
    if len(json) == 1 and "text" in json:  # what is streamed is hardly anything else
        return TextPart(json["text"])
    extra: dict[str, Any] = {
        "metadata": json.get("metadata", {}),
        "filename": json.get("filename", ""),
        "media_type": json.get("mediaType", ""),
    }
    if "text" in json:
        return TextPart(json["text"], **extra)
    if "raw" in json:
        return RawPart(b64decode(json["raw"]), **extra)
    if "url" in json:
        return UrlPart(json["url"], **extra)
    return DataPart(json["data"], **extra)


def dump_message(message: Message) -> Json:
    """An A2A 1.0 Message."""
    return {
        "messageId": message.message_id,
        "role": _ROLES[message.role],
        "parts": [dump_part(part) for part in message.parts],
        **given(
            contextId=message.context_id,
            taskId=message.task_id,
            metadata=dict(message.metadata),
            extensions=list(message.extensions),
            referenceTaskIds=list(message.reference_task_ids),
        ),
    }


def load_message(json: Mapping[str, Any]) -> Message:
    """The inverse of `dump_message`."""
    return Message(
        message_id=json["messageId"],
        role=_ROLES_BACK[json["role"]],
        parts=_parts(json["parts"]),
        context_id=json.get("contextId", ""),
        task_id=json.get("taskId", ""),
        metadata=json.get("metadata", {}),
        extensions=tuple(json.get("extensions", ())),
        reference_task_ids=tuple(json.get("referenceTaskIds", ())),
    )


def _parts(parts: Sequence[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(load_part(part) for part in parts)


def dump_artifact(artifact: Artifact, part: Callable[[Part], Json] = dump_part) -> Json:
    """An A2A 1.0 Artifact; one of 0.3 differs in its parts alone."""
    json: Json = {"artifactId": artifact.artifact_id, "parts": [part(each) for each in artifact.parts]}
    if artifact.name or artifact.description or artifact.metadata or artifact.extensions:
        json |= given(
            name=artifact.name,
            description=artifact.description,
            metadata=dict(artifact.metadata),
            extensions=list(artifact.extensions),
        )
    return json


def load_artifact(json: Mapping[str, Any]) -> Artifact:
    """The inverse of `dump_artifact`."""
    if len(json) == 2:  # a piece of one
        return Artifact(artifact_id=json["artifactId"], parts=_parts(json["parts"]))
    return Artifact(
        artifact_id=json["artifactId"],
        parts=_parts(json["parts"]),
        name=json.get("name", ""),
        description=json.get("description", ""),
        metadata=json.get("metadata", {}),
        extensions=tuple(json.get("extensions", ())),
    )


def load_chunk(json: Mapping[str, Any]) -> ArtifactChunk:
    """The payload of an event of the kind `artifact`."""
    return ArtifactChunk(
        load_artifact(json["artifact"]), json.get("append", False), json.get("lastChunk", False)
    )


def dump_body(body: Message | ArtifactChunk | StatusChange) -> tuple[str, Json]:
    """An event's kind and payload. A status carries no timestamp: it is the event's time."""
    match body:
        case Message():
            return "message", dump_message(body)
        case ArtifactChunk():
            return "artifact", {
                "artifact": dump_artifact(body.artifact),
                **given(append=body.append, lastChunk=body.last_chunk),
            }
        case StatusChange():
            status = {"state": STATE_NAMES[body.state]}
            message = {"message": dump_message(body.message)} if body.message else {}
            return "status", {"status": {**status, **message}, **given(metadata=dict(body.metadata))}


def load_body(kind: str, json: Mapping[str, Any]) -> Message | ArtifactChunk | StatusChange:
    """The inverse of `dump_body`."""
    if kind == "message":
        return load_message(json)
    if kind == "artifact":
        return load_chunk(json)
    status = json["status"]
    message = load_message(status["message"]) if "message" in status else None
    return StatusChange(_STATES_BACK[status["state"]], message, json.get("metadata", {}))
