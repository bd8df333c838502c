"""Rows of Postgres as domain objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import groupby
from operator import itemgetter
from typing import Any
from uuid import UUID

import orjson

from perdure.owners import agent_of
from perdure.storage import Claim, Context, Feedback
from perdure.storage.views import last, task_conversation
from perdure.stored.kept import Kept
from perdure.stored.payload import (
    Json,
    dump_body,
    dump_message,
    load_artifact,
    load_body,
    load_chunk,
    load_message,
)
from perdure.stored.storable import require_storable
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    Event,
    Message,
    Ring,
    StatusChange,
    Task,
    TaskState,
    fold_chunks,
)

Row = Mapping[str, Any]
_STATES = {state.value: state for state in TaskState}
_EMPTY: Mapping[type, str] = {dict: "{}", list: "[]"}


def dumps(value: Any) -> str:
    """JSON text for a jsonb parameter. `ValueError` for what no storage keeps."""
    if not value and type(value) in _EMPTY:  # most of what may be said is not
        return _EMPTY[type(value)]
    require_storable(value)
    return orjson.dumps(value).decode()


def message_json(message: Message | None) -> str | None:
    """A message as a jsonb parameter."""
    return None if message is None else dumps(dump_message(message))


def status_json(state: TaskState, message: Message | None, metadata: Mapping[str, Any] | None) -> str:
    """A status as a jsonb parameter."""
    if message is None and not metadata:
        return _bare_status(state)
    return dumps(dump_body(StatusChange(state, message, metadata or {}))[1])


@cache
def _bare_status(state: TaskState) -> str:
    return dumps(dump_body(StatusChange(state))[1])


def task_of(row: Row) -> Task:
    """A row of LOAD or LIST: the task with its log folded into history and artifacts."""
    return task_with(row, row["kinds"] or (), row["payloads"] or ())


def task_with(row: Row, kinds: Sequence[str], payloads: Sequence[str]) -> Task:
    """The same, with its log apart from the row."""
    said, chunks = _told_apart(kinds, payloads)
    status_message = row["status_message"]
    return Task(
        task_id=row["task_id"],
        context_id=row["context_id"],
        owner=row["owner"],
        state=_STATES[row["state"]],
        status_message=None if status_message is None else load_message(orjson.loads(status_message)),
        status_timestamp=row["status_timestamp"],
        metadata=orjson.loads(row["metadata"]),
        history=Kept(said, load_message),
        artifacts=_folded(chunks),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        last_seq=row["last_seq"],
        attempt=row["attempt"],
        failures=row["failures"],
        crashes=row["crashes"],
    )


def _told_apart(kinds: Sequence[str], payloads: Sequence[str]) -> tuple[list[Json], list[Json]]:
    """The messages of a log, those of its statuses among them, and its pieces of artifacts; as they are stored."""
    said, chunks = [], []
    for kind, payload in zip(kinds, payloads, strict=True):
        body = orjson.loads(payload)
        if kind == "artifact":
            chunks.append(body)
        elif kind == "message":
            said.append(body)
        elif message := body["status"].get("message"):
            said.append(message)
    return said, chunks


def _folded(chunks: Sequence[Json]) -> Sequence[Artifact]:
    """What was told as a whole, and in one part, is stored as it is read. All else has to be put together."""
    whole = [chunk["artifact"] for chunk in chunks if not chunk.get("append")]
    if len({artifact["artifactId"] for artifact in whole if len(artifact["parts"]) == 1}) == len(chunks):
        return Kept(whole, load_artifact)
    return fold_chunks(load_chunk(chunk) for chunk in chunks)


def event_of(row: Row) -> Event:
    """A row of task_events."""
    return Event(
        task_id=row["task_id"],
        seq=row["seq"],
        first_seq=row["first_seq"],
        attempt=row["attempt"],
        time=row["created_at"],
        body=load_body(row["kind"], orjson.loads(row["payload"])),
    )


def claim_of(row: Row, token: UUID) -> Claim:
    """A row of CLAIM."""
    return Claim(
        task_id=row["task_id"],
        owner=row["owner"],
        context_id=row["context_id"],
        attempt=row["attempt"],
        token=token,
    )


def conversation_of(rows: Iterable[Row], limit: int) -> Sequence[Message]:
    """The rows of CONVERSATION, in order, as the last `limit` messages."""
    said: list[Message] = []
    for _, piece in groupby(rows, key=itemgetter("position")):
        said.extend(task_conversation(_whole_artifacts(piece), ()))
    return tuple(last(said, limit))


def _whole_artifacts(rows: Iterable[Row]) -> Iterable[Event]:
    """The events of one place without the tails of artifacts whose beginning is beyond the window: it cut a log short whose
    first event, always a message, is missing."""
    begun: set[str] = set()
    cut = None
    for row in rows:
        cut = row["seq"] > 1 if cut is None else cut
        body = load_body(row["kind"], orjson.loads(row["payload"]))
        if isinstance(body, ArtifactChunk):
            if cut and body.append and body.artifact.artifact_id not in begun:
                continue
            begun.add(body.artifact.artifact_id)
        yield Event(
            task_id=row["task_id"],
            seq=row["seq"],
            first_seq=row["seq"],
            attempt=0,
            time=None,  # type: ignore[arg-type]  # nobody asks for it here
            body=body,
        )


def context_of(row: Row, messages: Sequence[Message] = ()) -> Context:
    """A row of LOAD_CONTEXT or LIST_CONTEXTS."""
    return Context(
        context_id=row["context_id"],
        owner=row["owner"],
        metadata=orjson.loads(row["metadata"]),
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        task_ids=tuple(row["task_ids"]),
        messages=messages,
    )


def feedback_of(row: Row) -> Feedback:
    """A row of task_feedback."""
    return Feedback(
        feedback_id=row["feedback_id"],
        task_id=row["task_id"],
        text=row["feedback"],
        rating=row["rating"],
        metadata=orjson.loads(row["metadata"]),
        created_at=row["created_at"],
    )


def changed_metadata(metadata: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What to merge, and which keys to remove."""
    given = {key: value for key, value in metadata.items() if value is not None}
    return dumps(given), [key for key, value in metadata.items() if value is None]


def ring_at(owner: str, task_id: UUID, dispatch: int) -> Ring:
    """A ring for the agent whose caller the owner is."""
    return Ring(task_id, dispatch, agent_of(owner))


def rings_of(owner: str, task_id: UUID, row: Row) -> tuple[Ring, ...]:
    """What became claimable: the next in line; or, where one came in unseen, the own id as a hint; and what waited for a
    limit. All of them are of the agent whose task this was."""
    rings = []
    if row["next_id"] is not None:
        rings.append(ring_at(owner, row["next_id"], row["next_dispatch"]))
    elif row["waiting"] and not row["seen"] and not row.get("again"):
        rings.append(ring_at(owner, task_id, row["dispatch"] + 1))
    if row.get("unlimited_id") is not None:
        rings.append(ring_at(owner, row["unlimited_id"], row["unlimited_dispatch"]))
    return tuple(dict.fromkeys(rings))
