"""Reading tasks and their logs. What is asked for at the same moment is read by one statement (see `lanes`)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

from perdure.errors import TaskNotFound
from perdure.storage import TOTAL_CAP, Cursor, TaskPage, TaskQuery
from perdure.storage.folding import is_inside, whole
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.lanes import Lane
from perdure.storage.postgres.records import Row, event_of, task_of
from perdure.storage.postgres.statements import TASK, all_of, log_of, said_in
from perdure.storage.postgres.wall import NOBODY, across
from perdure.tasks import ArtifactChunk, Event, Notice, Task, TaskState

# $1 task_ids, $2 owners, $3 history lengths or null
LOAD = f"""
SELECT asked.place, {TASK}, log.*
  FROM unnest($1::uuid[], $2::text[], $3::bigint[]) WITH ORDINALITY AS asked(task_id, owner, history, place)
  JOIN tasks t ON t.task_id = asked.task_id AND t.owner = asked.owner {log_of("asked.history", "true")}
"""

# $1 task_ids, $2 owners, $3 seqs, $4 limits
EVENTS_SINCE = """
SELECT asked.place, e.*
  FROM unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[]) WITH ORDINALITY AS asked(task_id, owner, seq, most, place)
  JOIN tasks t ON t.task_id = asked.task_id AND t.owner = asked.owner
 CROSS JOIN LATERAL (
       SELECT e.task_id, e.seq, e.first_seq, e.kind, e.attempt, e.payload, e.created_at FROM task_events e
        WHERE e.task_id = asked.task_id AND e.seq > asked.seq ORDER BY e.seq LIMIT asked.most) e
 ORDER BY asked.place, e.seq
"""

# What an artifact was made of so far. $1 task_id, $2 owner, $3 artifact_id, $4 seq
ARTIFACT_UNTIL = """
SELECT e.task_id, e.seq, e.first_seq, e.kind, e.attempt, e.payload, e.created_at
  FROM task_events e JOIN tasks t ON t.task_id = e.task_id
 WHERE e.task_id = $1 AND t.owner = $2 AND e.kind = 'artifact' AND e.payload #>> '{artifact,artifactId}' = $3 AND e.seq <= $4
 ORDER BY e.seq
"""

# $1 task_ids
NOTICES = across(
    "SELECT id AS task_id, t.last_seq, t.state FROM unnest($1::uuid[]) AS id LEFT JOIN tasks t ON t.task_id = id",
    "SELECT * FROM perdure_notices($1)",
)

# $1 owner, $2 rows, $3 history length or null, $4 artifacts wanted; {where}: the filters that are given, so that each kind of
# page has a plan of its own
LIST = f"""
SELECT {TASK}, log.* FROM tasks t {log_of("$3::bigint", "$4::boolean")}
 WHERE {all_of("$1", "t")} {{where}}
 ORDER BY t.status_timestamp DESC, t.task_id DESC LIMIT $2
"""
# $1 owner, $2 cap
COUNT = f"SELECT count(*) FROM (SELECT FROM tasks t WHERE {all_of('$1', 't')} {{where}} LIMIT $2) counted"

# What was said in contexts up to a turn. $1 owners, $2 context_ids, $3 positions, $4 task_ids, $5 last_seqs of the turns' tasks,
# $6 messages
CONVERSATIONS = f"""
SELECT asked.place, said.*
  FROM unnest($1::text[], $2::text[], $3::bigint[], $4::uuid[], $5::bigint[], $6::bigint[])
       WITH ORDINALITY AS asked(owner, context_id, position, task_id, seq, most, place)
 CROSS JOIN LATERAL ({said_in("asked")}) said
 ORDER BY asked.place, said.position, said.seq
"""


class WantedTask(NamedTuple):
    """A task to load, with as much of its history."""

    task_id: UUID
    owner: str
    history_length: int | None


class WantedEvents(NamedTuple):
    """A piece of a task's log."""

    task_id: UUID
    owner: str
    after: int
    limit: int


