"""What callers do to tasks: send, add, cancel. New tasks of the same moment are one statement (see `lanes`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg

from perdure.errors import TaskNotCancelable, TaskNotFound
from perdure.owners import agent_of
from perdure.security.vault import Vault
from perdure.storage import Accepted, IdempotencyKey, NewTask, Policy, WebhookConfig
from perdure.storage.postgres import sends
from perdure.storage.postgres.caller_statements import CANCEL
from perdure.storage.postgres.lanes import Lane
from perdure.storage.postgres.reads import Reads, columns
from perdure.storage.postgres.records import Row, dumps, message_json, ring_at, rings_of, task_of
from perdure.storage.postgres.sends import Submitted
from perdure.storage.postgres.statements import BARE, rank
from perdure.storage.postgres.webhooks import with_webhooks
from perdure.storage.writes import complete
from perdure.stored.kept import Kept
from perdure.stored.payload import Json, dump_body, dump_message, load_message
from perdure.tasks import Message, StatusChange, Task, TaskState

# As SUBMIT, for several. $1 task_ids, $2 owners, $3 context_ids, $4 metadata, $5 messages, $6 policies, $7 priorities, $8 delays,
# $9 expiries or null, $10 deadlines or null, $11 agents, $12 idempotency keys or null, $13 their fingerprints, $14 trace contexts
# or null. Left out, for SUBMIT to say why: what is there already, whose key is taken, and whose policy is to reject where the
# context is busy.
# Keys are locked before contexts, as a single send does it. One that rejects is alone with its context in a batch. The events
# come after the tasks, whose owner the second wall asks for.
SUBMIT_ALL = f"""
WITH asked AS (
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::text[], $4::jsonb[], $5::jsonb[], $6::text[], $7::int[], $8::float8[],
                             $9::float8[], $10::float8[], $11::text[], $12::text[], $13::text[], $14::text[])
               WITH ORDINALITY AS a(task_id, owner, context_id, metadata, message, policy, priority, delay, expires, deadline,
                                    agent, key, fingerprint, trace_context, place)
         WHERE NOT EXISTS (SELECT FROM tasks t WHERE t.task_id = a.task_id)),
    taken AS (
        INSERT INTO idempotency_keys (owner, key, fingerprint, task_id)
        SELECT owner, key, fingerprint, task_id FROM asked WHERE key IS NOT NULL ORDER BY owner, key
        ON CONFLICT (owner, key) DO NOTHING RETURNING task_id),
    fresh AS (
        SELECT a.*, a.policy = 'parallel' AS parallel, row_number() OVER talk AS nth, count(*) OVER whole AS tasks,
               count(*) FILTER (WHERE a.policy <> 'parallel') OVER talk AS ahead,
               count(*) FILTER (WHERE a.policy <> 'parallel') OVER whole AS waits,
               row_number() OVER (PARTITION BY a.owner, a.priority ORDER BY a.place) - 1 AS later
          FROM asked a WHERE a.key IS NULL OR a.task_id IN (SELECT task_id FROM taken)
        WINDOW whole AS (PARTITION BY a.owner, a.context_id), talk AS (PARTITION BY a.owner, a.context_id ORDER BY a.place)),
    lines AS (
        SELECT owner, context_id, max(tasks) AS tasks, max(waits) AS waits, bool_or(policy = 'reject') AS rejects
          FROM fresh GROUP BY owner, context_id),
    line AS (
        INSERT INTO contexts AS c (owner, context_id, last_position, waiting)
        SELECT owner, context_id, tasks, waits FROM lines ORDER BY owner, context_id
        ON CONFLICT (owner, context_id) DO UPDATE
           SET last_position = c.last_position + excluded.last_position, waiting = c.waiting + excluded.waiting,
               updated_at = clock_timestamp()
         WHERE (c.running_task IS NULL AND c.waiting = 0)
            OR NOT EXISTS (SELECT FROM lines l WHERE l.rejects AND l.owner = c.owner AND l.context_id = c.context_id)
        RETURNING owner, context_id, last_position, waiting, running_task, updated_at AS now),
    ranks AS MATERIALIZED (
        SELECT f.owner, f.priority, {rank("f.owner", "f.priority", "f.agent")} AS rank
          FROM (SELECT DISTINCT owner, agent, priority FROM fresh) f),
    placed AS MATERIALIZED (
        SELECT f.*, line.now, line.last_position - f.tasks + f.nth AS position, ranks.rank + f.later AS rank,
               f.delay = 0 AND (f.parallel OR (f.ahead = 1 AND line.waiting = f.waits AND line.running_task IS NULL)) AS first
          FROM fresh f JOIN line ON line.context_id = f.context_id AND line.owner = f.owner
          JOIN ranks ON ranks.owner = f.owner AND ranks.priority = f.priority),
    task AS (
        INSERT INTO tasks (task_id, owner, context_id, position, metadata, last_seq, message_seq, dispatch,
                           due_at, dispatched_at, status_timestamp, created_at, updated_at,
                           priority, rank, parallel, expires_at, deadline_at, agent, trace_contexts)
        SELECT task_id, owner, context_id, position, metadata, 1, 1, 1,
               now + make_interval(secs => delay), now, now, now, now,
               priority, rank, parallel, now + make_interval(secs => expires), now + make_interval(secs => deadline), agent,
               CASE WHEN trace_context IS NOT NULL THEN ARRAY[trace_context] END
          FROM placed
        RETURNING task_id),
    event AS (
        INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload, created_at)
        SELECT task_id, 1, 1, 'message', 0, message, now FROM placed WHERE (SELECT count(*) FROM task) > 0)
