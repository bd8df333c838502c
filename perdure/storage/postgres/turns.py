"""What a turn writes: its output, its end, its release. Writes of the same moment are one statement (see `lanes`).

Contexts are locked before tasks, both in the order of their keys. A turn has one write under way; two of one task in a batch can
only be one that was sent again, and are kept apart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

from perdure.errors import LeaseLost
from perdure.storage import Claim, Held, Written
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.lanes import Lane
from perdure.storage.postgres.reads import columns
from perdure.storage.postgres.records import (
    Row,
    changed_metadata,
    dumps,
    message_json,
    ring_at,
    rings_of,
    status_json,
)
from perdure.storage.postgres.statements import NEXT, UNCOUNT, UNLIMITED, seen
from perdure.storage.writes import YIELDS_TO_UNREAD, bodies, ends_turn
from perdure.stored.payload import dump_body
from perdure.tasks import Artifact, ArtifactChunk, Message, Ring, StatusChange, TaskState

# $1 task_ids, $2 attempts, $3 tokens, $4 lease in seconds; answers by the claim's place in the arrays
RENEW = """
WITH asked AS (
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[]) WITH ORDINALITY AS a(task_id, attempt, token, place)),
    held AS (
        SELECT t.task_id, asked.place FROM tasks t
          JOIN asked ON t.task_id = asked.task_id AND t.attempt = asked.attempt AND t.lease_token IS NOT DISTINCT FROM asked.token
         ORDER BY t.task_id FOR NO KEY UPDATE OF t SKIP LOCKED),
    renewed AS (
        UPDATE tasks t SET lease_until = clock_timestamp() + make_interval(secs => $4)
          FROM held WHERE t.task_id = held.task_id RETURNING held.place, t.state)
SELECT asked.place,
       CASE WHEN renewed.place IS NOT NULL THEN CASE WHEN renewed.state = 'working' THEN 'yes' ELSE 'canceled' END
            WHEN t.task_id IS NOT NULL THEN 'locked' ELSE 'lost' END AS found
  FROM asked LEFT JOIN renewed ON renewed.place = asked.place
       LEFT JOIN tasks t ON t.task_id = asked.task_id AND t.attempt = asked.attempt
                        AND t.lease_token IS NOT DISTINCT FROM asked.token
"""

# What every write of a turn says. $1 task_ids, $2 attempts, $3 tokens, $4 write_nos, $5 metadata, $6 keys to remove, $7 how many
# events, $8 to $11 the events of all: the place of their write, their place in it, kinds, payloads.
_ASKED = """unnest($1::uuid[], $2::int[], $3::uuid[], $4::int[], $5::jsonb[], $6::jsonb[], $7::int[]"""
_ASKED_NAMES = "task_id, attempt, token, write_no, metadata, removed, pieces"
_FENCE = """t.task_id = a.task_id AND t.attempt = a.attempt AND t.lease_token IS NOT DISTINCT FROM a.token
           AND t.write_no = a.write_no - 1 AND t.state = 'working'"""
_METADATA = """metadata = CASE WHEN h.metadata = '{}' AND h.removed = '[]' THEN t.metadata
                     ELSE (t.metadata || h.metadata) - ARRAY(SELECT jsonb_array_elements_text(h.removed)) END"""
_EVENTS = "unnest($8::bigint[], $9::int[], $10::text[], $11::jsonb[]) AS e(place, nth, kind, payload)"

# $12 messages of a status that comes last, or null: it becomes the present one (progress does not)
WRITE = f"""
WITH asked AS (
        SELECT * FROM {_ASKED}, $12::jsonb[]) WITH ORDINALITY AS a({_ASKED_NAMES}, message, place)),
    held AS (
        SELECT a.*, clock_timestamp() AS now FROM asked a JOIN tasks t ON {_FENCE}
         ORDER BY t.task_id FOR NO KEY UPDATE OF t),
    written AS (
        UPDATE tasks t
           SET write_no = h.write_no, last_seq = t.last_seq + h.pieces, {_METADATA},
               streamed = t.streamed OR EXISTS (SELECT FROM {_EVENTS} WHERE e.place = h.place AND e.kind = 'artifact'),
               status_message = coalesce(h.message, t.status_message),
               status_seq = CASE WHEN h.message IS NULL THEN t.status_seq ELSE t.last_seq + h.pieces END,
               status_timestamp = CASE WHEN h.message IS NULL THEN t.status_timestamp ELSE h.now END, updated_at = h.now
          FROM held h WHERE t.task_id = h.task_id
        RETURNING h.place, h.pieces, t.task_id, t.attempt, t.last_seq, t.updated_at),
    events AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT w.task_id, w.last_seq - w.pieces + e.nth, w.last_seq - w.pieces + e.nth, e.kind, w.attempt, e.payload, w.updated_at
          FROM written w JOIN {_EVENTS} ON e.place = w.place)
