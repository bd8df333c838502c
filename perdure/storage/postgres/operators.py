"""What operators see and do, in Postgres. Each look is bounded (see the port)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson

from perdure.errors import TaskNotFound
from perdure.ids import first_id_at, parse_task_id
from perdure.storage import Claim
from perdure.storage.operators import (
    COUNTED,
    SAMPLED,
    SCANNED,
    SEARCHED,
    Attempt,
    Failure,
    FailureGroup,
    Figures,
    Minute,
    OperatorAction,
    TaskFilter,
    TaskLine,
    TaskLines,
    WorkerBeat,
    WorkerStatus,
)
from perdure.storage.postgres import operator_statements as sql
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.records import Row
from perdure.storage.postgres.statements import all_of
from perdure.storage.timeline import Status, attempts_of
from perdure.stored.payload import load_body
from perdure.tasks import StatusChange, TaskState


class Operators(Statements):
    """See the port."""

    async def figures(self) -> Figures:
        counts, oldest = await self.waiting()
        ended = await self._rows(sql.ENDED_COUNTS, SCANNED)
        now = (await self._rows("SELECT clock_timestamp() AS now"))[0]["now"]
        since = now - timedelta(hours=1)
        first = first_id_at(since)
        minutes = await self._rows(sql.MINUTES, first, since, SCANNED)
        times = await self._row(sql.TIMES, first, SAMPLED)
        return Figures(
            time=now,
            counts={**counts, **{TaskState(row["state"]): row["tasks"] for row in ended}},
            oldest_waiting=oldest,
            minutes=[
                Minute(time=row["minute"], completed=row["completed"], failed=row["failed"])
                for row in minutes
            ],
            completed=sum(row["completed"] for row in minutes),
            failed=sum(row["failed"] for row in minutes),
            waits=_pair(times["waits"]) if times else None,
            runs=_pair(times["runs"]) if times else None,
        )

    async def waiting(self) -> tuple[Mapping[TaskState, int], float | None]:
        counts = await self._rows(sql.OPEN_COUNTS)
        oldest = await self._row(sql.OLDEST_WAITING)
        return {TaskState(row["state"]): row["tasks"] for row in counts}, oldest["oldest"] if oldest else None

    async def open_by_agent(self) -> Mapping[tuple[str, TaskState], int]:
        rows = await self._rows(sql.OPEN_BY_AGENT)
        return {(row["agent"], TaskState(row["state"])): row["tasks"] for row in rows}

    async def find_tasks(
        self, wanted: TaskFilter, *, page_size: int = 50, before: UUID | None = None
    ) -> TaskLines:
        scan, arguments = _scan(wanted, before)
        size = f"${len(arguments) + 1}"
        statement = f"{sql.LINE} ({scan} LIMIT {_bound(wanted)}) t WHERE {_REST}"
        rows = await self._rows(
            f"{statement} ORDER BY t.task_id DESC LIMIT {size}::int", *arguments, page_size + 1
        )
        lines = [_line(row) for row in rows[:page_size]]
        if len(rows) > page_size:
            return TaskLines(lines, lines[-1].task_id)
        last = await self._row(
            f"SELECT task_id FROM ({scan}) t OFFSET {_bound(wanted) - 1} LIMIT 1", *arguments[:OF_THE_SCAN]
        )
        return TaskLines(lines, last["task_id"] if last else None, complete=last is None)

    async def count_matching(self, wanted: TaskFilter) -> int:
        scan, arguments = _scan(wanted, None)
        statement = f"""