SELECT place, now AS created_at, first FROM placed
"""


class New(NamedTuple):
    """A new task as SUBMIT_ALL takes it."""

    task_id: UUID
    owner: str
    context_id: str
    metadata: str
    message: str
    policy: str
    priority: int
    delay: float
    expires: float | None
    deadline: float | None
    agent: str
    key: str | None
    fingerprint: str | None
    trace_context: str | None


class Callers(Reads):
    """See `Storage`."""

    _vault: Vault | None

    def __init__(self) -> None:
        super().__init__()
        self._submits = Lane(
            partial(self._by_owner, send=self._submit_all), name="submits", apart=_alone_with_its_context
        )

    async def submit_task(self, new: NewTask, *, key: IdempotencyKey | None = None) -> Accepted:
        message = complete(new.message, new.context_id, new.task_id)
        stored = dump_message(message)
        found = await self._submitted(new, message, stored, key)
        if isinstance(found, UUID):
            accepted = await self._submitted_before(new.owner, found)
            return replace(accepted, repeated=found != new.task_id)
        task = Task(
            task_id=new.task_id,
            context_id=new.context_id,
            owner=new.owner,
            state=TaskState.SUBMITTED,
            status_message=None,
            status_timestamp=found.created_at,
            metadata=dict(new.metadata),
            history=Kept((stored,), load_message),
            artifacts=(),
            created_at=found.created_at,
            updated_at=found.created_at,
            last_seq=1,
        )
        return Accepted(
            task, ring_at(new.owner, new.task_id, 1) if found.due else None, canceled=found.canceled
        )

    async def _submitted(
        self, new: NewTask, message: Message, stored: Json, key: IdempotencyKey | None
    ) -> Submitted | UUID:
        if _goes_with_others(new, key):
            row = await self._submits.ask(
                New(
                    task_id=new.task_id,
                    owner=new.owner,
                    context_id=new.context_id,
                    metadata=dumps(dict(new.metadata)),
                    message=dumps(stored),
                    policy=new.policy.value,
                    priority=new.priority,
                    delay=new.delay,
                    expires=new.expires,
                    deadline=new.deadline,
                    agent=agent_of(new.owner),
                    key=key.key if key else None,
                    fingerprint=key.fingerprint if key else None,
                    trace_context=new.trace_context or None,
                )
            )
            if row is not None:
                return Submitted(row["created_at"], row["first"] and sends.in_time(new))
        work = sends.submit(new, message, key)
        return await self._database.run(
            with_webhooks(work, new.owner, new.webhooks, self._vault), owner=new.owner
        )

    async def _submit_all(self, asked: Sequence[New], owner: str) -> Sequence[Row | None]:
        try:
            rows = await self._rows(SUBMIT_ALL, *columns(asked), owner=owner)
        except asyncpg.UniqueViolationError:
            # An id that is taken, by somebody whose rows are not seen or just now.
            if len(asked) > 1:
                raise  # whose it is shows when each goes alone
            return [None]
        found = {row["place"]: row for row in rows}
        return [found.get(place) for place in range(1, len(asked) + 1)]

    async def _submitted_before(self, owner: str, task_id: UUID) -> Accepted:
        task = await self._bare(owner, task_id)
        events = await self.events_since(owner, task_id, 0, limit=1)
        history = tuple(event.body for event in events if isinstance(event.body, Message))
        ring = ring_at(owner, task_id, 1) if task.state is TaskState.SUBMITTED else None
        return Accepted(replace(task, history=history), ring)

    async def continue_task(
        self,
        owner: str,
        task_id: UUID,
        message: Message,
        *,
        key: IdempotencyKey | None = None,
        webhooks: Sequence[WebhookConfig] = (),
        trace_context: str = "",
    ) -> Accepted:
        stored = complete(message, "", task_id)
        work = sends.append(owner, task_id, stored, message.context_id, key, trace_context)
        found = await self._database.run(with_webhooks(work, owner, webhooks, self._vault), owner=owner)
        if isinstance(found, UUID):
            return Accepted(await self._bare(owner, found), None, repeated=True)
        task = await self._bare(owner, task_id)
        ring = ring_at(owner, task_id, found.dispatch) if found.due else None
        return Accepted(replace(task, history=(replace(stored, context_id=task.context_id),)), ring)

    async def cancel_task(self, owner: str, task_id: UUID, message: Message | None = None) -> Accepted:
        if message is not None:
            message = complete(message, (await self._bare(owner, task_id)).context_id, task_id)
        _, payload = dump_body(StatusChange(TaskState.CANCELED, message))

        async def cancel(connection: Any, again: bool) -> Row | None:
            row: Row | None = await connection.fetchrow(
                CANCEL, task_id, owner, dumps(payload), message_json(message)
            )
            if row and again and row["before"] == TaskState.CANCELED:
                return {**row, "kept": True}  # by the try whose end was lost
            return row

        row = await self._database.run(cancel, owner=owner)
        if row is None:
            raise TaskNotFound(task_id)
        if not row["kept"]:
            raise TaskNotCancelable(f"the task is {row['before']} already")
        rings = rings_of(owner, task_id, row)
        return Accepted(await self._bare(owner, task_id), rings[0] if rings else None)

    async def _bare(self, owner: str, task_id: UUID) -> Task:
        row = await self._row(BARE, task_id, owner, owner=owner)
        if row is None:
            raise TaskNotFound(task_id)
        return task_of(row)


def _goes_with_others(new: NewTask, key: IdempotencyKey | None) -> bool:
    """What interrupts, is limited, has webhooks or refers to other tasks writes or locks more rows; who is refused after its key
    was taken must give it back."""
    if new.limits or new.webhooks or new.message.reference_task_ids or new.policy is Policy.INTERRUPT:
        return False
    return key is None or new.policy is not Policy.REJECT


def _alone_with_its_context(new: New) -> Any:
    """Others may share a context; one that rejects is refused for a neighbour as for anybody else."""
    return (new.owner, new.context_id) if new.policy == Policy.REJECT.value else None
