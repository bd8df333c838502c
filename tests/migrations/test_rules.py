"""The rules of docs/architecture.md for migrations, as far as their SQL shows whether they are kept."""

from __future__ import annotations

import asyncio
import io
import re
import shutil
import sys
from pathlib import Path

import asyncpg
import pytest
from alembic import command
from alembic.script import Script, ScriptDirectory
from tenacity import AsyncRetrying, retry_if_result, stop_after_delay, wait_fixed

from perdure.storage import migrate
from perdure.storage.schema import VERSION_TABLE
from tests.support.processes import ROOT, finished, surroundings

BEFORE_THE_RULES = "0011"
"""No release has it or what is before it."""
SCRIPTS = ScriptDirectory.from_config(migrate.configuration())
ALL = list(reversed(list(SCRIPTS.walk_revisions())))
FRAME = re.compile(rf"BEGIN|COMMIT|(UPDATE|INSERT INTO) {VERSION_TABLE}\b")
CONTRACTS = re.compile(
    r"\bRENAME\b|\bDROP (TABLE|COLUMN|TYPE|VIEW|FUNCTION)|ALTER COLUMN \w+ (TYPE|SET NOT NULL|DROP DEFAULT)",
    re.IGNORECASE,
)


def statements(script: Script) -> list[str]:
    """What `alembic upgrade --sql` writes for this step alone."""
    output = io.StringIO()
    config = migrate.configuration()
    config.output_buffer = output
    command.upgrade(config, f"{script.down_revision or 'base'}:{script.revision}", sql=True)
    text = re.sub(r"--[^\n]*", "", output.getvalue())
    found = [" ".join(each.split()) for each in text.split(";\n")]
    return [each for each in found if each and not FRAME.match(each)]


def broken(sql: list[str], *, contract: str = "") -> list[str]:
    """The rules that these statements break; `contract` is the migration's own word about what it takes away."""
    new = {name for each in sql for name in re.findall(r"CREATE TABLE (\w+)", each)}
    kept = [each for each in sql if not any(re.search(rf"\b(ON|TABLE) {name}\b", each) for name in new)]
    told = []
    for each in kept:
        if re.search(r"ADD COLUMN .*NOT NULL", each) and "DEFAULT" not in each:
            told.append(f"a new column that must be given: {each}")
        if re.match(r"CREATE (UNIQUE )?INDEX (?!CONCURRENTLY)", each):
            told.append(f"an index that locks out writers: {each}")
        if re.search(r"ADD CONSTRAINT .*(CHECK|FOREIGN KEY)", each) and "NOT VALID" not in each:
            told.append(f"a constraint that reads the whole table under a lock: {each}")
        if CONTRACTS.search(each) and not contract:
            told.append(f"takes away what older code may use, without a word in `contract`: {each}")
    if {"INDEX CONCURRENTLY" in each for each in sql} == {True, False}:
        told.append("an index is built concurrently beside other changes")
    return told


def test_new_migrations_keep_the_rules() -> None:
    names = [script.revision for script in ALL]
    for script in ALL[names.index(BEFORE_THE_RULES) + 1 :]:
        assert broken(statements(script), contract=getattr(script.module, "contract", "")) == [], script


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE tasks ADD COLUMN colour TEXT NOT NULL", "must be given"),
        ("CREATE INDEX ix_tasks_colour ON tasks (colour)", "locks out writers"),
        ("CREATE UNIQUE INDEX ix_tasks_colour ON tasks (colour)", "locks out writers"),
        ("ALTER TABLE tasks ADD CONSTRAINT ck_tasks_colour CHECK (colour <> '')", "reads the whole table"),
        ("ALTER TABLE tasks DROP COLUMN colour", "takes away"),
        ("ALTER TABLE tasks RENAME colour TO color", "takes away"),
        ("DROP TABLE colours", "takes away"),
        ("ALTER TABLE tasks ALTER COLUMN colour TYPE INTEGER", "takes away"),
    ],
)
def test_what_breaks_a_rule_is_seen(sql: str, rule: str) -> None:
    [told] = broken([sql])
    assert rule in told


def test_what_keeps_the_rules_passes() -> None:
    assert not broken(
        [
            "CREATE TABLE colours (name TEXT NOT NULL)",
            "CREATE INDEX ix_colours_name ON colours (name)",
            "ALTER TABLE colours ADD CONSTRAINT ck_colours_name CHECK (name <> '')",
            "ALTER TABLE tasks ADD COLUMN colour TEXT DEFAULT '' NOT NULL",
            "ALTER TABLE tasks ADD CONSTRAINT ck_tasks_colour CHECK (colour <> '') NOT VALID",
        ]
    )
    assert not broken(["ALTER TABLE tasks DROP COLUMN colour"], contract="no code since 1.2 reads it")


def test_the_older_ones_would_not_all_pass() -> None:
    """The rules are read from real SQL, and not from nothing."""
    assert [told for script in ALL for told in broken(statements(script))]


INDEX = """
from alembic import op

revision = "9999"
down_revision = "{head}"


def upgrade():
    with op.get_context().autocommit_block():
        op.execute("DROP INDEX CONCURRENTLY IF EXISTS ix_tasks_colour")
        op.create_index("ix_tasks_colour", "tasks", ["owner"], postgresql_concurrently=True)


def downgrade():
    op.drop_index("ix_tasks_colour", "tasks")
"""


async def test_an_index_is_built_beside_writers(database_url: str, tmp_path: Path) -> None:
    """As the rules say it is done, with a writer who does not end his transaction: it waits for him, and nobody for it."""
    shutil.copytree(ROOT / "alembic", tmp_path / "alembic")
    shutil.copy(ROOT / "alembic.ini", tmp_path)
    (tmp_path / "alembic" / "versions" / "20991231_9999_colour.py").write_text(
        INDEX.format(head=migrate.head())
    )
    writer, other = await asyncpg.connect(database_url), await asyncpg.connect(database_url)
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("DELETE FROM tasks")
    env = surroundings(
        STORAGE_TYPE="postgres", DATABASE_URL=database_url, STORAGE__MIGRATION_LOCK_TIMEOUT="0.1"
    )
    command = [sys.executable, "-m", "alembic", "upgrade", "head"]
    going_on = asyncio.create_task(asyncio.to_thread(finished, command, cwd=tmp_path, env=env))
    building = "SELECT count(*) FROM pg_index WHERE indexrelid = to_regclass('ix_tasks_colour')"
    await AsyncRetrying(
        retry=retry_if_result(lambda n: not n), wait=wait_fixed(0.01), stop=stop_after_delay(40)
    )(other.fetchval, building)
    await other.execute("SET lock_timeout = '20s'")
    await other.execute("DELETE FROM tasks")
    assert not going_on.done()
    await transaction.commit()
    end = await going_on
    assert end.returncode == 0, end.stderr
    assert await other.fetchval(
        "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_tasks_colour'::regclass"
    )
    assert await other.fetchval(f"SELECT version_num FROM {VERSION_TABLE}") == "9999"
    await writer.close()
    await other.close()
