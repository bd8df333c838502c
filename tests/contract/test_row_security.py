"""The second wall: with row security in force, a front door's role sees no rows but those of the owner in its transaction.

Asked with raw statements that have no owner in their WHERE, on connections of the roles themselves.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import sqlalchemy as sa

from perdure.errors import ConfigError
from perdure.ids import new_task_id
from perdure.settings import StorageSettings
from perdure.storage import IdempotencyKey, NewTask, Storage, WebhookConfig, migrate
from perdure.storage.keys import NewKey
from perdure.storage.operators import Failure
from perdure.storage.postgres import PostgresStorage
from perdure.storage.postgres.database import Database
from perdure.storage.row_security import lowered
from perdure.storage.schema import OWNERLESS, metadata, policy
from perdure.tasks import TaskState
from tests.contract.test_webhooks import ends, taken
from tests.support.stories import ME, SOMEONE_ELSE, artifact, claim, id_of, says, started, submit
from tests.support.walls import FRONT, OWNER, WORKERS, Walled

TABLES = sorted(set(metadata.tables) - set(OWNERLESS))


@pytest.fixture
def database(module_walled_database: Walled) -> Walled:
    """These tests are about the walled storage alone."""
    return module_walled_database


@pytest.fixture
async def planted(storage: Storage) -> Storage:
    """A row of somebody else's in every table that belongs to owners."""
    new = NewTask(task_id=new_task_id(), owner=SOMEONE_ELSE, context_id="talk", message=says("secret"))
    await storage.submit_task(new, key=IdempotencyKey("key", "fingerprint"))
    await storage.save_webhook_config(
        SOMEONE_ELSE, WebhookConfig(config_id="c", task_id=new.task_id, url="https://x")
    )
    turn = await claim(storage)
    [delivery] = await taken(storage)
    await ends(storage, delivery)
    await storage.store_step(turn.claim, "step", 0, 1)
    await storage.update_task(turn.claim, 1, new_artifacts=[artifact("secret")])
    failure = Failure(task_id=id_of(turn), attempt=1, error_class="E", message="secret", fingerprint="f")
    await storage.record_failure(failure)
    await storage.store_feedback(SOMEONE_ELSE, id_of(turn), text="secret")
    await storage.append_messages(SOMEONE_ELSE, "talk", [says("secret")])
    await storage.add_key(
        NewKey(key_id=str(new_task_id()), owner=SOMEONE_ELSE, name="secret", scopes=("read",), digest=b"d")
    )
    return storage


@asynccontextmanager
async def connected(url: str, owner: str | None = None) -> AsyncIterator[Any]:
    """A connection as it is, or within a transaction of `owner`."""
    connection = await asyncpg.connect(url)
    try:
        if owner is None:
            yield connection
            return
        async with connection.transaction():
            await connection.execute("SELECT set_config('perdure.owner', $1, true)", owner)
            yield connection
    finally:
        await connection.close()


async def count(connection: Any, table: str) -> int:
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found


# ---------------------------------------------------------------------- what is seen


@pytest.mark.parametrize("table", TABLES)
async def test_a_row_of_somebody_else_is_invisible(planted: Storage, database: Walled, table: str) -> None:
    async with connected(database.url) as superuser:
        assert await count(superuser, table) > 0, "nothing is planted: extend `planted`"
    async with connected(database.front, SOMEONE_ELSE) as theirs:
        assert await count(theirs, table) > 0
    async with connected(database.front, ME) as mine:
        assert await count(mine, table) == 0


@pytest.mark.parametrize("table", TABLES)
async def test_nothing_is_seen_without_an_owner(planted: Storage, database: Walled, table: str) -> None:
    async with connected(database.front) as connection:
        assert await count(connection, table) == 0
        async with connection.transaction():
            await connection.execute("SELECT set_config('perdure.owner', $1, true)", SOMEONE_ELSE)
            assert await count(connection, table) > 0
        assert await count(connection, table) == 0, "the owner outlived its transaction"


@pytest.mark.parametrize("table", TABLES)
async def test_workers_see_everything(planted: Storage, database: Walled, table: str) -> None:
    async with connected(database.workers) as connection:
        assert await count(connection, table) > 0


