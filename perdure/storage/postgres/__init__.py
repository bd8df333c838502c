"""PostgresStorage: one statement or one transaction a method. The contract stands on the port, the SQL in `statements`."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import structlog

from perdure.errors import (
    LeaseLost,
    StorageUnavailable,
    TaskNotCancelable,
    TaskNotFound,
)
from perdure.payload import dump_body
from perdure.settings import StorageSettings
from perdure.storage import (
    TOTAL_CAP,
    Accepted,
    Claim,
    ClaimedTurn,
    Cursor,
    Held,
    IdempotencyKey,
    Keeper,
    NewTask,
    Swept,
    TaskPage,
    TaskQuery,
    WebhookConfig,
    WorkerBeat,
    Written,
    migrate,
)
from perdure.storage.keeper import Renew, ThreadKeeper
from perdure.storage.postgres import sends
from perdure.storage.postgres import statements as sql
from perdure.storage.postgres.belongings import Belongings
from perdure.storage.postgres.contexts import Contexts
from perdure.storage.postgres.counts import Counts
from perdure.storage.postgres.database import Database
from perdure.storage.postgres.keys import Keys
from perdure.storage.postgres.records import (
    Row,
    changed_metadata,
    claim_of,
    conversation_of,
    dumps,
    event_of,
    message_json,
    task_of,
)
from perdure.storage.postgres.webhooks import Webhooks, with_webhooks
from perdure.storage.schema import VERSION_TABLE
from perdure.storage.writes import YIELDS_TO_UNREAD, bodies, complete, crashed, ends_turn, expired
from perdure.tasks import (
    Artifact,
    ArtifactChunk,
    Event,
    Message,
    Notice,
    Ring,
    StatusChange,
    Task,
    TaskState,
)
from perdure.vault import Vault

log = structlog.get_logger(__name__)

CLAIM_TRIES = 20
"""How often a claim that met others at a limited key is tried again."""
_AFTER_OTHERS = 0.005
"""Seconds that it waits for them at most, each time."""


class PostgresStorage(Contexts, Belongings, Counts, Keys, Webhooks):
    """A `Storage` in Postgres 14 or newer. `url` as in DATABASE_URL; `migrations_url` where migrations need another way in.
    Without a `vault` no webhooks of callers are taken."""

    def __init__(
        self,
        url: str,
        settings: StorageSettings,
        *,
        migrations_url: str | None = None,
        vault: Vault | None = None,
    ) -> None:
        self._url = url
        self._migrations_url = migrations_url or url
        self._settings = settings
        self._database = Database(url, settings)
        self._vault = vault

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        self._database.open()
        deadline = time.monotonic() + self._settings.startup_timeout
        while True:
            try:
                if self._settings.run_migrations_on_startup:
                    await asyncio.to_thread(migrate.upgrade, self._migrations_url)
                await self.check()
                return
            except StorageUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("storage.waiting", error=str(error))
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        await self._database.close()

    async def check(self) -> datetime:
        async def look(connection: Any, again: bool) -> tuple[str | None, datetime]:
            try:
                row = await connection.fetchrow(
                    f"SELECT clock_timestamp(), (SELECT version_num FROM {VERSION_TABLE})"
                )
            except asyncpg.UndefinedTableError:
                return None, datetime.min.replace(tzinfo=UTC)  # of no use: it raises
            return row[1], row[0]

        version, now = await self._database.run(look)
        migrate.require_current(version)
        return now

    # ------------------------------------------------------------------ callers

    async def submit_task(self, new: NewTask, *, key: IdempotencyKey | None = None) -> Accepted:
        message = complete(new.message, new.context_id, new.task_id)
        work = sends.submit(new, message, key)
        found = await self._database.run(with_webhooks(work, new.owner, new.webhooks, self._vault))
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
            history=(message,),
            artifacts=(),
            created_at=found.created_at,
            updated_at=found.created_at,
            last_seq=1,
        )
        return Accepted(task, Ring(new.task_id, 1) if found.due else None, canceled=found.canceled)

    async def _submitted_before(self, owner: str, task_id: UUID) -> Accepted:
        task = await self._bare(owner, task_id)
        events = await self.events_since(owner, task_id, 0, limit=1)
        history = tuple(event.body for event in events if isinstance(event.body, Message))
        ring = Ring(task_id, 1) if task.state is TaskState.SUBMITTED else None
        return Accepted(replace(task, history=history), ring)

    async def continue_task(
        self,
        owner: str,
        task_id: UUID,
        message: Message,
        *,
        key: IdempotencyKey | None = None,
        webhooks: Sequence[WebhookConfig] = (),
    ) -> Accepted:
        stored = complete(message, "", task_id)
        work = sends.append(owner, task_id, stored, message.context_id, key)
        found = await self._database.run(with_webhooks(work, owner, webhooks, self._vault))
        if isinstance(found, UUID):
            return Accepted(await self._bare(owner, found), None, repeated=True)
        task = await self._bare(owner, task_id)
        ring = Ring(task_id, found.dispatch) if found.due else None
        return Accepted(replace(task, history=(replace(stored, context_id=task.context_id),)), ring)

    async def cancel_task(self, owner: str, task_id: UUID, message: Message | None = None) -> Accepted:
        if message is not None:
            message = complete(message, (await self._bare(owner, task_id)).context_id, task_id)
        _, payload = dump_body(StatusChange(TaskState.CANCELED, message))

        async def cancel(connection: Any, again: bool) -> Row | None:
            row: Row | None = await connection.fetchrow(
                sql.CANCEL, task_id, owner, dumps(payload), message_json(message)
            )
            if row and again and row["before"] == TaskState.CANCELED:
                return {**row, "kept": True}  # by the try whose end was lost
            return row

        row = await self._database.run(cancel)
        if row is None:
            raise TaskNotFound(task_id)
        if not row["kept"]:
            raise TaskNotCancelable(f"the task is {row['before']} already")
        rings = _rings(task_id, row)
        return Accepted(await self._bare(owner, task_id), rings[0] if rings else None)

    async def _bare(self, owner: str, task_id: UUID) -> Task:
        row = await self._row(sql.BARE, task_id, owner)
        if row is None:
            raise TaskNotFound(task_id)
        return task_of(row)

    async def load_task(self, owner: str, task_id: UUID, *, history_length: int | None = None) -> Task:
        row = await self._row(sql.LOAD, task_id, owner, history_length)
        if row is None:
            raise TaskNotFound(task_id)
        return task_of(row)

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        where, given = _filters(query)
        after = ""
        position: tuple[Any, ...] = ()
        if query.after is not None:
            first = len(given) + 5
            after = f" AND (t.status_timestamp, t.task_id) < (${first}::timestamptz, ${first + 1}::uuid)"
            position = (query.after.time, UUID(query.after.key))
        statement = sql.LIST.replace("{where}", _numbered(where, 5) + after)
        rows = await self._rows(
            statement,
            query.owner,
            query.page_size + 1,
            query.history_length,
            query.include_artifacts,
            *given,
            *position,
        )
        total = await self._row(
            sql.COUNT.replace("{where}", _numbered(where, 3)), query.owner, TOTAL_CAP, *given
        )
        tasks = [task_of(row) for row in rows[: query.page_size]]
        more = len(rows) > query.page_size
        cursor = Cursor(tasks[-1].status_timestamp, str(tasks[-1].task_id)) if more else None
        return TaskPage(tasks, cursor, total["count"] if total else 0)

    async def events_since(self, owner: str, task_id: UUID, after: int, limit: int = 1000) -> Sequence[Event]:
        rows = await self._rows(sql.EVENTS_SINCE, task_id, owner, after, limit)
        return [event_of(row) for row in rows]

    async def notices(self, task_ids: Collection[UUID]) -> Sequence[Notice]:
        rows = await self._rows(sql.NOTICES, list(task_ids))
        return [
            Notice(row["task_id"], row["last_seq"] or 0, TaskState(row["state"]) if row["state"] else None)
            for row in rows
        ]

    # ------------------------------------------------------------------ workers

    async def claim_task(
        self, holder: str, token: UUID, *, lease: float, history: int = 200
    ) -> ClaimedTurn | None:
        async def claim(connection: Any, again: bool) -> ClaimedTurn | None:
            row = await connection.fetchrow(sql.CLAIM, holder, token, lease)
            for _ in range(CLAIM_TRIES):
                if row is None or row["task_id"] is not None:
                    break
                await asyncio.sleep(random.uniform(0, _AFTER_OTHERS))  # noqa: S311 -- no secret
                row = await connection.fetchrow(sql.CLAIM, holder, token, lease)
            if row is None or row["task_id"] is None:
                return None
            said_rows = await connection.fetch(
                sql.CONVERSATION,
                row["owner"],
                row["context_id"],
                row["position"],
                row["task_id"],
                row["last_seq"],
                history,
            )
            task_row = await connection.fetchrow(sql.LOAD, row["task_id"], row["owner"], history)
            if task_row is None:
                return None  # its context was cleared in between
            return ClaimedTurn(
                claim=claim_of(row, token),
                task=task_of(task_row),
                conversation=conversation_of(said_rows, history),
                steps=await _steps(connection, row),
                deadline=task_row["deadline"],
            )

        return await self._database.run(claim)

    async def renew_claims(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        async def renew(connection: Any, again: bool) -> Mapping[Claim, Held]:
            return await _renew(connection, claims, lease)

        return await self._database.run(renew)

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
        fence = (
            claim.task_id,
            claim.attempt,
            claim.token,
            write_no,
            given,
            removed,
            [kind for kind, _ in dumped],
            [dumps(payload) for _, payload in dumped],
        )
        if state is None or not ends:
            row = await self._row(sql.WRITE, *fence, message_json(status_message))
            return (
                Written(TaskState.WORKING, row["last_seq"]) if row else await self._refused(claim, write_no)
            )
        _, status = dump_body(StatusChange(state, status_message, status_metadata or {}))
        row = await self._row(
            sql.SETTLE,
            *fence,
            state,
            dumps(status),
            message_json(status_message),
            state in YIELDS_TO_UNREAD,
            claim.owner,
            claim.context_id,
        )
        if row is None:
            return await self._refused(claim, write_no)
        own = (Ring(claim.task_id, row["dispatch"]),) if row["again"] else ()
        return Written(TaskState(row["state"]), row["last_seq"], (*own, *_rings(claim.task_id, row)))

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
        row = await self._row(
            sql.RELEASE,
            claim.task_id,
            claim.attempt,
            claim.token,
            claim.owner,
            claim.context_id,
            dumps(payload),
            failed,
            delay,
            dumps(dict(metadata)) if metadata else None,
        )
        if row is None:
            return ()
        own = (Ring(claim.task_id, row["dispatch"]),) if row["again"] and delay <= 0 else ()
        return (*own, *_rings(claim.task_id, row))

    async def _refused(self, claim: Claim, write_no: int) -> Written:
        """A write changed nothing: it was kept before (success), or the claim is not held any more."""
        row = await self._row(sql.DIAGNOSE, claim.task_id)
        if row is not None and row["attempt"] == claim.attempt:
            if row["write_no"] == write_no:
                return Written(TaskState(row["state"]), row["last_seq"])
            raise LeaseLost(canceled=row["state"] == TaskState.CANCELED)
        raise LeaseLost(canceled=False)

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: Any) -> None:
        row = await self._row(
            sql.STORE_STEP, claim.task_id, claim.attempt, claim.token, name, occurrence, dumps(result)
        )
        if row is None:
            found = await self._row(sql.DIAGNOSE, claim.task_id)
            raise LeaseLost(canceled=found is not None and found["state"] == TaskState.CANCELED)

    # ------------------------------------------------------------------ sweeps

    async def rescue_tasks(
        self,
        *,
        grace: float,
        max_crashes: int,
        limit: int = 100,
        as_of: datetime | None = None,
        up_for: float = 0.0,
    ) -> Swept:
        _, again = dump_body(crashed(again=True))
        poison = crashed(again=False)
        _, failed = dump_body(poison)
        rows = await self._rows(
            sql.RESCUE,
            *(grace, max_crashes, limit),
            *(dumps(again), dumps(failed), message_json(poison.message)),
            *(as_of, up_for),
        )
        return Swept(
            rings=tuple(Ring(row["task_id"], row["dispatch"]) for row in rows if row["rings"]),
            notices=tuple(
                Notice(row["task_id"], row["last_seq"], TaskState(row["state"]))
                for row in rows
                if row["state"]
            ),
        )

    async def expire_tasks(self, *, limit: int = 100) -> Sequence[Notice]:
        late = expired()
        _, payload = dump_body(late)
        rows = await self._rows(sql.EXPIRE, limit, dumps(payload), message_json(late.message))
        return [Notice(row["task_id"], row["last_seq"], TaskState.FAILED) for row in rows]

    async def forget_keys(self, *, older_than: float, limit: int = 1000) -> int:
        rows = await self._rows(sql.FORGET_KEYS, older_than, limit)
        return len(rows)

    async def stranded(self, *, idle: float, limit: int = 100) -> Sequence[Ring]:
        rows = await self._rows(sql.STRANDED, idle, limit)
        return [Ring(row["task_id"], row["dispatch"]) for row in rows]

    async def redispatch(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        rows = await self._rows(
            sql.REDISPATCH, [ring.task_id for ring in rings], [ring.dispatch for ring in rings]
        )
        return [Ring(row["task_id"], row["dispatch"]) for row in rows]

    async def drop_finished(self, keep: int) -> int:
        return 0

    # ------------------------------------------------------------------ workers' signs of life

    async def beat(self, beat: WorkerBeat) -> None:
        await self._rows(sql.BEAT, beat.worker_id, beat.version, beat.slots, beat.running, beat.draining)

    async def forget_worker(self, worker_id: str) -> None:
        await self._rows(sql.FORGET_WORKER, worker_id)

    async def workers_alive(self, within: float) -> int:
        row = await self._row(sql.WORKERS_ALIVE, within)
        return row["count"] if row else 0

    def keeper(self, *, lease: float) -> Keeper:
        @asynccontextmanager
        async def connect() -> AsyncIterator[Renew]:
            connection = await self._database.connect()

            async def renew(claims: Sequence[Claim], seconds: float) -> Mapping[Claim, Held]:
                return await _renew(connection, claims, seconds)

            try:
                yield renew
            except (
                Exception
            ):  # no goodbye to somebody who does not answer: it would take longer than the lease
                connection.terminate()
                raise
            finally:
                await connection.close(timeout=1)

        return ThreadKeeper(connect, lease=lease)


async def _renew(connection: Any, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
    rows = await connection.fetch(
        sql.RENEW,
        [claim.task_id for claim in claims],
        [claim.attempt for claim in claims],
        [claim.token for claim in claims],
        lease,
    )
    return {claims[row["place"] - 1]: Held(row["found"]) for row in rows if row["found"] != "locked"}


async def _steps(connection: Any, claimed: Row) -> Mapping[tuple[str, int], Any]:
    if claimed["attempt"] == 1:
        return {}  # nothing was run before
    rows = await connection.fetch(sql.STEPS, claimed["task_id"], claimed["turns"])
    return {(row["name"], row["occurrence"]): orjson.loads(row["result"]) for row in rows}


def _rings(task_id: UUID, row: Row) -> tuple[Ring, ...]:
    """What became claimable: the next in line; or, where one came in unseen, the own id as a hint; and what waited for a
    limit."""
    rings = []
    if row["next_id"] is not None:
        rings.append(Ring(row["next_id"], row["next_dispatch"]))
    elif row["waiting"] and not row["seen"] and not row.get("again"):
        rings.append(Ring(task_id, row["dispatch"] + 1))
    if row.get("unlimited_id") is not None:
        rings.append(Ring(row["unlimited_id"], row["unlimited_dispatch"]))
    return tuple(dict.fromkeys(rings))


def _filters(query: TaskQuery) -> tuple[list[str], tuple[Any, ...]]:
    """The conditions that were asked for, with {n} for their parameters, and the parameters."""
    asked: list[tuple[str, Any]] = [
        ("t.context_id = {n}::text", query.context_id),
        ("t.state = {n}::text", query.state),
        ("t.status_timestamp >= {n}::timestamptz", query.since),
    ]
    given = [(condition, value) for condition, value in asked if value is not None]
    return [condition for condition, _ in given], tuple(value for _, value in given)


def _numbered(conditions: Sequence[str], first: int) -> str:
    return "".join(f" AND {text.replace('{n}', f'${first + n}')}" for n, text in enumerate(conditions))
