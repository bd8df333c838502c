"""Deleting what has been kept for long enough (RETENTION__...): one worker at a time, in small batches beside the turns."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from uuid import UUID

import structlog

from perdure import metrics
from perdure.errors import ArchiveFailed
from perdure.ids import new_token
from perdure.retention.archive import FileArchive
from perdure.retention.pruning import Rules, Tally, prune
from perdure.settings import RetentionSettings
from perdure.tasks import TaskState

from .worker import Worker

log = structlog.get_logger(__name__)

LEASE = 60.0
"""Seconds without a sign after which another worker goes on: a batch takes a second or two."""


async def pruned(worker: Worker) -> None:
    """Look through all tasks if it is time, and no other worker does."""
    rules = Rules.of(worker.settings.retention)
    if not rules:
        return
    token = new_token()
    every = worker.settings.retention.interval
    place = await worker.storage.begin_retention(token, every=every, lease=LEASE)
    if place is None:
        return
    archive = _archive(worker.settings.retention, worker.worker_id)
    told: Counter[TaskState] = Counter()
    mine = True

    async def go_on(place: UUID, tally: Tally) -> bool:
        nonlocal mine
        _count(worker, tally, told)
        mine = await worker.storage.go_on_with_retention(token, place, lease=LEASE)
        return mine

    try:
        tally = await prune(worker.storage, rules, archive=archive, after=place, go_on=go_on)
    except ArchiveFailed as error:
        log.warning("retention.waits", error=str(error))
        return
    finally:
        if archive is not None:
            archive.close()
    if mine:
        await worker.storage.go_on_with_retention(token, None, lease=LEASE)
    metrics.TRIMMED.inc(tally.trimmed)
    if tally.tasks or tally.trimmed or tally.actions:
        log.info(
            "retention.done",
            tasks=tally.tasks.total(),
            contexts=tally.contexts,
            logs=tally.trimmed,
            actions=tally.actions,
            kept=tally.kept,
        )


def _count(worker: Worker, tally: Tally, told: Counter[TaskState]) -> None:
    """What was deleted since it was last told."""
    for state, count in (tally.tasks - told).items():
        metrics.PRUNED.labels(state.value).inc(count)
        worker.duty.counters["pruned"] += count
    told.update(tally.tasks - told)


def _archive(settings: RetentionSettings, name: str) -> FileArchive | None:
    folder: Path | None = settings.archive
    return None if folder is None else FileArchive(folder, name=name[:13], compress=settings.compress)