SELECT count(*) FROM (SELECT FROM ({scan} LIMIT {_bound(wanted)}) t WHERE {_REST} LIMIT {COUNTED}) m"""
        row = await self._row(statement, *arguments)
        return row["count"] if row else 0

    async def task_line(self, task_id: UUID) -> TaskLine:
        row = await self._row(sql.TASK_LINE, task_id)
        if row is None:
            raise TaskNotFound(task_id)
        return _line(row)

    async def attempts(self, task_id: UUID) -> Sequence[Attempt]:
        failures = {row["attempt"]: _failure(row) for row in await self._rows(sql.FAILURES, task_id)}
        return attempts_of([_status(row) for row in await self._rows(sql.STATUSES, task_id)], failures)

    async def context_line(self, owner: str, context_id: str, limit: int = 200) -> Sequence[TaskLine]:
        return [_line(row) for row in await self._rows(sql.CONTEXT_LINE, owner, context_id, limit)]

    async def newest_contexts(self, limit: int = 50) -> Sequence[tuple[str, str, datetime, int, UUID | None]]:
        rows = await self._rows(sql.NEWEST_CONTEXTS, SEARCHED, limit)
        return [
            (row["owner"], row["context_id"], row["newest"], row["waiting"], row["running_task"])
            for row in rows
        ]

    async def newest_claim(self, task_id: UUID) -> Claim | None:
        row = await self._row(sql.NEWEST_CLAIM, task_id)
        if row is None:
            return None
        return Claim(
            task_id=row["task_id"],
            owner=row["owner"],
            context_id=row["context_id"],
            attempt=row["attempt"],
            token=row["lease_token"],
        )

    async def record_failure(self, failure: Failure) -> None:
        await self._rows(
            sql.RECORD_FAILURE,
            failure.task_id,
            failure.attempt,
            failure.fingerprint,
            failure.error_class,
            failure.message,
            failure.traceback,
            failure.worker,
        )

    async def failure_groups(self, limit: int = 100) -> Sequence[FailureGroup]:
        return [FailureGroup(**row) for row in await self._rows(sql.FAILURE_GROUPS, COUNTED, limit)]

    async def list_workers(self) -> Sequence[WorkerStatus]:
        return [_worker(row) for row in await self._rows(sql.LIST_WORKERS)]

    async def ask_to_drain(self, worker_id: str, drain: bool) -> bool:
        return await self._row(sql.ASK_TO_DRAIN, worker_id, drain) is not None

    async def record_action(self, action: OperatorAction) -> None:
        await self._rows(
            sql.RECORD_ACTION, action.action_id, action.actor, action.action, action.target, action.result
        )

    async def list_actions(self, *, limit: int = 100, before: UUID | None = None) -> Sequence[OperatorAction]:
        return [OperatorAction(**row) for row in await self._rows(sql.LIST_ACTIONS, before, limit)]


# ---------------------------------------------------------------------- searching

_INDEXED = {
    TaskState.SUBMITTED: "state = 'submitted' AND lease_token IS NULL",
    TaskState.WORKING: "lease_token IS NOT NULL AND state = 'working'",
    TaskState.INPUT_REQUIRED: "state IN ('input-required', 'auth-required') AND state = 'input-required'",
    TaskState.AUTH_REQUIRED: "state IN ('input-required', 'auth-required') AND state = 'auth-required'",
}


_COLUMNS = """task_id, context_id, owner, state, created_at, status_timestamp, due_at, attempt, failures, crashes, priority,
       parallel, lease_holder, lease_until, limit_keys, trace_contexts"""


def _scan(wanted: TaskFilter, before: UUID | None) -> tuple[str, list[Any]]:
    """Which tasks are looked at, by what an index helps with; and the arguments, those of `_rest` at the end."""
    named = parse_task_id(wanted.text) if wanted.text else None
    arguments: list[Any] = [
        before,
        wanted.agent if wanted.whose is None else wanted.whose,
        wanted.context_id,
        wanted.worker,
        wanted.fingerprint,
        named,
        wanted.state,
        wanted.older,
        wanted.newer,
        _pattern(wanted.error),
        None if named else wanted.text,
        None if named else _pattern(wanted.text),
    ]
    given = [
        condition
        for value, condition in (
            (before, "task_id < $1"),
            (wanted.agent or wanted.owner, "agent = $2" if wanted.whose is None else all_of("$2")),
            (wanted.context_id, "context_id = $3"),
            (wanted.worker, "lease_token IS NOT NULL AND lease_holder = $4"),
            (wanted.fingerprint, "task_id IN (SELECT task_id FROM task_failures WHERE fingerprint = $5)"),
            (named, "task_id = $6"),
            (wanted.state, _INDEXED.get(wanted.state, "true") if wanted.state else ""),
        )
        if value is not None
    ]
    # All arguments have to be spelled somewhere, for Postgres to know their types.
    typed = "coalesce($1::uuid, $6::uuid) IS NULL OR coalesce($2::text, $3::text, $4::text, $5::text) IS NULL OR true"
    where = " AND ".join([*given, f"({typed})"])
    return f"SELECT {_COLUMNS} FROM tasks WHERE {where} ORDER BY task_id DESC", arguments


OF_THE_SCAN = 6
"""How many of the arguments are its own."""
_REST = """($7::text IS NULL OR t.state = $7)
       AND ($8::float8 IS NULL OR t.created_at <= clock_timestamp() - make_interval(secs => $8))
       AND ($9::float8 IS NULL OR t.created_at >= clock_timestamp() - make_interval(secs => $9))
       AND ($10::text IS NULL OR EXISTS (SELECT FROM task_failures f WHERE f.task_id = t.task_id
                                            AND f.error_class || ': ' || f.message ILIKE $10))
       AND ($11::text IS NULL OR t.context_id = $11 OR EXISTS (
            SELECT FROM task_events e, jsonb_array_elements(e.payload -> 'parts') p
             WHERE e.task_id = t.task_id AND e.seq = 1 AND p ->> 'text' ILIKE $12::text))"""
"""What is looked at in each of them."""


def _bound(wanted: TaskFilter) -> int:
    return SEARCHED if wanted.text or wanted.error else SCANNED


def _pattern(text: str | None) -> str | None:
    if text is None:
        return None
    return "%" + text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


# ---------------------------------------------------------------------- rows


def _line(row: Row) -> TaskLine:
    return TaskLine(
        task_id=row["task_id"],
        context_id=row["context_id"],
        owner=row["owner"],
        state=TaskState(row["state"]),
        created_at=row["created_at"],
        status_timestamp=row["status_timestamp"],
        due_at=row["due_at"],
        attempt=row["attempt"],
        failures=row["failures"],
        crashes=row["crashes"],
        priority=row["priority"],
        parallel=row["parallel"],
        limits=orjson.loads(row["limits"]) if row["limits"] else {},
        holder=row["lease_holder"] or "",
        lease_until=row["lease_until"],
        text=row["text"] or "",
        error=row["error"] or "",
        trace_contexts=row["trace_contexts"] or (),
    )


def _status(row: Row) -> Status:
    change = load_body("status", orjson.loads(row["payload"]))
    assert isinstance(change, StatusChange)  # noqa: S101 - by its kind
    return Status(row["seq"], row["attempt"], row["created_at"], change, row["worker"] or "")


def _failure(row: Row) -> Failure:
    return Failure(**row)


def _worker(row: Row) -> WorkerStatus:
    beat = WorkerBeat(
        worker_id=row["worker_id"],
        slots=row["slots"],
        running=row["running"],
        version=row["version"],
        draining=row["draining"],
        name=row["name"],
        loop_lag=row["loop_lag"],
        counters=orjson.loads(row["counters"]),
        agents=tuple(row["agents"]),
    )
    return WorkerStatus(
        beat=beat,
        started_at=row["started_at"],
        silent=row["silent"],
        asked_to_drain=row["asked_to_drain"],
        tasks=row["tasks"],
        renews=row["renews"],
    )


def _pair(values: Sequence[float] | None) -> tuple[float, float] | None:
    return (max(values[0], 0.0), max(values[1], 0.0)) if values else None
