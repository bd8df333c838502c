"""Claims: the best tasks that are due, with what their handlers need. Claims of the same moment are one statement."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import Any, NamedTuple
from uuid import UUID

import orjson

from perdure.owners import ONLY
from perdure.storage import ClaimedTurn
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.lanes import MOST, Lane
from perdure.storage.postgres.reads import CONVERSATIONS, LOAD, columns
from perdure.storage.postgres.records import Row, claim_of, conversation_of, task_with
from perdure.storage.postgres.statements import CLAIMABLE, OF_ONLY_AGENT, TASK, of_agent
from perdure.storage.views import last
from perdure.tasks import Message

CLAIM_TRIES = 20
"""How often claims that met others at a limited key are tried again."""
_AFTER_OTHERS = 0.005
"""Seconds that they wait for them at most, each time."""

_BEST = "b.priority DESC, b.rank, b.due_at, b.task_id"

# $1 holders, $2 tokens, $3 leases in seconds; {of}: of which agent. What a token got before is given again. A row without a task:
# other claims were faster at a limited key; something else may still be claimable. `opening`: the only message of a context that
# has just begun. `best` reads, and locks, no more rows than are asked for, one after the other. The bound inside it is for the
# planner: for a number that it does not know it assumes a tenth of the table, and would sort all that waits.
_CLAIM = f"""
WITH mine AS (
        SELECT t.*, 0 AS waiting FROM unnest($2::uuid[]) AS asked(token) CROSS JOIN LATERAL (
               SELECT * FROM tasks WHERE lease_token = asked.token AND state = 'working' OFFSET 0) t),
    asked AS (
        SELECT a.holder, a.token, a.lease, row_number() OVER (ORDER BY a.ord) AS place
          FROM unnest($1::text[], $2::uuid[], $3::float8[]) WITH ORDINALITY AS a(holder, token, lease, ord)
         WHERE NOT EXISTS (SELECT FROM mine WHERE mine.lease_token = a.token)),
    best AS (
        SELECT * FROM (
            SELECT t.task_id, t.limit_keys, t.priority, t.rank, t.due_at, c.waiting, clock_timestamp() AS now
              FROM tasks t JOIN contexts c ON c.owner = t.owner AND c.context_id = t.context_id
             WHERE {CLAIMABLE} AND {{of}}
             ORDER BY t.priority DESC, t.rank, t.due_at, t.task_id LIMIT {MOST}
               FOR NO KEY UPDATE OF t, c SKIP LOCKED) found LIMIT (SELECT count(*) FROM asked)),
    limits AS (
        SELECT l.limit_key, l.max_running - l.running AS free FROM concurrency_limits l
         WHERE l.limit_key IN (SELECT unnest(b.limit_keys) FROM best b) AND l.running < l.max_running
         ORDER BY l.limit_key FOR NO KEY UPDATE OF l SKIP LOCKED),
    refused AS (
        SELECT w.task_id
          FROM (SELECT b.task_id, key, row_number() OVER (PARTITION BY key ORDER BY {_BEST}) AS nth
                  FROM best b, unnest(b.limit_keys) AS key) w
          LEFT JOIN limits l ON l.limit_key = w.key
         WHERE l.free IS NULL OR w.nth > l.free),
    allowed AS (
        SELECT b.*, asked.holder, asked.token, asked.lease
          FROM (SELECT b.*, row_number() OVER (ORDER BY {_BEST}) AS place FROM best b
                 WHERE NOT EXISTS (SELECT FROM refused r WHERE r.task_id = b.task_id)) b
          JOIN asked ON asked.place = b.place),
    counted AS (
        UPDATE concurrency_limits l SET running = l.running + u.turns
          FROM (SELECT key, count(*) AS turns FROM allowed, unnest(allowed.limit_keys) AS key GROUP BY key) u
         WHERE l.limit_key = u.key),
    claimed AS (
        UPDATE tasks t
           SET state = 'working', attempt = t.attempt + 1, write_no = 0, read_seq = t.message_seq,
               lease_holder = a.holder, lease_token = a.token, lease_until = a.now + make_interval(secs => a.lease),
               last_seq = t.last_seq + 1, status_seq = t.last_seq + 1, status_message = NULL,
               status_timestamp = a.now, updated_at = a.now
          FROM allowed a WHERE t.task_id = a.task_id
        RETURNING t.*, a.waiting),
    slot AS (
        UPDATE contexts c SET running_task = t.task_id, waiting = t.waiting - 1
          FROM claimed t
         WHERE c.owner = t.owner AND c.context_id = t.context_id AND NOT t.parallel),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at, worker)
        SELECT task_id, last_seq, last_seq, 'status', attempt,
               '{{"status": {{"state": "TASK_STATE_WORKING"}}}}'::jsonb, updated_at, lease_holder
          FROM claimed),
    turns AS (
        SELECT *, false AS again FROM claimed UNION ALL SELECT *, true FROM mine)
SELECT r.held_up, {TASK}, t.position, t.turns, t.status_seq, t.lease_token, t.trace_contexts, t.again,
       CASE WHEN t.position = 1 AND t.last_seq = 2 THEN (
            SELECT e.payload FROM task_events e WHERE e.task_id = t.task_id AND e.seq = 1) END AS opening
  FROM (SELECT EXISTS (SELECT FROM refused) AS held_up) r LEFT JOIN turns t ON true
