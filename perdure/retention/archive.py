"""Tasks as lines of JSON: what `perdure tasks export` prints, what is archived before it is deleted, what `perdure import` reads.

A line is an A2A 1.0 Task with its history and artifacts, and in its member `perdure` all that the task alone does not say: whose
it is, its log, feedback, why attempts failed, what its webhooks were told. What is put back is made of the log.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast
from uuid import UUID

import orjson

from perdure.errors import ArchiveFailed
from perdure.storage import Feedback
from perdure.storage.operators import Failure
from perdure.storage.retention import TaskRecord
from perdure.storage.views import task_artifacts, task_history
from perdure.storage.webhooks import Delivery, DeliveryAttempt
from perdure.stored.payload import STATE_NAMES, dump_artifact, dump_body, dump_message, load_body
from perdure.tasks import Event, StatusChange, Task

Json = dict[str, Any]

FORMAT = 1
"""Of the member `perdure`."""


# ---------------------------------------------------------------------- writing lines


def task_json(task: Task) -> Json:
    """An A2A 1.0 Task."""
    status: Json = {"state": STATE_NAMES[task.state], "timestamp": task.status_timestamp.isoformat()}
    if task.status_message:
        status["message"] = dump_message(task.status_message)
    return {
        "id": str(task.task_id),
        "contextId": task.context_id,
        "status": status,
        "history": [dump_message(message) for message in task.history],
        "artifacts": [dump_artifact(artifact) for artifact in task.artifacts],
        "metadata": dict(task.metadata),
    }


def line_of(record: TaskRecord) -> bytes:
    """A task as a line, its end included."""
    task = record.task
    ours = {
        "format": FORMAT,
        "owner": task.owner,
        "createdAt": task.created_at.isoformat(),
        "updatedAt": task.updated_at.isoformat(),
        "position": record.position,
        "statusSeq": record.status_seq,
        "attempt": task.attempt,
        "failures": task.failures,
        "crashes": task.crashes,
        "lostAttempts": list(record.lost_attempts),
        "workers": {str(attempt): worker for attempt, worker in record.workers.items()},
        "priority": record.priority,
        "parallel": record.parallel,
        "limits": dict(record.limits),
        "streamed": record.streamed,
        "trimmed": record.trimmed,
        "traceContexts": list(record.trace_contexts),
        "events": [_event_json(event) for event in record.events],
        "feedback": [_feedback_json(feedback) for feedback in record.feedback],
        "errors": [_failure_json(failure) for failure in record.failures],
        "deliveries": [_delivery_json(*delivery) for delivery in record.deliveries],
    }
    return orjson.dumps({**task_json(task), "perdure": ours}, option=orjson.OPT_APPEND_NEWLINE)


def _event_json(event: Event) -> Json:
    kind, payload = dump_body(event.body)
    return {
        "seq": event.seq,
        "firstSeq": event.first_seq,
        "attempt": event.attempt,
        "time": event.time.isoformat(),
        "kind": kind,
        "payload": payload,
    }


def _feedback_json(feedback: Feedback) -> Json:
    return {
        "id": str(feedback.feedback_id),
        "text": feedback.text,
        "rating": feedback.rating,
        "metadata": dict(feedback.metadata),
        "createdAt": feedback.created_at.isoformat(),
    }


def _failure_json(failure: Failure) -> Json:
    return {
        "attempt": failure.attempt,
        "class": failure.error_class,
        "message": failure.message,
        "fingerprint": failure.fingerprint,
        "traceback": failure.traceback,
        "worker": failure.worker,
        "createdAt": failure.created_at.isoformat() if failure.created_at else None,
    }


def _delivery_json(delivery: Delivery, attempts: Any) -> Json:
    return {
        "id": str(delivery.delivery_id),
        "configId": delivery.config_id,
        "endpoint": delivery.endpoint,
        "seq": delivery.seq,
        "kind": delivery.kind,
        "state": delivery.state.value,
        "createdAt": delivery.created_at.isoformat(),
        "deliveredAt": delivery.delivered_at.isoformat() if delivery.delivered_at else None,
        "attempts": [_attempt_json(attempt) for attempt in attempts],
    }


def _attempt_json(attempt: DeliveryAttempt) -> Json:
    return {
        "attempt": attempt.attempt,
        "startedAt": attempt.started_at.isoformat(),
        "seconds": attempt.seconds,
        "status": attempt.status,
        "error": attempt.error,
        "answer": attempt.answer,
    }


# ---------------------------------------------------------------------- reading lines


def record_of(line: bytes) -> TaskRecord:
    """The task in a line, without its deliveries. `ValueError` says what is wrong with it."""
    try:
        json = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise ValueError(f"it is no JSON ({error})") from None
    if not isinstance(json, dict) or not isinstance(json.get("id"), str):
        raise ValueError("it is no task: an object with an id is expected")
    ours = json.get("perdure")
    if not isinstance(ours, dict) or "events" not in ours:
        raise ValueError(
            "it has no member perdure with the task's events: only what this version exports or archives can be put back"
        )
    if ours.get("format") != FORMAT:
        raise ValueError(f"its format is {ours.get('format')!r}, and this version reads {FORMAT}: upgrade it")
    try:
        record = _record(json, ours)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        missing = f"{error} is missing" if isinstance(error, KeyError) else str(error)
        raise ValueError(f"it is damaged: {missing}") from None
    _require_whole(record)
    return record


def _record(json: Json, ours: Json) -> TaskRecord:
    task_id = UUID(json["id"])
    events = [_event(task_id, each) for each in ours["events"]]
    lost, status_seq = [int(attempt) for attempt in ours["lostAttempts"]], int(ours["statusSeq"])
    status = next(event for event in [*events, None] if event is None or event.seq == status_seq)
    if status is None or not isinstance(status.body, StatusChange):
        raise ValueError(f"there is no status with the number {status_seq}")
    task = Task(
        task_id=task_id,
        context_id=_text(json, "contextId"),
        owner=_text(ours, "owner"),
        state=status.body.state,
        status_message=status.body.message,
        status_timestamp=_time(json["status"]["timestamp"]),
        metadata=_members(json, "metadata"),
        history=tuple(task_history(events, lost, status_seq)),
        artifacts=task_artifacts(events, lost),
        created_at=_time(ours["createdAt"]),
        updated_at=_time(ours["updatedAt"]),
        last_seq=events[-1].seq,
        attempt=int(ours["attempt"]),
        failures=int(ours["failures"]),
        crashes=int(ours["crashes"]),
    )
    return TaskRecord(
        task=task,
        position=int(ours["position"]),
        status_seq=status_seq,
        events=events,
        lost_attempts=lost,
        workers={int(attempt): str(worker) for attempt, worker in _members(ours, "workers").items()},
        priority=int(ours["priority"]),
        parallel=bool(ours["parallel"]),
        limits={name: int(most) for name, most in _members(ours, "limits").items()},
        streamed=bool(ours["streamed"]),
        trimmed=bool(ours["trimmed"]),
        trace_contexts=tuple(str(each) for each in ours["traceContexts"]),
        feedback=[_feedback(task_id, each) for each in ours["feedback"]],
        failures=[_failure(task_id, each) for each in ours["errors"]],
    )


def _event(task_id: UUID, json: Json) -> Event:
    return Event(
        task_id=task_id,
        seq=int(json["seq"]),
        first_seq=int(json["firstSeq"]),
        attempt=int(json["attempt"]),
        time=_time(json["time"]),
        body=load_body(_kind(json["kind"]), json["payload"]),
    )


def _kind(kind: str) -> str:
    if kind not in ("message", "artifact", "status"):
        raise ValueError(f"{kind!r} is no kind of event")
    return kind


def _feedback(task_id: UUID, json: Json) -> Feedback:
    rating = json["rating"]
    if rating is not None and rating not in range(1, 6):
        raise ValueError("a rating is a whole number from 1 to 5")
    return Feedback(
        feedback_id=UUID(json["id"]),
        task_id=task_id,
        text=_text(json, "text"),
        rating=rating,
        metadata=_members(json, "metadata"),
        created_at=_time(json["createdAt"]),
    )


def _failure(task_id: UUID, json: Json) -> Failure:
    return Failure(
        task_id=task_id,
        attempt=int(json["attempt"]),
        error_class=_text(json, "class"),
        message=_text(json, "message"),
        fingerprint=_text(json, "fingerprint"),
        traceback=_text(json, "traceback"),
        worker=_text(json, "worker"),
        created_at=_time(json["createdAt"]) if json["createdAt"] else None,
    )


def _text(json: Mapping[str, Any], name: str) -> str:
    value = json[name]
    if not isinstance(value, str):
        raise ValueError(f"{name} is no text")
    return value


def _members(json: Mapping[str, Any], name: str) -> Json:
    value = json[name]
    if not isinstance(value, dict):
        raise ValueError(f"{name} is no object")
    return value


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(f"{text} has no time zone")
    return time


def _require_whole(record: TaskRecord) -> None:
    """`ValueError` for a log with gaps, and for a task that goes on elsewhere."""
    if not record.task.state.terminal:
        raise ValueError(f"the task is {record.task.state}: only tasks that have ended are put back")
    expected = 1
    for event in record.events:
        if event.first_seq != expected or event.seq < expected:
            raise ValueError(f"it is damaged: there is no event with the number {expected}")
        expected = event.seq + 1
    if not record.task.context_id or not record.task.owner:
        raise ValueError("it is damaged: owner and contextId are not empty")


# ---------------------------------------------------------------------- files


class FileArchive:
    """An `Archive` in a folder, which must be there: a file for each day, with the name of who writes it, so that nobody else
    does. What is synced is never touched again; what a failed write left behind is cut off."""

    def __init__(self, folder: Path, *, name: str, compress: bool) -> None:
        self._folder = folder
        self._name = name
        self._compress = compress
        self._path: Path | None = None
        self._file = -1
        self._synced = 0
        self._part: Any = None  # of a compressed file: one that can be read without the others
        self._lock = threading.Lock()  # a thread may still write when whoever waited for it has gone

    async def add(self, record: TaskRecord) -> None:
        """See `Archive`."""
        line = line_of(record)
        await asyncio.to_thread(self._guarded, lambda: self._write(line))

    async def sync(self) -> None:
        """See `Archive`."""
        await asyncio.to_thread(self._guarded, self._sync)

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._let_go()

    def _guarded(self, write: Callable[[], None]) -> None:
        with self._lock:
            try:
                write()
            except OSError as error:
                self._let_go()
                said = f"the archive {self._folder} cannot be written, so nothing is deleted"
                raise ArchiveFailed(f"{said}: {error.strerror or error}") from None

    def _write(self, line: bytes) -> None:
        self._open()
        if self._compress and self._part is None:
            self._part = zlib.compressobj(wbits=31)
        self._put(self._part.compress(line) if self._part else line)

    def _open(self) -> None:
        ending = ".jsonl.gz" if self._compress else ".jsonl"
        path = self._folder / f"tasks-{datetime.now(UTC):%Y-%m-%d}-{self._name}{ending}"
        if path == self._path or self._part is not None:
            return
        self._let_go()
        # They are callers' words: nobody but our own user reads them.
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._path, self._synced = path, os.fstat(self._file).st_size
        _sync_folder(self._folder)

    def _put(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._file, data) :]

    def _sync(self) -> None:
        if self._part is not None:
            self._put(self._part.flush())
            self._part = None
        os.fsync(self._file)
        self._synced = os.fstat(self._file).st_size

    def _let_go(self) -> None:
        """What was not synced is of tasks that were not deleted: it is cut off."""
        if self._path is None:
            return
        self._path = self._part = None
        try:
            os.ftruncate(self._file, self._synced)
        except OSError:
            self._name += "+"  # the next one is a file of its own
        finally:
            os.close(self._file)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class CutShort(Exception):
    """A compressed file ends in the middle."""


@contextmanager
def opened(path: Path) -> Iterator[tuple[Iterator[bytes], Callable[[], int]]]:
    """The lines of a file, compressed or not, and how many of its bytes have been read. OSError; `CutShort` on the way."""
    with path.open("rb") as raw:
        zipped = raw.peek(2)[:2] == b"\x1f\x8b"
        file = gzip.GzipFile(fileobj=raw) if zipped else raw
        yield _lines(cast("IO[bytes]", file)), raw.tell


def _lines(file: IO[bytes]) -> Iterator[bytes]:
    try:
        yield from file
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise CutShort(str(error)) from None
