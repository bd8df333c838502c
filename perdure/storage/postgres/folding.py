"""Folding what was streamed, in Postgres: one transaction a task, whose row is locked against another sweep."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from perdure.storage.folding import Piece, folded
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.records import Row, dumps, event_of
from perdure.stored.payload import dump_body
from perdure.tasks import ArtifactChunk, Event, TaskState

_ENDED = ", ".join(f"'{state}'" for state in TaskState if state.terminal)

# $1 seconds since it ended. The condition on `streamed` is that of ix_tasks_streamed.
DUE = f"""
SELECT task_id FROM tasks
 WHERE streamed AND state IN ({_ENDED}) AND lease_token IS NULL
   AND status_timestamp <= clock_timestamp() - make_interval(secs => $1)
 ORDER BY status_timestamp LIMIT 1 FOR NO KEY UPDATE SKIP LOCKED
"""
PIECES = """
SELECT task_id, seq, first_seq, kind, attempt, payload, created_at FROM task_events
 WHERE task_id = $1 AND kind = 'artifact' ORDER BY seq
"""
# $1 task_id, $2 first seq, $3 seq, $4 payload
FOLD = """
WITH gone AS (DELETE FROM task_events WHERE task_id = $1 AND seq >= $2 AND seq < $3)
UPDATE task_events SET first_seq = $2, payload = $4::jsonb WHERE task_id = $1 AND seq = $3
"""
DONE = "UPDATE tasks SET streamed = false WHERE task_id = $1"


class Folding(Statements):
    """See `Storage`."""

    async def fold_tasks(self, *, ended_for: float, limit: int = 20) -> int:
        for number in range(limit):
            if not await self._fold_one(ended_for):
                return number
        return limit

    async def _fold_one(self, ended_for: float) -> bool:
        async def fold(connection: Any, again: bool) -> bool:
            async with connection.transaction():
                task_id: UUID | None = await connection.fetchval(DUE, ended_for)
                if task_id is None:
                    return False
                pieces = [_piece(row) for row in await connection.fetch(PIECES, task_id)]
                changes = [_change(event) for event in folded(pieces)]
                await connection.executemany(FOLD, changes)
                await connection.execute(DONE, task_id)
                return True

        return await self._workers_database.run(fold)


def _piece(row: Row) -> Piece:
    event = event_of(row)
    assert isinstance(event.body, ArtifactChunk)  # noqa: S101 - the rows are of this kind
    return event, event.body, len(row["payload"])


def _change(event: Event) -> tuple[UUID, int, int, str]:
    return event.task_id, event.first_seq, event.seq, dumps(dump_body(event.body)[1])