SELECT place, last_seq FROM written
"""

# $12 messages of the statuses or null, $13 states, $14 status payloads, $15 whether unread messages bring it back, $16 owners,
# $17 context_ids
SETTLE = f"""
WITH asked AS (
        SELECT *, min(place) OVER (PARTITION BY owner, context_id) AS first_of_context
          FROM {_ASKED}, $12::jsonb[], $13::text[], $14::jsonb[], $15::bool[], $16::text[], $17::text[])
               WITH ORDINALITY AS a({_ASKED_NAMES}, message, state, status, yields, owner, context_id, place)),
    line AS (
        SELECT c.owner, c.context_id, c.waiting, a.place
          FROM asked a JOIN contexts c ON c.owner = a.owner AND c.context_id = a.context_id
         WHERE a.place = a.first_of_context
         ORDER BY c.owner, c.context_id FOR NO KEY UPDATE OF c),
    held AS (
        SELECT a.*, a.yields AND t.message_seq > t.read_seq AS again, clock_timestamp() AS now, line.waiting
          FROM asked a JOIN line ON line.place = a.first_of_context
          JOIN tasks t ON {_FENCE} AND t.owner = line.owner AND t.context_id = line.context_id
         ORDER BY t.task_id FOR NO KEY UPDATE OF t),
    settled AS (
        UPDATE tasks t
           SET state = CASE WHEN h.again THEN 'submitted' ELSE h.state END, write_no = h.write_no, turns = t.turns + 1,
               last_seq = t.last_seq + h.pieces + 1, status_seq = t.last_seq + h.pieces + 1,
               status_message = h.message, status_timestamp = h.now, {_METADATA},
               lease_holder = NULL, lease_token = NULL, lease_until = NULL,
               due_at = h.now, dispatch = t.dispatch + h.again::int, dispatched_at = h.now, updated_at = h.now
          FROM held h WHERE t.task_id = h.task_id
        RETURNING h.place, h.first_of_context, h.waiting, h.pieces, h.status, h.again, t.task_id, t.owner, t.context_id,
                  t.attempt, t.state, t.last_seq, t.dispatch, t.updated_at, t.parallel, t.limit_keys),
    let_go AS (SELECT * FROM settled),{UNCOUNT},{UNLIMITED},
    events AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT s.task_id, s.last_seq - 1 - s.pieces + e.nth, s.last_seq - 1 - s.pieces + e.nth, e.kind, s.attempt,
               e.payload, s.updated_at
          FROM settled s JOIN {_EVENTS} ON e.place = s.place
        UNION ALL
        SELECT s.task_id, s.last_seq, s.last_seq, 'status', s.attempt,
               CASE WHEN s.again THEN jsonb_set(s.status, '{{status,state}}', '"TASK_STATE_SUBMITTED"') ELSE s.status END,
               s.updated_at
          FROM settled s),
    slot AS (
        UPDATE contexts c SET running_task = CASE WHEN c.running_task = ANY (s.tasks) THEN NULL ELSE c.running_task END,
               waiting = line.waiting + s.back
          FROM (SELECT first_of_context, array_agg(task_id) AS tasks, count(*) FILTER (WHERE again AND NOT parallel) AS back
                  FROM settled GROUP BY first_of_context) s
          JOIN line ON line.place = s.first_of_context
         WHERE c.owner = line.owner AND c.context_id = line.context_id
        RETURNING line.place, c.waiting),
    freed AS (
        SELECT * FROM settled WHERE NOT again AND NOT parallel AND waiting > 0),
    {NEXT}