@pytest.mark.parametrize("table", TABLES)
async def test_the_owner_of_the_tables_sees_nothing(planted: Storage, database: Walled, table: str) -> None:
    """FORCE: a front door that was given the wrong role by mistake has the wall as well."""
    async with connected(database.owner) as connection:
        assert await count(connection, table) == 0


@pytest.mark.parametrize("view", ["task_documents", "context_documents"])
async def test_the_views_show_nothing_to_a_front_door(planted: Storage, database: Walled, view: str) -> None:
    async with connected(database.owner) as connection:
        assert await count(connection, view) == 0
    async with connected(database.front, ME) as connection:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await count(connection, view)


# ---------------------------------------------------------------------- what is written


WRITES = {
    "a context": "INSERT INTO contexts (owner, context_id) VALUES ('{them}', 'new')",
    "a message": "INSERT INTO context_messages (owner, context_id, position, payload) VALUES ('{them}', 'talk', 99, '{{}}')",
    "a task": "INSERT INTO tasks (task_id, owner, context_id, position) VALUES ('{new}', '{them}', 'talk', 99)",
    "a key": "INSERT INTO idempotency_keys (owner, key, fingerprint, task_id) VALUES ('{them}', 'k', 'f', '{task}')",
    "an event": "INSERT INTO task_events (task_id, seq, first_seq, kind, attempt, payload) "
    "VALUES ('{task}', 99, 99, 'message', 0, '{{}}')",
    "a feedback": "INSERT INTO task_feedback (feedback_id, task_id, feedback) VALUES ('{new}', '{task}', 'x')",
    "a webhook": "INSERT INTO webhook_configs (task_id, config_id, url) VALUES ('{task}', 'mine', 'https://me')",
    "a failure": "INSERT INTO task_failures (task_id, attempt, fingerprint, error_class, message) "
    "VALUES ('{task}', 9, 'f', 'E', 'x')",
    "a step": "INSERT INTO task_steps (task_id, turn, name, occurrence, result, attempt) "
    "VALUES ('{task}', 0, 'n', 9, '1', 1)",
    "my task to them": "UPDATE tasks SET owner = '{them}' WHERE task_id = '{mine}'",
    "a key of an API": "INSERT INTO api_keys (key_id, owner, name, scopes, digest) VALUES ('k', '{them}', '', '{{}}', 'd')",
    "my context to them": "UPDATE contexts SET owner = '{them}'",
    "my event to them": "UPDATE task_events SET task_id = '{task}', seq = 99 WHERE task_id = '{mine}'",
}


@pytest.mark.parametrize("what", WRITES)
async def test_nothing_is_written_for_somebody_else(planted: Storage, database: Walled, what: str) -> None:
    mine = await started(planted, "mine", context="mine alone")
    async with connected(database.url) as superuser:
        task = await superuser.fetchval("SELECT task_id FROM tasks WHERE owner = $1", SOMEONE_ELSE)
    statement = WRITES[what].format(them=SOMEONE_ELSE, task=task, mine=id_of(mine), new=new_task_id())
    async with connected(database.front, ME) as connection:
        part = connection.transaction()
        await part.start()
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="row-level security"):
            await connection.execute(statement)
        await part.rollback()


@pytest.mark.parametrize("table", TABLES)
async def test_nothing_of_somebody_else_is_deleted(planted: Storage, database: Walled, table: str) -> None:
    async with connected(database.url) as superuser:
        before = await count(superuser, table)
        async with connected(database.front, ME) as connection:
            await connection.execute(f"DELETE FROM {table}")
        assert await count(superuser, table) == before


# ---------------------------------------------------------------------- what goes across owners


async def test_owners_still_take_turns(storage: Storage) -> None:
    """The rank of a task depends on what others have waiting, which its front door does not see."""
    for n in range(3):
        await submit(storage, owner=SOMEONE_ELSE, context=f"talk {n}")
    for _ in range(2):
        turn = await claim(storage)
        await storage.update_task(turn.claim, 1, state=TaskState.COMPLETED)
    for n in range(2):
        await submit(storage, context=f"talk {n}")
    turns = [await claim(storage) for _ in range(3)]
    assert [turn.task.owner for turn in turns] == [SOMEONE_ELSE, ME, ME]


