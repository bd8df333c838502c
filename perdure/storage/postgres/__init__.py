"""PostgresStorage: one statement or one transaction a method. The contract stands on the port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import asyncpg
import structlog

from perdure.errors import StorageUnavailable
from perdure.owners import ONLY
from perdure.security.vault import Vault
from perdure.settings import StorageSettings
from perdure.storage import Claim, Held, Keeper, Swept, migrate
from perdure.storage.keeper import Renew, ThreadKeeper
from perdure.storage.operators import WorkerBeat
from perdure.storage.postgres import sweep_statements as sql
from perdure.storage.postgres.belongings import Belongings
from perdure.storage.postgres.callers import Callers
from perdure.storage.postgres.claims import Claims
from perdure.storage.postgres.contexts import Contexts
from perdure.storage.postgres.counts import Counts
from perdure.storage.postgres.database import Database
from perdure.storage.postgres.folding import Folding
from perdure.storage.postgres.keys import Keys
from perdure.storage.postgres.limits import Limits
from perdure.storage.postgres.moving import Moving
from perdure.storage.postgres.operators import Operators
from perdure.storage.postgres.records import dumps, message_json
from perdure.storage.postgres.retention import Retention
from perdure.storage.postgres.roles import require_roles
from perdure.storage.postgres.turns import Turns, renew
from perdure.storage.postgres.wall import NOBODY
from perdure.storage.postgres.webhooks import Webhooks
from perdure.storage.schema import VERSION_TABLE
from perdure.storage.writes import crashed, expired, worker_lost
from perdure.stored.payload import dump_body
from perdure.tasks import Notice, Ring, TaskState

log = structlog.get_logger(__name__)


class PostgresStorage(
    Callers,
    Claims,
    Turns,
    Contexts,
    Belongings,
    Counts,
    Folding,
    Keys,
    Limits,
    Moving,
    Operators,
    Retention,
    Webhooks,
):
    """A `Storage` in Postgres 14 or newer. `url` as in DATABASE_URL; `migrations_url` where migrations need another way in, and
    `workers_url` where turns and sweeps need another role than the statements of callers (with row security on). Without a
    `vault` no webhooks of callers are taken."""

    def __init__(
        self,
        url: str,
        settings: StorageSettings,
        *,
        migrations_url: str | None = None,
        vault: Vault | None = None,
        workers_url: str | None = None,
    ) -> None:
        self._url = url
        self._migrations_url = migrations_url or url
        self._settings = settings
        self._database = Database(url, settings, row_security=settings.row_security)
        self._of_workers = None if workers_url is None else Database(workers_url, settings)
        self._vault = vault
        super().__init__()

    # ------------------------------------------------------------------ life

    async def open(self) -> None:
        for database in self._databases():
            database.open()
        deadline = time.monotonic() + self._settings.startup_timeout
        while True:
            try:
                if self._settings.run_migrations_on_startup:
                    await asyncio.to_thread(
                        migrate.upgrade,
                        self._migrations_url,
                        lock_timeout=self._settings.migration_lock_timeout,
                    )
                await self.check()
                await require_roles(self._database, self._of_workers)
                return
            except StorageUnavailable as error:
                if time.monotonic() > deadline:
                    raise
                log.warning("storage.waiting", error=str(error))
            await asyncio.sleep(0.2)

    async def close(self) -> None:
        for database in self._databases():
            await database.close()

    def _databases(self) -> Sequence[Database]:
        return [self._database] if self._of_workers is None else [self._database, self._of_workers]

    async def check(self) -> datetime:
        async def look(connection: Any, again: bool) -> tuple[datetime, str | None, str | None]:
            try:
                row = await connection.fetchrow(
                    f"SELECT clock_timestamp(), (SELECT version_num FROM {VERSION_TABLE}), "
                    f"obj_description('{VERSION_TABLE}'::regclass, 'pg_class')"
                )
            except asyncpg.UndefinedTableError:
                return datetime.min.replace(tzinfo=UTC), None, None  # of no use: it raises
            return row[0], row[1], row[2]

        now, revision, comment = await self._database.run(look)
        migrate.require_current(revision, comment)
        return now

    # ------------------------------------------------------------------ sweeps

    async def rescue_tasks(
        self,
        *,
        grace: float,
        max_crashes: int,
        limit: int = 100,
        as_of: datetime | None = None,
        up_for: float = 0.0,
        agents: Collection[str] | None = None,
    ) -> Swept:
        _, again = dump_body(crashed(again=True))
        poison = crashed(again=False)
        _, failed = dump_body(poison)
        rows = await self._rows(
            sql.RESCUE,
            *(grace, max_crashes, limit),
            *(dumps(again), dumps(failed), message_json(poison.message)),
            *(as_of, up_for, None if agents is None else list(agents)),
            [*worker_lost(spoke=False), *worker_lost(spoke=True)],
        )
        return Swept(
            rings=tuple(Ring(row["task_id"], row["dispatch"], row["agent"]) for row in rows if row["rings"]),
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

    async def stranded(self, *, idle: float, limit: int = 100, agent: str = ONLY) -> Sequence[Ring]:
        statement, named = (sql.STRANDED_OF, [agent]) if agent else (sql.STRANDED, [])
        rows = await self._rows(statement, idle, limit, *named)
        return [Ring(row["task_id"], row["dispatch"], agent) for row in rows]

    async def redispatch(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        rows = await self._rows(
            sql.REDISPATCH, [ring.task_id for ring in rings], [ring.dispatch for ring in rings]
        )
        agents = {ring.task_id: ring.agent for ring in rings}
        return [Ring(row["task_id"], row["dispatch"], agents[row["task_id"]]) for row in rows]

    async def drop_finished(self, keep: int) -> int:
        return 0

    # ------------------------------------------------------------------ workers' signs of life

    async def beat(self, beat: WorkerBeat) -> bool:
        row = await self._row(
            sql.BEAT,
            beat.worker_id,
            beat.version,
            beat.slots,
            beat.running,
            beat.draining,
            beat.name,
            beat.loop_lag,
            dumps(dict(beat.counters)),
            list(beat.agents),
        )
        return bool(row and row["asked_to_drain"])

    async def forget_worker(self, worker_id: str) -> None:
        await self._rows(sql.FORGET_WORKER, worker_id)

    async def workers_alive(self, within: float, *, agent: str | None = None) -> int:
        row = await self._row(sql.WORKERS_ALIVE, within, agent, owner=NOBODY)
        return row["count"] if row else 0

    def keeper(self, *, lease: float) -> Keeper:
        @asynccontextmanager
        async def connect() -> AsyncIterator[Renew]:
            connection = await self._workers_database.connect()

            async def renewed(claims: Sequence[Claim], seconds: float) -> Mapping[Claim, Held]:
                return await renew(connection, claims, seconds)

            try:
                yield renewed
            except Exception:
                # No goodbye to somebody who does not answer: it would take longer than the lease.
                connection.terminate()
                raise
            finally:
                await connection.close(timeout=1)

        return ThreadKeeper(connect, lease=lease)
