"""Folding: the pieces in which an artifact was streamed become few events again, once nobody streams them any more.

What a log says stays the same, and so do its numbers: a folded event stands for all from `first_seq` to `seq`, and these ranges
have no gaps. Who resumes inside of one gets the whole artifact, to take the place of what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from perdure.tasks import ArtifactChunk, Event, fold_chunks

FOLDED_BYTES = 64 * 1024
"""What pieces are put together up to: a stream reads a hundred events at once."""

Piece = tuple[Event, ArtifactChunk, int]
"""An event of the kind artifact, its body, and the bytes of that as it is stored."""


class Folding(Protocol):
    """See `Storage` for the rules that hold everywhere."""

    async def fold_tasks(self, *, ended_for: float, limit: int = 20) -> int:
        """Fold the streamed artifacts of at most `limit` tasks that ended at least `ended_for` seconds ago and that nobody holds;
        how many tasks were looked at. Each is looked at once, and only if pieces of it were streamed. Nothing that is read of
        them changes but the number of events."""


def folded(pieces: Iterable[Piece]) -> Iterator[Event]:
    """The events that stand for several of these: neighbours in the log, of one artifact and one attempt."""
    for run in _runs(pieces):
        if len(run) > 1:
            yield _as_one(run)


def _runs(pieces: Iterable[Piece]) -> Iterator[Sequence[Piece]]:
    run: list[Piece] = []
    for piece in pieces:
        if run and not _goes_on(run, piece):
            yield run
            run = []
        run.append(piece)
    yield run


def _goes_on(run: Sequence[Piece], piece: Piece) -> bool:
    event, chunk, size = piece
    last, before, _ = run[-1]
    return (
        event.first_seq == last.seq + 1
        and event.attempt == last.attempt
        and chunk.artifact.artifact_id == before.artifact.artifact_id
        and sum(each for _, _, each in run) + size <= FOLDED_BYTES
    )


def _as_one(run: Sequence[Piece]) -> Event:
    chunks = [chunk for _, chunk, _ in run]
    begin = max((place for place, chunk in enumerate(chunks) if not chunk.append), default=0)
    (artifact,) = fold_chunks(chunks[begin:])
    body = ArtifactChunk(artifact, append=chunks[begin].append, last_chunk=chunks[-1].last_chunk)
    return replace(run[-1][0], first_seq=run[0][0].first_seq, body=body)


def is_inside(event: Event, after: int) -> bool:
    """Whether who resumes after `after` has a part of this event, and needs what is `whole`."""
    return event.first_seq <= after and isinstance(event.body, ArtifactChunk) and event.body.append


def whole(event: Event, log: Iterable[Event]) -> Event:
    """The event with its artifact as it stands after it. `log` has the events of the artifact up to this one."""
    assert isinstance(event.body, ArtifactChunk)  # noqa: S101 - nothing else is folded
    chunks = [each.body for each in log if isinstance(each.body, ArtifactChunk) and each.seq <= event.seq]
    name = event.body.artifact.artifact_id
    (artifact,) = fold_chunks(chunk for chunk in chunks if chunk.artifact.artifact_id == name)
    return replace(event, body=replace(event.body, artifact=artifact, append=False))
