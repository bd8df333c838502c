"""How much a message may hold. What is looked at is counted in bytes as they are, without writing anything as JSON again unless
the whole body is larger than what metadata may have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from perdure.errors import InvalidParams
from perdure.settings import ServerSettings
from perdure.tasks import Message, RawPart, TextPart
from perdure.turns.weight import bytes_of

from .wire.asked import Send


def check_send(send: Send, settings: ServerSettings, *, body_bytes: int) -> None:
    """`InvalidParams` for a message that is too large, or its request's metadata. `body_bytes` is what they came in: nothing
    within can be larger."""
    message = send.message
    _check_number("message.parts", len(message.parts), settings.max_parts)
    _check_number("message.referenceTaskIds", len(message.reference_task_ids), settings.max_references)
    _check_number("message.extensions", len(message.extensions), settings.max_references)
    if body_bytes > min(settings.max_text_bytes, settings.max_message_text_bytes, settings.max_file_bytes):
        _check_contents(message, settings)
    check_metadata("metadata", send.metadata, settings, body_bytes=body_bytes)
    check_metadata("message.metadata", message.metadata, settings, body_bytes=body_bytes)
    for place, part in enumerate(message.parts):
        if part.metadata:
            check_metadata(f"message.parts[{place}].metadata", part.metadata, settings, body_bytes=body_bytes)


def check_metadata(
    path: str, metadata: Mapping[str, Any], settings: ServerSettings, *, body_bytes: int
) -> None:
    """`InvalidParams` for metadata that is too deep or too large."""
    if not metadata:
        return
    if _deeper(metadata, settings.max_metadata_depth):
        raise InvalidParams(path, f"must nest at most {settings.max_metadata_depth} levels deep")
    most = settings.max_metadata_bytes
    if body_bytes > most and len(orjson.dumps(metadata)) > most:
        raise InvalidParams(path, f"must have at most {most} bytes as JSON")


def _check_number(path: str, number: int, most: int) -> None:
    if number > most:
        raise InvalidParams(path, f"must have at most {most} items")


def _check_contents(message: Message, settings: ServerSettings) -> None:
    texts = 0
    for place, part in enumerate(message.parts):
        match part:
            case TextPart(text=text):
                size = bytes_of(text)
                texts += size
                _check_size(f"message.parts[{place}].text", size, settings.max_text_bytes)
            case RawPart(raw=raw):
                _check_size(f"message.parts[{place}].raw", len(raw), settings.max_file_bytes)
    _check_size("message.parts", texts, settings.max_message_text_bytes, of=" of text")


def _check_size(path: str, size: int, most: int, *, of: str = "") -> None:
    if size > most:
        raise InvalidParams(path, f"must have at most {most} bytes{of}")


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, Mapping | list):
        return False
    if levels == 0:
        return True
    members = value.values() if isinstance(value, Mapping) else value
    return any(_deeper(member, levels - 1) for member in members)
