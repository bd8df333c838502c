"""One migration after the other: each in a transaction of its own, which waits for no lock for long.

Whoever comes after a statement that waits for a table waits behind it, readers too. So a migration gives up soon, lets the
queue through, and tries again; what it had changed by then is rolled back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
import structlog
from alembic.script import ScriptDirectory

from perdure.errors import StorageUnavailable
from perdure.storage.row_security import lowered
from perdure.storage.schema import VERSION_TABLE, metadata

log = structlog.get_logger(__name__)

TRIES = 5
_BUSY = {"55P03", "40P01"}
"""SQLSTATE of a lock that was not to be had in time, and of a deadlock."""
_OLDEST = "oldest code: "
_HOLDER = sa.text("""
    SELECT l.pid, coalesce(nullif(a.application_name, ''), a.backend_type, 'of another role') AS who,
           a.state, extract(epoch FROM clock_timestamp() - a.xact_start)::int AS seconds, c.relname AS relation
      FROM pg_locks l
      JOIN pg_class c ON c.oid = l.relation AND c.relname = ANY(:tables)
      LEFT JOIN pg_stat_activity a ON a.pid = l.pid
     WHERE l.granted AND l.pid <> pg_backend_pid()
       AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
     ORDER BY a.xact_start, l.pid LIMIT 1""")

Steps = Callable[[Any, Any], Iterable[Any]]
"""How Alembic asks what is to be done: the `fn` of its context."""


def one_by_one(asked: Steps, connection: sa.Connection, lock_timeout: float) -> Steps:
    """What was `asked`, each step with a lock timeout of its own (seconds) and, where there is row security, behind a lowered
    wall. Asked again after a try that failed, it goes on with the step that failed, also after "two steps up"."""
    left: list[Any] | None = None

    def steps(heads: Any, context: Any) -> Iterator[Any]:
        nonlocal left
        if left is None:
            guard = _Guard(connection, lock_timeout, context.script)
            left = [guard.around(step) for step in asked(heads, context)]
        while left:
            yield left[0]
            left.pop(0)  # Alembic asks for the next one when this one is committed

    return steps


@dataclass(frozen=True)
class _Guard:
    """What goes with every step, in its transaction."""

    connection: sa.Connection
    lock_timeout: float
    script: ScriptDirectory

    def around(self, step: Any) -> Any:
        """The step, guarded."""
        run = step.migration_fn

        def guarded(**arguments: Any) -> None:
            wait_briefly(self.connection, self.lock_timeout)
            with lowered(self.connection):
                run(**arguments)
            self._say_which_code_works(step.to_revisions)

        step.migration_fn = guarded
        return step

    def _say_which_code_works(self, revisions: Sequence[str]) -> None:
        """On the version table, where code that is older than this schema looks."""
        oldest = next((oldest_code(self.script, revision) for revision in revisions), None)
        said = f"'{_OLDEST}{oldest}'" if oldest else "NULL"
        self.connection.exec_driver_sql(f"COMMENT ON TABLE {VERSION_TABLE} IS {said}")


def oldest_code(script: ScriptDirectory, revision: str) -> str | None:
    """What code has to know to work on the schema of `revision`: the newest `oldest_code` that a migration has named up to there.
    None: all code that there is works."""
    named = (getattr(each.module, "oldest_code", None) for each in script.iterate_revisions(revision, "base"))
    return next((str(name) for name in named if name), None)


def read_oldest_code(comment: str | None) -> str | None:
    """What stands on the version table, as a revision."""
    return comment.removeprefix(_OLDEST) if comment and comment.startswith(_OLDEST) else None


def wait_briefly(connection: sa.Connection, lock_timeout: float) -> None:
    """For the rest of this transaction. What a migration does outside of it (CONCURRENTLY) waits as long as it has to."""
    connection.execute(sa.text(f"SET LOCAL lock_timeout = {max(1, round(lock_timeout * 1000))}"))


def patiently(
    connection: sa.Connection,
    work: Callable[[], None],
    *,
    lock_timeout: float,
    revision: Callable[[], str | None],
) -> None:
    """Run `work`, again after a lock that was not to be had, `TRIES` times. `StorageUnavailable`, with who is in the way."""
    for left in reversed(range(TRIES)):
        try:
            work()
            return
        except sa.exc.DBAPIError as error:
            if getattr(error.orig, "sqlstate", None) not in _BUSY:
                raise
            connection.rollback()
            text = _in_the_way(connection)
            if not left:
                raise StorageUnavailable(_gave_up(text, lock_timeout, revision())) from error
        connection.rollback()
        log.warning("migration.waits", reason=text, tries_left=left)
        time.sleep(lock_timeout)  # as long as it held up the others, they go first


def _in_the_way(connection: sa.Connection) -> str:
    """Who uses our tables longest; nobody is named who has gone meanwhile."""
    holder = connection.execute(_HOLDER, {"tables": [*metadata.tables, VERSION_TABLE]}).one_or_none()
    if holder is None:
        return "a table is busy"
    state = f", {holder.state or 'running'} for {holder.seconds} s" if holder.seconds is not None else ""
    return f"the table {holder.relation} is busy: process {holder.pid} ({holder.who}{state}) uses it"


def _gave_up(text: str, lock_timeout: float, revision: str | None) -> str:
    at = f"at revision {revision}" if revision else "empty"
    return (
        f"{text}. Waited {TRIES} times {lock_timeout:g} s for a lock; nothing was changed, the schema is {at}. "
        "Run it again when nothing long is running, or end what is in the way: SELECT pg_terminate_backend(<process>)"
    )