SELECT s.place, s.state, s.last_seq, s.dispatch, s.again, slot.waiting, next.task_id AS next_id, next.dispatch AS next_dispatch,
       unlimited.task_id AS unlimited_id, unlimited.dispatch AS unlimited_dispatch,
       CASE WHEN slot.waiting > 0 THEN {seen("s")} END AS seen
  FROM settled s LEFT JOIN slot ON slot.place = s.first_of_context
  LEFT JOIN next ON next.after = s.task_id LEFT JOIN unlimited ON unlimited.task_id = s.task_id
"""

# $1 task_id: why a write was refused, or that it was kept before
DIAGNOSE = "SELECT state, attempt, write_no, last_seq FROM tasks WHERE task_id = $1"

# $1 task_ids, $2 attempts, $3 tokens, $4 owners, $5 context_ids, $6 status payloads, $7 failed, $8 delays in seconds,
# $9 metadata or null
RELEASE = f"""
WITH asked AS (
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::uuid[], $4::text[], $5::text[], $6::jsonb[], $7::bool[], $8::float8[],
                             $9::jsonb[])
               WITH ORDINALITY AS a(task_id, attempt, token, owner, context_id, status, failed, delay, metadata, place)),
    line AS (
        SELECT c.owner, c.context_id, c.waiting FROM contexts c
         WHERE (c.owner, c.context_id) IN (SELECT owner, context_id FROM asked)
         ORDER BY c.owner, c.context_id FOR NO KEY UPDATE),
    held AS (
        SELECT a.*, t.state, t.state = 'working' AS again, clock_timestamp() AS now
          FROM asked a JOIN line ON line.owner = a.owner AND line.context_id = a.context_id
          JOIN tasks t ON t.task_id = a.task_id AND t.attempt = a.attempt AND t.lease_token IS NOT DISTINCT FROM a.token
                      AND t.owner = line.owner AND t.context_id = line.context_id
         ORDER BY t.task_id FOR NO KEY UPDATE OF t),
    released AS (
        UPDATE tasks t
           SET lease_holder = NULL, lease_token = NULL, lease_until = NULL,
               state = CASE WHEN h.again THEN 'submitted' ELSE h.state END,
               lost_attempts = CASE WHEN h.again THEN t.lost_attempts || t.attempt ELSE t.lost_attempts END,
               failures = t.failures + (h.again AND h.failed)::int,
               metadata = CASE WHEN h.again AND h.metadata IS NOT NULL THEN t.metadata || h.metadata ELSE t.metadata END,
               last_seq = t.last_seq + h.again::int,
               status_seq = CASE WHEN h.again THEN t.last_seq + 1 ELSE t.status_seq END,
               status_message = CASE WHEN h.again THEN NULL ELSE t.status_message END,
               status_timestamp = CASE WHEN h.again THEN h.now ELSE t.status_timestamp END,
               due_at = h.now + make_interval(secs => h.delay),
               dispatch = t.dispatch + h.again::int, dispatched_at = h.now, updated_at = h.now
          FROM held h WHERE t.task_id = h.task_id
        RETURNING h.place, h.status, h.again, t.task_id, t.owner, t.context_id, t.last_seq, t.dispatch, t.updated_at, t.parallel,
                  t.limit_keys),
    let_go AS (SELECT * FROM released),{UNCOUNT},{UNLIMITED},
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, last_seq, last_seq, 'status', 0, status, updated_at FROM released WHERE again),
    slot AS (
        UPDATE contexts c SET running_task = NULL, waiting = line.waiting + r.again::int
          FROM released r JOIN line ON line.owner = r.owner AND line.context_id = r.context_id
         WHERE c.owner = line.owner AND c.context_id = line.context_id AND c.running_task = r.task_id AND NOT r.parallel
        RETURNING c.owner, c.context_id, c.waiting),
    freed AS (
        SELECT * FROM released WHERE NOT again AND NOT parallel),
    {NEXT}
