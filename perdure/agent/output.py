"""What handlers give, as parts, artifacts and messages that can be stored.

Text is cleaned of what no database can keep. A value that is no JSON (an object, NaN, an integer beyond 64 bits) is a
`BadOutput`: it fails the task, and the log says what the handler gave and what it may give.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from perdure.stored.storable import cleaned, unstorable
from perdure.tasks import Artifact, DataPart, Message, Part, RawPart, TextPart, UrlPart

ALLOWED = "str, dict or list (JSON values), Part, Message, Artifact, a list of Parts or Artifacts, or None"


class BadOutput(TypeError):
    """A handler gave what cannot be stored. The text is for the agent's author."""

    def __init__(self, found: str) -> None:
        super().__init__(f"the handler gave {found}; it may give {ALLOWED}")


def artifacts_in(value: Any) -> tuple[Artifact, ...] | None:
    """The artifacts, if `value` is one or a list of nothing else. Ids stay as they are."""
    if isinstance(value, Artifact):
        return (storable_artifact(value),)
    if isinstance(value, list | tuple) and value and all(isinstance(item, Artifact) for item in value):
        return tuple(storable_artifact(item) for item in value)
    return None


def parts_in(value: Any) -> tuple[Part, ...]:
    """The parts that any other value stands for. `BadOutput`."""
    if isinstance(value, Part):
        return (_storable_part(value),)
    if isinstance(value, list | tuple) and value and all(isinstance(item, Part) for item in value):
        return tuple(_storable_part(item) for item in value)
    if isinstance(value, str):
        return (TextPart(cleaned(value)),)
    return (DataPart(storable_json(value)),)


def storable_artifact(artifact: Artifact) -> Artifact:
    """A copy that can be kept. `BadOutput`."""
    return replace(
        artifact,
        parts=_storable_parts(artifact.parts, "an Artifact"),
        artifact_id=_text(artifact.artifact_id, "an Artifact's id"),
        name=_text(artifact.name, "an Artifact's name"),
        description=_text(artifact.description, "an Artifact's description"),
        metadata=storable_object(artifact.metadata),
        extensions=_texts(artifact.extensions),
    )


def storable_message(message: Message) -> Message:
    """A copy that can be kept. `BadOutput`."""
    return replace(
        message,
        parts=_storable_parts(message.parts, "a Message"),
        message_id=_text(message.message_id, "a Message's id"),
        metadata=storable_object(message.metadata),
        extensions=_texts(message.extensions),
        reference_task_ids=_texts(message.reference_task_ids),
    )


def storable_object(value: Any) -> dict[str, Any]:
    """A JSON object, copied. `BadOutput` for anything else."""
    if not isinstance(value, Mapping):
        raise BadOutput(f"metadata that is no dict ({type(value).__name__})")
    copy: dict[str, Any] = storable_json(value)
    return copy


def storable_json(value: Any) -> Any:
    """A JSON value, copied, its text cleaned. `BadOutput` for what is none."""
    try:
        copy = _copied(value)
    except RecursionError:
        raise BadOutput("a value that is nested too deeply or holds itself") from None
    if problem := unstorable(copy):
        path, why = problem
        raise BadOutput(f"a {type(value).__name__} that cannot be stored: {path or 'it'} {why}")
    return copy


def _copied(value: Any) -> Any:
    """Plain dicts, lists and texts throughout; keys that are integers become text, as `json.dumps` does it."""
    if isinstance(value, str):
        return cleaned(value)
    if isinstance(value, Mapping):
        return {_key(key): _copied(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_copied(item) for item in value]
    return value


def _key(key: Any) -> Any:
    if isinstance(key, str):
        return cleaned(key)
    return str(key) if isinstance(key, int) and not isinstance(key, bool) else key


def _storable_parts(parts: Any, owner: str) -> tuple[Part, ...]:
    if isinstance(parts, str) or not parts or not all(isinstance(part, Part) for part in parts):
        raise BadOutput(f"{owner} whose parts are not one or more Parts")
    return tuple(_storable_part(part) for part in parts)


def _storable_part(part: Part) -> Part:
    extra: dict[str, Any] = {
        "metadata": storable_object(part.metadata),
        "filename": _text(part.filename, "a Part's filename"),
        "media_type": _text(part.media_type, "a Part's media type"),
    }
    match part:
        case TextPart(text=text):
            return TextPart(_text(text, "a TextPart's text"), **extra)
        case UrlPart(url=url):
            return UrlPart(_text(url, "a UrlPart's url"), **extra)
        case DataPart(data=data):
            return DataPart(storable_json(data), **extra)
        case RawPart(raw=raw):
            return RawPart(_bytes(raw), **extra)


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise BadOutput(f"{what} as {type(value).__name__} instead of str")
    return cleaned(value)


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes | bytearray | memoryview):
        raise BadOutput(f"a RawPart's raw as {type(value).__name__} instead of bytes")
    return bytes(value)


def _texts(values: Any) -> tuple[str, ...]:
    if isinstance(values, str):
        raise BadOutput("one text where a list of texts is expected")
    return tuple(_text(value, "a member of a list of texts") for value in values)
