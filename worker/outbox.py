"""A turn's writes, one after the other: what the handler emits, coalesced, and its end."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass
from typing import Any

import structlog

from perdure import metrics
from perdure.agent import Progress
from perdure.errors import LeaseLost, StorageUnavailable
from perdure.storage import Claim, Written
from perdure.tasks import ArtifactChunk, Message, Notice
from perdure.turns.answer import More, Piece, coalesced
from perdure.turns.perform import Outcome

from .lease import Reins, Stop
from .worker import Worker

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Batch:
    chunks: Sequence[ArtifactChunk]
    messages: Sequence[Message]
    progress: Progress | None

    def __bool__(self) -> bool:
        return bool(self.chunks or self.messages or self.progress)

    @property
    def metadata(self) -> Mapping[str, Any]:
        if self.progress is None:
            return {}
        return {"progress": {"fraction": self.progress.fraction, "note": self.progress.note}}


class Outbox:
    """Keeps the order and loses nothing: a write that the storage cannot take now is sent again, with its number, until it can or
    the process ends. A piece after a silence is written at once, those that follow it at the next tick in one write: every
    `chunk_interval` seconds, at the same moments for all turns, so that they share statements (decision 039)."""

    def __init__(self, worker: Worker, claim: Claim, reins: Reins) -> None:
        self._worker = worker
        self._claim = claim
        self._reins = reins
        self.begun = time.monotonic()
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()  # for its log lines: pieces may come from any thread
        self._lock = threading.Lock()
        self._pieces: list[ArtifactChunk | More | Message] = []
        self._progress: Progress | None = None
        self._closed = False
        self._woken = False  # something has come since the last write
        self._pause: asyncio.Handle | None = None  # until its end nothing is written
        self._asleep: asyncio.Future[None] | None = None
        self._write_no = 0
        self._writer: asyncio.Task[None] | None = None  # begins with the first piece: most turns only end

    def put(self, piece: Piece | More) -> None:
        """Take a piece, from any thread. After `close` it is dropped: the turn is over."""
        with self._lock:
            if self._closed:
                return
            if isinstance(piece, Progress):
                self._progress = piece
            else:
                self._pieces.append(piece)
            wake, self._woken = not self._woken, True
        if wake:
            with suppress(RuntimeError):  # the loop is closed
                self._loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._writer is None and not self._closed:
            self._writer = self._loop.create_task(self._run(), context=self._context)
        elif self._ready and self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)

    @property
    def _ready(self) -> bool:
        return self._closed or (self._woken and self._pause is None)

    async def close(self) -> None:
        """Take nothing more. Returns when the write under way has ended."""
        with self._lock:
            self._closed = True
        self._wake()
        if self._writer is not None:
            await asyncio.shield(self._writer)

    async def settle(self, outcome: Outcome) -> Written:
        """Write what is left and how the turn ended. `LeaseLost`; `StorageUnavailable` once the process ends."""
        await self.close()
        rest = self._take()
        return await self._written(
            state=outcome.state,
            status_message=outcome.status_message,
            new_messages=[*rest.messages, *outcome.messages],
            new_artifacts=coalesced([*rest.chunks, *outcome.chunks]),
            metadata={**rest.metadata, **outcome.metadata},
        )

    async def _run(self) -> None:
        try:
            while await self._something():
                await self._write(self._take())
                self._rest()
        except LeaseLost as lost:
            metrics.FENCED_WRITES.inc()
            self._reins.pull(Stop.CANCELED if lost.canceled else Stop.LOST)
        except StorageUnavailable:
            log.warning("turn.output_dropped")
        except Exception:
            log.exception("turn.write_failed")
            self._reins.pull(Stop.BROKEN)
        finally:
            if self._pause is not None:
                self._pause.cancel()

    async def _something(self) -> bool:
        """Wait until there is something to write, and it may be written. False once this is closed: that goes with the end."""
        if not self._ready:
            self._asleep = self._loop.create_future()
            await self._asleep
        return not self._closed

    def _rest(self) -> None:
        """Write nothing before the next tick. Whoever waits for none lets the others run."""
        interval = self._worker.settings.turns.chunk_interval
        if interval:
            now = self._loop.time()
            self._pause = self._loop.call_later(interval - now % interval, self._go_on)
        else:
            self._pause = self._loop.call_soon(self._go_on)

    def _go_on(self) -> None:
        self._pause = None
        self._wake()

    async def _write(self, batch: _Batch) -> None:
        written = await self._written(
            new_messages=batch.messages,
            new_artifacts=batch.chunks,
            status_metadata=batch.metadata or None,
            metadata=batch.metadata or None,
        )
        self._worker.queue.tell([Notice(self._claim.task_id, written.seq, written.state)])

    async def _written(self, **write: Any) -> Written:
        self._write_no += 1

        async def send() -> Written:
            return await self._worker.storage.update_task(self._claim, self._write_no, **write)

        try:
            return await self._reins.patiently(send)
        except (LeaseLost, StorageUnavailable):
            raise
        except Exception:
            self._write_no -= 1  # refused for what is in it: nothing was kept
            raise

    def _take(self) -> _Batch:
        with self._lock:
            pieces, progress = self._pieces, self._progress
            self._pieces, self._progress, self._woken = [], None, False
        return _Batch(
            chunks=coalesced(piece for piece in pieces if not isinstance(piece, Message)),
            messages=[piece for piece in pieces if isinstance(piece, Message)],
            progress=progress,
        )