async def test_a_process_learns_of_changes_to_all_tasks_that_it_waits_for(storage: Storage) -> None:
    mine, theirs = await started(storage), await started(storage, owner=SOMEONE_ELSE)
    notices = await storage.notices([id_of(mine), id_of(theirs)])
    assert {(notice.task_id, notice.state) for notice in notices} == {
        (id_of(mine), TaskState.WORKING),
        (id_of(theirs), TaskState.WORKING),
    }


@pytest.mark.parametrize(
    "function",
    [
        "perdure_notices('{}')",
        "perdure_least_rank(0::smallint)",
        "perdure_least_rank('a', 0::smallint)",
        "perdure_count_waiting(9)",
        "perdure_owner_of_key('k')",
    ],
)
async def test_functions_are_for_the_two_roles(database: Walled, function: str) -> None:
    async with connected(database.url) as superuser:
        await superuser.execute(
            "DROP ROLE IF EXISTS perdure_test_stranger; CREATE ROLE perdure_test_stranger"
        )
        try:
            await superuser.execute("SET ROLE perdure_test_stranger")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await superuser.fetch(f"SELECT * FROM {function}")
        finally:
            await superuser.execute("RESET ROLE; DROP ROLE perdure_test_stranger")


# ---------------------------------------------------------------------- every table, those of tomorrow too


async def test_every_table_of_owners_has_a_policy_in_force(walled_database: Walled) -> None:
    async with connected(walled_database.url) as connection:
        rows = await connection.fetch("""
            SELECT c.relname AS name, c.relrowsecurity AND c.relforcerowsecurity AS walled,
                   (SELECT count(*) FROM pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'perdure_owner') AS policies,
                   (SELECT count(*) FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attname IN ('owner', 'task_id')) AS owned
              FROM pg_class c WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace""")
    found = {row["name"]: row for row in rows if row["name"] in metadata.tables}
    assert set(found) == set(metadata.tables)
    for name, row in found.items():
        if name in OWNERLESS:
            assert row["policies"] == 0
            assert not row["walled"]
        else:
            assert (row["walled"], row["policies"]) == (True, 1), (
                f"{name} has no policy; its migration needs: {policy(metadata.tables[name])}"
            )


def test_a_table_with_an_owner_is_never_ownerless() -> None:
    for name in OWNERLESS:
        assert not {"owner", "task_id"} & set(metadata.tables[name].columns.keys()), name


async def test_a_migration_sees_all_rows_and_its_new_tables_are_walled(walled_database: Walled) -> None:
    """As the role that owns the tables, which sees no rows otherwise."""
    async with connected(walled_database.workers) as connection:
        await connection.execute("INSERT INTO contexts (owner, context_id) VALUES ('me', 'c')")

    def step(connection: sa.Connection) -> None:
        with lowered(connection):
            connection.execute(sa.text("DROP TABLE task_feedback"))
            connection.execute(sa.text("CREATE TABLE task_feedback (task_id uuid)"))
            connection.execute(sa.text("UPDATE contexts SET metadata = '{\"seen\": 1}'"))

    await asyncio.to_thread(
        migrate.on_connection, walled_database.owner, lambda config: step(config.attributes["connection"])
    )
    async with connected(walled_database.front, "me") as connection:
        assert await connection.fetchval("SELECT metadata ->> 'seen' FROM contexts") == "1"
        assert await count(connection, "task_feedback") == 0  # granted as well
    async with connected(walled_database.url) as connection:
        query = "SELECT relrowsecurity AND relforcerowsecurity FROM pg_class WHERE relname = $1"
        assert [await connection.fetchval(query, name) for name in ("contexts", "task_feedback")] == [
            True,
            True,
        ]


async def test_steps_down_and_up_again(walled_database: Walled) -> None:
    for url in (walled_database.owner, walled_database.url):
        await asyncio.to_thread(migrate.downgrade, url, "0006")
        await asyncio.to_thread(migrate.upgrade, url)
    async with connected(walled_database.front) as connection:
        query = "SELECT relrowsecurity FROM pg_class WHERE relname = 'tasks'"
        assert await connection.fetchval(query) is False


