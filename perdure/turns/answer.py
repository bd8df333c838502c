"""A turn's answer: what a handler emits and returns, put into artifacts.

Text, data and parts build one main artifact, chunk by chunk; an Artifact stands for itself; a value that is returned after
something was emitted replaces the main artifact. Generated ids are a function of the task and an ordinal, so that a rerun of the
turn writes over what the lost one left (DESIGN 4.6).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from uuid import UUID

from perdure import ids
from perdure.agent import Progress
from perdure.agent.output import BadOutput, artifacts_in, parts_in, storable_artifact, storable_message
from perdure.settings import TurnSettings
from perdure.stored.storable import cleaned
from perdure.tasks import Artifact, ArtifactChunk, Message, Part, Role, TextPart
from perdure.turns.weight import Scale


class More(NamedTuple):
    """Plain text that goes on with an artifact: a token of a model. It is a chunk, in the form that costs least."""

    artifact_id: str
    text: str

    def chunk(self) -> ArtifactChunk:
        """The same as one."""
        artifact = Artifact(artifact_id=self.artifact_id, parts=(TextPart(self.text),))
        return ArtifactChunk(artifact, append=True, last_chunk=False)


Piece = ArtifactChunk | Message | Progress
"""What a turn hands over before it ends."""


class Answer:
    """Numbers and packs what one attempt of a task gives. `put` is called in order, from whatever thread emits."""

    def __init__(
        self,
        task_id: UUID,
        *,
        context_id: str,
        attempt: int,
        first_ordinal: int,
        put: Callable[[Piece | More], None],
        limits: TurnSettings | None = None,
    ) -> None:
        self._task_id = task_id
        self._context_id = context_id
        self._attempt = attempt
        self._next_artifact = first_ordinal
        self._next_message = 0
        self._main = ""  # the id of the main artifact once something went into it
        self._put = put
        self.scale = Scale(limits or TurnSettings(), artifacts=first_ordinal)
        self._lock = threading.RLock()

    def emit(self, value: Any) -> None:
        """Take an emission. `BadOutput` for what cannot be stored, `TooLarge` for what is too much. None says nothing."""
        if type(value) is str and self._goes_on(cleaned(value)):
            return
        for piece in self._pieces(value):
            with self._lock:  # numbered and handed over in one go, or threads would swap chunks
                before = self._main
                try:
                    placed = self._placed(piece)
                    self.scale.add(placed)
                except BadOutput:
                    self._main = before  # what was refused has not begun an artifact
                    raise
                self._put(placed)

    def _goes_on(self, text: str) -> bool:
        """Add text to the main artifact, the short way. False where that has not begun."""
        with self._lock:
            if not self._main:
                return False
            self.scale.add_text(self._main, text)
            self._put(More(self._main, text))
            return True

    def message(self, given: str | Message) -> Message | None:
        """The agent's message for a status; None for an empty text. `BadOutput`, `TooLarge`."""
        if isinstance(given, str):
            if not given:
                return None
            given = Message(parts=(TextPart(given),))
        message = storable_message(given)
        self.scale.check_message(message)
        return self._own(message)

    def said(self, text: str) -> Message:
        """A text of ours: it is not weighed."""
        return self._own(Message(parts=(TextPart(text),)))

    def closing(self, value: Any = None) -> tuple[ArtifactChunk, ...]:
        """The turn ended with `value` (None: nothing more): the chunks still to be written, the last of the main artifact marked.

        An answer that was streamed and has nothing left to say is closed by an empty text. `BadOutput`, `TooLarge`.
        """
        with self._lock:
            if value is None:
                return self._end_of_main()
            whole = artifacts_in(value)
            last: tuple[ArtifactChunk, ...]
            before = self._main
            try:
                if whole is None:
                    last = (ArtifactChunk(Artifact(artifact_id=self._main_id(), parts=parts_in(value))),)
                else:
                    last = tuple(ArtifactChunk(self._named(artifact)) for artifact in whole)
                for chunk in last:
                    self.scale.add(chunk)
            except BadOutput:
                self._main = before
                raise
            return last if whole is None else (*self._end_of_main(), *last)

    def _pieces(
        self, value: Any
    ) -> Iterable[Artifact | ArtifactChunk | Message | Progress | tuple[Part, ...]]:
        if value is None:
            return ()
        if isinstance(value, ArtifactChunk):
            return (replace(value, artifact=storable_artifact(value.artifact)),)
        if isinstance(value, Progress):
            return (replace(value, note=cleaned(value.note)),)
        if isinstance(value, Message):
            return (storable_message(value),)
        whole = artifacts_in(value)
        return (parts_in(value),) if whole is None else whole

    def _placed(self, piece: Artifact | ArtifactChunk | Message | Progress | tuple[Part, ...]) -> Piece:
        match piece:
            case Progress():
                return piece
            case Message():
                return self._own(piece)
            case Artifact():
                return ArtifactChunk(self._named(piece))
            case ArtifactChunk():
                return replace(piece, artifact=self._named(piece.artifact))
        append = bool(self._main)
        return ArtifactChunk(
            Artifact(artifact_id=self._main_id(), parts=piece), append=append, last_chunk=False
        )

    def _end_of_main(self) -> tuple[ArtifactChunk, ...]:
        if not self._main:
            return ()
        return (ArtifactChunk(Artifact(artifact_id=self._main, parts=(TextPart(""),)), append=True),)

    def _main_id(self) -> str:
        self._main = self._main or self._new_artifact_id()
        return self._main

    def _named(self, artifact: Artifact) -> Artifact:
        return artifact if artifact.artifact_id else replace(artifact, artifact_id=self._new_artifact_id())

    def _new_artifact_id(self) -> str:
        self._next_artifact += 1
        return ids.artifact_id(self._task_id, self._next_artifact - 1)

    def _own(self, message: Message) -> Message:
        """As said by the agent in this task."""
        with self._lock:
            number, self._next_message = self._next_message, self._next_message + 1
        return replace(
            message,
            role=Role.AGENT,
            message_id=message.message_id or ids.message_id(self._task_id, self._attempt, number),
            task_id=str(self._task_id),
            context_id=self._context_id,
        )


