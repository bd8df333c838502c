"""How much a turn gives, in bytes, and where that ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import orjson

from perdure.agent import Progress
from perdure.agent.output import BadOutput
from perdure.settings import TurnSettings
from perdure.tasks import Artifact, ArtifactChunk, DataPart, Message, Part, RawPart, TextPart, UrlPart


class TooLarge(BadOutput):
    """A handler gave more than it may. `told` is for the caller, the text for the agent's author."""

    def __init__(self, what: str, most: int, setting: str) -> None:
        Exception.__init__(self, f"the handler gave {what}; {setting} is {most}")
        self.told = f"The agent gave {what}: more than the {most} that it may."


class Scale:
    """Weighs what one attempt of a task gives. Once it was too much, everything is: `broken` says so at the end, also where the
    handler catches every error and goes on."""

    def __init__(self, limits: TurnSettings, *, artifacts: int = 0) -> None:
        self._limits = limits
        self._known = artifacts
        self._sizes: dict[str, int] = {}
        self._all = 0
        self.broken: TooLarge | None = None

    def add(self, piece: ArtifactChunk | Message | Progress) -> None:
        """It is given. `TooLarge`."""
        match piece:
            case ArtifactChunk(artifact=artifact, append=append):
                before = self._sizes.get(artifact.artifact_id, 0) if append else 0
                self._add_to(artifact.artifact_id, before, _artifact_size(artifact))
            case Message():
                self._all += (size := self.check_message(piece))
            case Progress(note=note):
                self._all += (size := bytes_of(note))
                self._check("a note", size)
        self._check_all()

    def add_text(self, artifact_id: str, text: str) -> None:
        """Plain text is added to an artifact. `TooLarge`."""
        self._add_to(artifact_id, self._sizes.get(artifact_id, 0), bytes_of(text))
        self._check_all()

    def _add_to(self, artifact_id: str, before: int, size: int) -> None:
        self._all += size
        self._sizes[artifact_id] = before + size
        self._check("an artifact", before + size)

    def check_message(self, message: Message) -> int:
        """Its size. `TooLarge` for one that is too large alone."""
        size = _parts_size(message.parts) + _json_size(message.metadata)
        self._check("a message", size)
        return size

    def check_step(self, result: Any) -> None:
        """The result of a checkpoint. `TooLarge`."""
        self._check("the result of a step", len(orjson.dumps(result)))

    def _check(self, what: str, size: int) -> None:
        if self.broken:
            raise self.broken
        if size > (most := self._limits.max_artifact_bytes):
            self._break(f"{what} of {size} bytes", most, "TURNS__MAX_ARTIFACT_BYTES")

    def _check_all(self) -> None:
        if self._all > (most := self._limits.max_output_bytes):
            self._break(f"{self._all} bytes in all", most, "TURNS__MAX_OUTPUT_BYTES")
        if (number := self._known + len(self._sizes)) > (most := self._limits.max_artifacts):
            self._break(f"{number} artifacts", most, "TURNS__MAX_ARTIFACTS")

    def _break(self, what: str, most: int, setting: str) -> None:
        self.broken = TooLarge(what, most, setting)
        raise self.broken


def bytes_of(text: str) -> int:
    """In UTF-8, without encoding what is ASCII."""
    return len(text) if text.isascii() else len(text.encode())


def _artifact_size(artifact: Artifact) -> int:
    size = _parts_size(artifact.parts)
    if artifact.name or artifact.description or artifact.metadata:  # a piece of a stream has none of them
        size += bytes_of(artifact.name) + bytes_of(artifact.description) + _json_size(artifact.metadata)
    return size


def _parts_size(parts: Iterable[Part]) -> int:
    size = 0
    for part in parts:
        size += _part_size(part)
        if part.metadata:
            size += _json_size(part.metadata)
    return size


def _part_size(part: Part) -> int:
    match part:
        case TextPart(text=text):
            return bytes_of(text)
        case RawPart(raw=raw):
            return len(raw)
        case UrlPart(url=url):
            return bytes_of(url)
        case DataPart(data=data):
            return len(orjson.dumps(data))


def _json_size(metadata: Any) -> int:
    return len(orjson.dumps(metadata)) if metadata else 0
