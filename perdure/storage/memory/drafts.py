"""What is kept, as bytes: the stored form of `perdure.stored.payload`, which cannot be shared by reference."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from perdure.stored.payload import dump_body
from perdure.stored.storable import unstorable
from perdure.tasks import ArtifactChunk, Message, StatusChange

Body = Message | ArtifactChunk | StatusChange


def to_json(value: Any) -> bytes:
    """`value` as bytes. `ValueError` for what no storage keeps."""
    if found := unstorable(value):
        path, why = found
        raise ValueError(f"{path or 'the value'} {why}")
    return orjson.dumps(value)


def merged(metadata: bytes, change: Mapping[str, Any] | None) -> bytes:
    """Top level; a None removes the key."""
    if not change:
        return metadata
    both = {**orjson.loads(metadata), **change}
    removed = {key for key, value in change.items() if value is None}
    return to_json({key: value for key, value in both.items() if key not in removed})


@dataclass(frozen=True, slots=True)
class Draft:
    """An event before it has its number: made first, so that what cannot be stored is refused before anything has changed."""

    body: Body
    kind: str
    payload: bytes


def draft(body: Body) -> Draft:
    """`ValueError` for what no storage keeps."""
    kind, json = dump_body(body)
    return Draft(body, kind, to_json(json))