def coalesced(chunks: Iterable[ArtifactChunk | More]) -> tuple[ArtifactChunk, ...]:
    """The same artifacts in one chunk each, in the order of their first one: what was streamed between two writes."""
    merged: dict[str, list[ArtifactChunk | More]] = {}
    for chunk in chunks:
        if isinstance(chunk, More):
            merged.setdefault(chunk.artifact_id, []).append(chunk)
            continue
        run = merged.setdefault(chunk.artifact.artifact_id, [])
        if not chunk.append:
            run.clear()
        run.append(chunk)
    return tuple(_as_one(run) for run in merged.values())


def _as_one(run: Sequence[ArtifactChunk | More]) -> ArtifactChunk:
    first, last = (each.chunk() if isinstance(each, More) else each for each in (run[0], run[-1]))
    if len(run) == 1:
        return first
    # What comes after the first chunk of a run appends plain parts: only the first has more to say than its parts.
    parts = _joined(part for chunk in run for part in _said(chunk))
    return ArtifactChunk(
        replace(first.artifact, parts=parts), append=first.append, last_chunk=last.last_chunk
    )


def _said(chunk: ArtifactChunk | More) -> Sequence[Part | str]:
    return (chunk.text,) if isinstance(chunk, More) else chunk.artifact.parts


def _joined(parts: Iterable[Part | str]) -> tuple[Part, ...]:
    """Neighbouring plain texts as one; an empty one beside others says nothing."""
    out: list[Part] = []
    texts: list[str] = []
    for part in parts:
        if isinstance(part, str):
            texts.append(part)
        elif _plain(part):
            texts.append(part.text)  # type: ignore[union-attr]
        else:
            _close(texts, out)
            out.append(part)
    _close(texts, out)
    return tuple(out) or (TextPart(""),)


def _close(texts: list[str], out: list[Part]) -> None:
    if text := "".join(texts):
        out.append(TextPart(text))
    texts.clear()


def _plain(part: Part) -> bool:
    return isinstance(part, TextPart) and not (part.metadata or part.filename or part.media_type)