"""
CLAIM = _CLAIM.replace("{of}", OF_ONLY_AGENT)
# $4 agent
CLAIM_OF = _CLAIM.replace("{of}", of_agent("$4::text"))

# $1 task_ids, $2 turns
STEPS = """
SELECT s.task_id, s.name, s.occurrence, s.result
  FROM unnest($1::uuid[], $2::int[]) AS asked(task_id, turn)
  JOIN task_steps s ON s.task_id = asked.task_id AND s.turn = asked.turn
"""


class Wanted(NamedTuple):
    """One call of `claim_task`."""

    holder: str
    token: UUID
    lease: float
    history: int


class Claims(Statements):
    """See `Storage`."""

    def __init__(self) -> None:
        super().__init__()
        self._claims: dict[str, Lane[Wanted, ClaimedTurn | None]] = {}  # by agent

    async def claim_task(
        self, holder: str, token: UUID, *, lease: float, history: int = 200, agent: str = ONLY
    ) -> ClaimedTurn | None:
        if (lane := self._claims.get(agent)) is None:
            lane = self._claims[agent] = Lane(partial(self._claim, agent), name="claims")
        return await lane.ask(Wanted(holder, token, lease, history))

    async def _claim(self, agent: str, wanted: Sequence[Wanted]) -> Sequence[ClaimedTurn | None]:
        async def claim(connection: Any, again: bool) -> Sequence[ClaimedTurn | None]:
            rows = await _claimed(connection, wanted, agent)
            history = {each.token: each.history for each in wanted}
            told = [row for row in rows if row["opening"] is None]
            turns = {row["lease_token"]: _opened(row, history) for row in rows if row["opening"] is not None}
            if told:
                turns |= await _continued(connection, told, history)
            return [turns.get(each.token) for each in wanted]

        return await self._workers_database.run(claim)


async def _claimed(connection: Any, wanted: Sequence[Wanted], agent: str) -> Sequence[Row]:
    holders, tokens, leases, _ = columns(wanted)
    statement, named = (CLAIM_OF, [agent]) if agent else (CLAIM, [])
    for _ in range(CLAIM_TRIES):
        rows = await connection.fetch(statement, holders, tokens, leases, *named)
        found = [row for row in rows if row["task_id"] is not None]
        if len(found) == len(wanted) or not rows[0]["held_up"]:
            break
        await asyncio.sleep(random.uniform(0, _AFTER_OTHERS))  # noqa: S311 -- no secret
    return found


def _opened(row: Row, history: Mapping[UUID, int]) -> ClaimedTurn:
    """The first turn of a context: nothing was said but the task's message."""
    return _turn(row, ["message"], [row["opening"]], None, history[row["lease_token"]])


async def _continued(
    connection: Any, rows: Sequence[Row], history: Mapping[UUID, int]
) -> Mapping[UUID, ClaimedTurn]:
    """Turns of contexts in which more was said."""
    asked = [
        (
            *(row["owner"], row["context_id"], row["position"]),
            *(row["task_id"], row["last_seq"], history[row["lease_token"]]),
        )
        for row in rows
    ]
    said = {
        place: list(own)
        for place, own in groupby(await connection.fetch(CONVERSATIONS, *columns(asked)), itemgetter("place"))
    }
    steps = await _steps(connection, rows)
    turns = {}
    for place, row in enumerate(rows, 1):
        token, pieces = row["lease_token"], said.get(place, [])
        own = [piece for piece in pieces if piece["task_id"] == row["task_id"]]
        if not own or own[0]["seq"] > 1:  # the window cut off its beginning, and maybe artifacts with it
            own = list(await _log(connection, row, history[token]))
        else:
            own = [piece for piece in own if piece["seq"] != row["status_seq"]]
        turns[token] = _turn(
            row,
            [piece["kind"] for piece in own],
            [piece["payload"] for piece in own],
            conversation_of(pieces, history[token]),
            history[token],
            steps.get(row["task_id"], {}),
        )
    return turns


def _turn(
    row: Row,
    kinds: Sequence[str],
    payloads: Sequence[str],
    said: Sequence[Message] | None,
    history: int,
    steps: Mapping[tuple[str, int], Any] | None = None,
) -> ClaimedTurn:
    task = task_with(row, kinds, payloads)
    task = task if len(task.history) <= history else replace(task, history=tuple(last(task.history, history)))
    return ClaimedTurn(
        claim=claim_of(row, row["lease_token"]),
        task=task,
        conversation=task.history if said is None else said,
        steps=steps or {},
        deadline=row["deadline"],
        trace_contexts=row["trace_contexts"] or (),
        again=row["again"],
    )


async def _log(connection: Any, row: Row, history: int) -> Sequence[Row]:
    """The task's own log, apart from what was said in its context."""
    found = await connection.fetchrow(LOAD, [row["task_id"]], [row["owner"]], [history])
    if found is None:  # its context was cleared in between: the turn's first write will find out
        return []
    return [
        {"kind": kind, "payload": payload}
        for kind, payload in zip(found["kinds"] or (), found["payloads"] or (), strict=True)
    ]


async def _steps(connection: Any, rows: Sequence[Row]) -> Mapping[UUID, Mapping[tuple[str, int], Any]]:
    asked = [(row["task_id"], row["turns"]) for row in rows if row["attempt"] > 1]
    if not asked:
        return {}  # nothing was run before
    steps: dict[UUID, dict[tuple[str, int], Any]] = {}
    for row in await connection.fetch(STEPS, *columns(asked)):
        steps.setdefault(row["task_id"], {})[row["name"], row["occurrence"]] = orjson.loads(row["result"])
    return steps
