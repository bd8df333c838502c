"""What is left in the end, read and written down: tasks and views from Postgres, a sample over HTTP, the keys of Redis."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import asyncpg
import httpx
import redis.asyncio

from tests.chaos.clients import state_of
from tests.chaos.fleet import Fleet
from tests.chaos.history import Event, TaskRow, View, keep

Row = Mapping[str, Any]

SAMPLE = 200
"""So many tasks are also asked for over HTTP."""

RESTLESS = "SELECT task_id::text, state FROM tasks WHERE state NOT IN ('completed', 'failed', 'canceled', 'rejected')"

HELD = """
SELECT 'lease of ' || task_id FROM tasks WHERE lease_token IS NOT NULL
UNION ALL SELECT 'slot of ' || context_id FROM contexts WHERE running_task IS NOT NULL
UNION ALL SELECT waiting || ' waiting in ' || context_id FROM contexts WHERE waiting <> 0
UNION ALL SELECT running || ' counted at ' || limit_key FROM concurrency_limits WHERE running <> 0
"""

TASKS = """
SELECT t.task_id::text AS task, t.context_id AS context, t.state, t.attempt, t.lost_attempts AS lost, t.last_seq,
       d.history, d.artifacts, d.status_message,
       (SELECT jsonb_agg(jsonb_build_object('seq', e.seq, 'first_seq', e.first_seq, 'kind', e.kind, 'attempt', e.attempt,
                                            'payload', e.payload, 'time', extract(epoch FROM e.created_at)) ORDER BY e.seq)
          FROM task_events e WHERE e.task_id = t.task_id) AS events
  FROM tasks t JOIN task_documents d ON d.task_id = t.task_id ORDER BY t.task_id
"""


async def restless(fleet: Fleet) -> list[tuple[str, str]]:
    """The tasks that have not ended, and their states."""
    return [(row["task_id"], row["state"]) for row in await _rows(fleet, RESTLESS)]


async def read(fleet: Fleet, *, patience: float) -> None:
    """Write `tasks.jsonl`, `views.jsonl` and `rest.json`. What is about to be let go of is given `patience` seconds."""
    held, keys = await _rest(fleet)
    for _ in range(int(patience / 0.5)):
        if not held and all(seconds >= 0 for seconds in keys.values()):
            break
        await asyncio.sleep(0.5)
        held, keys = await _rest(fleet)
    rows = await _rows(fleet, TASKS)
    keep(fleet.folder, "tasks.jsonl", map(_task, rows))
    sample = [row["task"] for row in rows[:: max(1, len(rows) // SAMPLE)]]
    views = [*map(_view, rows), *await _asked(fleet, sample)]
    keep(fleet.folder, "views.jsonl", views)
    (fleet.folder / "rest.json").write_text(json.dumps({"redis": keys, "held": held}))


async def _rest(fleet: Fleet) -> tuple[list[str], dict[str, int]]:
    held = [row[0] for row in await _rows(fleet, HELD)]
    async with redis.asyncio.Redis.from_url(fleet.services.redis_url, decode_responses=True) as client:
        keys = {key: await client.ttl(key) async for key in client.scan_iter()}
    return held, {key: seconds for key, seconds in keys.items() if seconds != -2}  # gone meanwhile


async def _rows(fleet: Fleet, statement: str) -> Sequence[Any]:
    connection = await asyncpg.connect(fleet.services.database_url)
    try:
        return list(await connection.fetch(statement))
    finally:
        await connection.close()


async def _asked(fleet: Fleet, tasks: Sequence[str]) -> list[View]:
    async with httpx.AsyncClient(timeout=30) as http:
        answers = []
        for number, task in enumerate(tasks):
            url = fleet.urls[number % len(fleet.urls)]
            answer = await http.get(f"{url}/tasks/{task}", headers={"A2A-Version": "1.0"})
            answers.append(answer.raise_for_status().json())
    return [
        view(
            task["id"],
            "http",
            state_of(task["status"]),
            [*task.get("history", ()), *_present(task["status"].get("message"))],
            task.get("artifacts", ()),
        )
        for task in answers
    ]


def _view(row: Row) -> View:
    said = [*json.loads(row["history"]), *_present(json.loads(row["status_message"] or "null"))]
    return view(row["task"], "postgres", row["state"], said, json.loads(row["artifacts"]))


def _present(message: Row | None) -> list[Row]:
    return [message] if message else []


def view(task: str, source: str, state: str, messages: Iterable[Row], artifacts: Iterable[Row]) -> View:
    """Of a task's JSON."""
    said = [(message["role"], _text(message)) for message in messages]
    return View(
        task=task,
        source=source,
        state=state,
        asked=[text for role, text in said if role == "ROLE_USER"],
        said=[text for role, text in said if role != "ROLE_USER"],
        artifacts=[_text(artifact) for artifact in artifacts],
    )


def _text(holder: Row) -> str:
    return "".join(part.get("text", "") for part in holder["parts"])


def _task(row: Row) -> TaskRow:
    stored = json.loads(row["events"] or "[]")
    order: dict[str, Any] = {}
    with suppress(ValueError, IndexError, KeyError):
        order = json.loads(_text(stored[0]["payload"]))
    return TaskRow(
        task=row["task"],
        context=row["context"],
        tag=order.get("tag", ""),
        pause=order.get("pause", 0.0),
        chunks=order.get("chunks", 0),
        fail=order.get("fail", False),
        state=row["state"],
        attempt=row["attempt"],
        lost=list(row["lost"]),
        last_seq=row["last_seq"],
        events=[_event(event) for event in stored],
    )


def _event(stored: Row) -> Event:
    payload, kind = stored["payload"], stored["kind"]
    message = reason = ""
    if kind == "status":
        said, message = state_of(payload["status"]), _text(payload["status"].get("message", {"parts": []}))
        reason = str(payload.get("metadata", {}).get("reason", ""))
    else:
        said = _text(payload if kind == "message" else payload["artifact"])
    return Event(
        seq=stored["seq"],
        first_seq=stored["first_seq"],
        kind=kind,
        attempt=stored["attempt"],
        said=said,
        time=float(stored["time"]),
        message=message,
        reason=reason,
    )