# ---------------------------------------------------------------------- the roles of a process


async def opens(url: str, *, on: bool, workers_url: str | None = None) -> None:
    settings = StorageSettings(run_migrations_on_startup=False, row_security=on, startup_timeout=0)
    storage = PostgresStorage(url, settings, workers_url=workers_url)
    try:
        await storage.open()
    finally:
        await storage.close()


async def test_roles_that_fit(database: Walled) -> None:
    await opens(database.front, on=True)
    await opens(database.front, on=True, workers_url=database.workers)
    await opens(database.workers, on=False)


@pytest.mark.parametrize(
    ("role", "on", "workers", "why"),
    [
        ("url", True, None, "bypasses it"),
        ("owner", True, None, f"{OWNER}.*owns the tables or is one of the workers"),
        ("workers", True, None, f"{WORKERS}.*owns the tables or is one of the workers"),
        ("front", False, None, f"{FRONT} would see no task: set STORAGE__ROW_SECURITY=true"),
        ("front", True, "front", f"{FRONT} would see no task: WORKER_DATABASE_URL"),
    ],
)
async def test_roles_that_do_not_fit(
    database: Walled, role: str, on: bool, workers: str | None, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        await opens(
            getattr(database, role), on=on, workers_url=getattr(database, workers) if workers else None
        )


async def test_a_wall_that_is_not_there_is_refused(database_url: str) -> None:
    with pytest.raises(ConfigError, match="run `perdure migrate row-security on`"):
        await opens(database_url, on=True)


@pytest.mark.parametrize(
    ("front", "workers", "why"),
    [
        ("nobody_of_this_name", WORKERS, "there is no role nobody_of_this_name"),
        (OWNER, WORKERS, f"{OWNER} has the rights of {OWNER}"),
        (WORKERS, WORKERS, f"{WORKERS} has the rights of {WORKERS}"),
    ],
)
async def test_roles_that_cannot_be_meant(
    walled_database: Walled, front: str, workers: str, why: str
) -> None:
    with pytest.raises(ConfigError, match=why):
        await asyncio.to_thread(migrate.row_security_on, walled_database.owner, front=front, workers=workers)


async def test_off_and_on_again(walled_database: Walled) -> None:
    async with connected(walled_database.workers) as connection:
        await connection.execute("INSERT INTO contexts (owner, context_id) VALUES ('me', 'c')")
    await asyncio.to_thread(migrate.row_security_off, walled_database.owner)
    async with connected(walled_database.front) as connection:
        assert await count(connection, "contexts") == 1
    await opens(walled_database.front, on=False)
    for _ in range(2):
        await asyncio.to_thread(migrate.row_security_on, walled_database.owner, front=FRONT, workers=WORKERS)
    async with connected(walled_database.front) as connection:
        assert await count(connection, "contexts") == 0


# ---------------------------------------------------------------------- connections


async def test_a_connection_goes_back_without_an_owner(database: Walled) -> None:
    """Whatever ends the transaction: the next one on the same connection sees nothing of it."""
    settings = StorageSettings(pool_size=1, row_security=True)
    pool = Database(database.front, settings, row_security=True)
    pool.open()

    async def who(connection: Any, again: bool) -> tuple[int, str | None]:
        row = await connection.fetchrow("SELECT pg_backend_pid(), current_setting('perdure.owner', true)")
        return row[0], row[1] or None

    async def fails(connection: Any, again: bool) -> None:
        raise LookupError

    async def never_ends(connection: Any, again: bool) -> None:
        begun.set()
        await connection.fetch("SELECT pg_sleep(60)")

    begun = asyncio.Event()
    awkward = "o'; RESET ALL; --\\ \u00fc\U0001f600"
    backend, owner = await pool.run(who, owner=awkward)
    assert owner == awkward
    assert await pool.run(who) == (backend, None)
    with pytest.raises(LookupError):
        await pool.run(fails, owner=ME)
    assert await pool.run(who) == (backend, None)
    task = asyncio.create_task(pool.run(never_ends, owner=ME))
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await pool.run(who))[1] is None
    await pool.close()