SELECT r.place, r.task_id, r.dispatch, r.again, slot.waiting, next.task_id AS next_id, next.dispatch AS next_dispatch,
       unlimited.task_id AS unlimited_id, unlimited.dispatch AS unlimited_dispatch, {seen("r")} AS seen
  FROM released r LEFT JOIN slot ON slot.owner = r.owner AND slot.context_id = r.context_id
  LEFT JOIN next ON next.after = r.task_id LEFT JOIN unlimited ON unlimited.task_id = r.task_id
"""

# The fence of a checkpoint, and its result. $1 task_id, $2 attempt, $3 token, $4 name, $5 occurrence, $6 result
STORE_STEP = """
WITH held AS (
        SELECT t.task_id, t.turns FROM tasks t
         WHERE t.task_id = $1 AND t.attempt = $2 AND t.lease_token = $3 AND t.state = 'working' FOR NO KEY UPDATE),
    kept AS (
        INSERT INTO task_steps (task_id, turn, name, occurrence, result, attempt)
        SELECT task_id, turns, $4, $5, $6::json, $2 FROM held ON CONFLICT DO NOTHING)
SELECT true FROM held
"""


class Write(NamedTuple):
    """A write of a turn, as WRITE and SETTLE take it."""

    task_id: UUID
    attempt: int
    token: UUID
    write_no: int
    metadata: str
    removed: str
    pieces: int
    message: str | None


class End(NamedTuple):
    """What the last write of a turn says besides."""

    state: str
    status: str
    yields: bool
    owner: str
    context_id: str


class Piece(NamedTuple):
    """An event of a write."""

    kind: str
    payload: str


class Release(NamedTuple):
    """A claim that is given back, as RELEASE takes it."""

    task_id: UUID
    attempt: int
    token: UUID
    owner: str
    context_id: str
    status: str
    failed: bool
    delay: float
    metadata: str | None


class Turns(Statements):
    """See `Storage`."""

    def __init__(self) -> None:
        super().__init__()
        self._writes = Lane(self._write, name="writes", apart=lambda asked: asked[0].task_id)
        self._settles = Lane(self._settle, name="settles", apart=lambda asked: asked[0].task_id)
        self._releases = Lane(self._release, name="releases", apart=lambda asked: asked.task_id)

    async def update_task(
        self,
        claim: Claim,
        write_no: int,
        *,
        state: TaskState | None = None,
        status_message: Message | None = None,
        status_metadata: Mapping[str, Any] | None = None,
        new_messages: Sequence[Message] = (),
        new_artifacts: Sequence[Artifact | ArtifactChunk] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Written:
        ends = ends_turn(state)
        dumped = [dump_body(body) for body in bodies(new_messages, new_artifacts)]
        if not ends and (status_message or status_metadata):
            dumped.append(dump_body(StatusChange(TaskState.WORKING, status_message, status_metadata or {})))
        given, removed = changed_metadata(metadata or {})
        pieces = [Piece(kind, dumps(payload)) for kind, payload in dumped]
        write = Write(
            *(claim.task_id, claim.attempt, claim.token, write_no),
            *(given, dumps(removed), len(pieces), message_json(status_message)),
        )
        if state is None or not ends:
            row = await self._writes.ask((write, pieces))
            return Written(TaskState.WORKING, row["last_seq"]) if row else await self._refused(write)
        status = status_json(state, status_message, status_metadata)
        end = End(state, status, state in YIELDS_TO_UNREAD, claim.owner, claim.context_id)
        row = await self._settles.ask((write, pieces, end))
        if row is None:
            return await self._refused(write)
        own = (ring_at(claim.owner, claim.task_id, row["dispatch"]),) if row["again"] else ()
        return Written(
            TaskState(row["state"]), row["last_seq"], (*own, *rings_of(claim.owner, claim.task_id, row))
        )

    async def _write(self, asked: Sequence[tuple[Write, Sequence[Piece]]]) -> Sequence[Row | None]:
        rows = await self._rows(WRITE, *_said([(write, pieces) for write, pieces in asked]))
        return by_place(rows, len(asked))

    async def _settle(self, asked: Sequence[tuple[Write, Sequence[Piece], End]]) -> Sequence[Row | None]:
        said = _said([(write, pieces) for write, pieces, _ in asked])
        state, *ends = columns([end for _, _, end in asked])
        rows = await self._rows(SETTLE, *said, state, *ends)
        return by_place(rows, len(asked))

    async def _refused(self, write: Write) -> Written:
        """A write changed nothing: it was kept before (success), or the claim is not held any more."""
        row = await self._row(DIAGNOSE, write.task_id)
        if row is not None and row["attempt"] == write.attempt:
            if row["write_no"] == write.write_no:
                return Written(TaskState(row["state"]), row["last_seq"])
            raise LeaseLost(canceled=row["state"] == TaskState.CANCELED)
        raise LeaseLost(canceled=False)

    async def release_task(
        self,
        claim: Claim,
        *,
        reason: str,
        failed: bool = False,
        delay: float = 0.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Ring]:
        told = {"reason": reason, **(metadata or {})}
        _, payload = dump_body(StatusChange(TaskState.SUBMITTED, metadata=told))
        row = await self._releases.ask(
            Release(
                *(claim.task_id, claim.attempt, claim.token, claim.owner, claim.context_id),
                *(dumps(payload), failed, delay, dumps(dict(metadata)) if metadata else None),
            )
        )
        if row is None:
            return ()
        own: tuple[Ring, ...] = ()
        if row["again"] and delay <= 0:
            own = (ring_at(claim.owner, claim.task_id, row["dispatch"]),)
        return (*own, *rings_of(claim.owner, claim.task_id, row))

    async def _release(self, asked: Sequence[Release]) -> Sequence[Row | None]:
        return by_place(await self._rows(RELEASE, *columns(asked)), len(asked))

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: Any) -> None:
        row = await self._row(
            STORE_STEP, claim.task_id, claim.attempt, claim.token, name, occurrence, dumps(result)
        )
        if row is None:
            found = await self._row(DIAGNOSE, claim.task_id)
            raise LeaseLost(canceled=found is not None and found["state"] == TaskState.CANCELED)

    async def renew_claims(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        async def renewed(connection: Any, again: bool) -> Mapping[Claim, Held]:
            return await renew(connection, claims, lease)

        return await self._workers_database.run(renewed)


async def renew(connection: Any, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
    """`renew_claims` on a connection."""
    rows = await connection.fetch(
        RENEW,
        [claim.task_id for claim in claims],
        [claim.attempt for claim in claims],
        [claim.token for claim in claims],
        lease,
    )
    return {claims[row["place"] - 1]: Held(row["found"]) for row in rows if row["found"] != "locked"}


def by_place(rows: Sequence[Row], count: int) -> list[Row | None]:
    """The rows of a batch in the order of its items; None for those that have none."""
    found = {row["place"]: row for row in rows}
    return [found.get(place) for place in range(1, count + 1)]


def _said(asked: Sequence[tuple[Write, Sequence[Piece]]]) -> list[Any]:
    """$1 to $12 of WRITE and SETTLE."""
    *fence, messages = columns([write for write, _ in asked])
    events = [
        (place, nth, piece.kind, piece.payload)
        for place, (_, pieces) in enumerate(asked, 1)
        for nth, piece in enumerate(pieces, 1)
    ]
    return [*fence, *(columns(events) if events else ([], [], [], [])), messages]