class Reads(Statements):
    """See `Storage`."""

    def __init__(self) -> None:
        super().__init__()
        self._tasks = Lane(partial(self._by_owner, send=self._load_tasks), name="tasks")
        self._events = Lane(partial(self._by_owner, send=self._load_events), name="events", shared=True)
        self._stands = Lane(self._load_notices, name="stands")

    async def load_task(self, owner: str, task_id: UUID, *, history_length: int | None = None) -> Task:
        row = await self._tasks.ask(WantedTask(task_id, owner, history_length))
        if row is None:
            raise TaskNotFound(task_id)
        return task_of(row)

    async def _load_tasks(self, wanted: Sequence[WantedTask], owner: str) -> Sequence[Row | None]:
        rows = await self._rows(LOAD, *columns(wanted), owner=owner)
        found = {row["place"]: row for row in rows}
        return [found.get(place) for place in range(1, len(wanted) + 1)]

    async def events_since(self, owner: str, task_id: UUID, after: int, limit: int = 1000) -> Sequence[Event]:
        events = await self._events.ask(WantedEvents(task_id, owner, after, limit))
        if events and is_inside(events[0], after):
            return [await self._whole(owner, events[0]), *events[1:]]
        return events

    async def _whole(self, owner: str, event: Event) -> Event:
        assert isinstance(event.body, ArtifactChunk)  # noqa: S101 - nothing else is folded
        artifact_id = event.body.artifact.artifact_id
        rows = await self._rows(ARTIFACT_UNTIL, event.task_id, owner, artifact_id, event.seq, owner=owner)
        return whole(event, map(event_of, rows)) if rows else event  # none: cleared meanwhile

    async def _load_events(self, wanted: Sequence[WantedEvents], owner: str) -> Sequence[Sequence[Event]]:
        rows = await self._rows(EVENTS_SINCE, *columns(wanted), owner=owner)
        found = {place: [event_of(row) for row in own] for place, own in groupby(rows, itemgetter("place"))}
        return [found.get(place, []) for place in range(1, len(wanted) + 1)]

    async def notices(self, task_ids: Collection[UUID]) -> Sequence[Notice]:
        return await self._stands.ask(tuple(task_ids))

    async def _load_notices(self, wanted: Sequence[Collection[UUID]]) -> Sequence[Sequence[Notice]]:
        rows = await self._rows(
            NOTICES, list({task_id for task_ids in wanted for task_id in task_ids}), owner=NOBODY
        )
        found = {row["task_id"]: _notice_of(row) for row in rows}
        return [[found[task_id] for task_id in task_ids] for task_ids in wanted]

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        where, given = _filters(query)
        after = ""
        position: tuple[Any, ...] = ()
        if query.after is not None:
            first = len(given) + 5
            after = f" AND (t.status_timestamp, t.task_id) < (${first}::timestamptz, ${first + 1}::uuid)"
            position = (query.after.time, UUID(query.after.key))
        statement = LIST.replace("{where}", numbered(where, 5) + after)
        rows = await self._rows(
            statement,
            query.owner,
            query.page_size + 1,
            query.history_length,
            query.include_artifacts,
            *given,
            *position,
            owner=query.owner,
        )
        total = await self._row(
            COUNT.replace("{where}", numbered(where, 3)), query.owner, TOTAL_CAP, *given, owner=query.owner
        )
        tasks = [task_of(row) for row in rows[: query.page_size]]
        more = len(rows) > query.page_size
        cursor = Cursor(tasks[-1].status_timestamp, str(tasks[-1].task_id)) if more else None
        return TaskPage(tasks, cursor, total["count"] if total else 0)


def columns(rows: Sequence[tuple[Any, ...]]) -> list[list[Any]]:
    """What is given row by row as the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)]


def _notice_of(row: Row) -> Notice:
    return Notice(row["task_id"], row["last_seq"] or 0, TaskState(row["state"]) if row["state"] else None)


def _filters(query: TaskQuery) -> tuple[list[str], tuple[Any, ...]]:
    """The conditions that were asked for, with {n} for their parameters, and the parameters."""
    asked: list[tuple[str, Any]] = [
        ("t.context_id = {n}::text", query.context_id),
        ("t.state = {n}::text", query.state),
        ("t.status_timestamp >= {n}::timestamptz", query.since),
    ]
    given = [(condition, value) for condition, value in asked if value is not None]
    return [condition for condition, _ in given], tuple(value for _, value in given)


def numbered(conditions: Sequence[str], first: int) -> str:
    """As more conditions of a WHERE, their parameters from `$first` on."""
    return "".join(f" AND {text.replace('{n}', f'${first + n}')}" for n, text in enumerate(conditions))
