"""What Alembic runs: on the connection it is handed (`perdure migrate`, a start, the tests), or on one from the settings."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.config import Config
from alembic.util import CommandError

from perdure.errors import PerdureError
from perdure.storage.migrate import on_connection, revision_of
from perdure.storage.row_security import lowered
from perdure.storage.schema import VERSION_TABLE, metadata


def ours(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Whether autogenerate looks at it: other tables of the same database are nobody's business."""
    return not (kind == "table" and reflected and name not in metadata.tables)


def numbered(_: Any, __: Any, directives: list[Any]) -> None:
    """A new revision gets the next number: 0003 after 0002."""
    for script in directives:
        last = context.script.get_current_head()
        script.rev_id = f"{int(last or 0) + 1:04d}"


def migrate(connection: sa.Connection) -> None:
    """Run the migrations that were asked for, in one transaction."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_object=ours,
        compare_type=True,
        compare_server_default=True,
        process_revision_directives=numbered,
    )
    with context.begin_transaction(), lowered(connection) if _has_steps(connection) else nullcontext():
        context.run_migrations()


def _has_steps(connection: sa.Connection) -> bool:
    """Whether something will change: the walls are not touched by each start of a process."""
    try:
        wanted = context.get_revision_argument()
    except (KeyError, CommandError):  # not asked to go anywhere; or by steps
        return "destination_rev" in context.get_context().opts
    return bool(wanted != revision_of(connection))


def migrate_from_settings() -> None:
    """For the `alembic` command: open the database of the settings, take the lock, run."""
    from perdure.settings import load_settings

    def work(config: Config) -> None:
        migrate(config.attributes["connection"])

    try:
        settings = load_settings()
        url = settings.migrations_database_url or settings.database_url
        if url is None:
            raise PerdureError(
                "set DATABASE_URL (and STORAGE_TYPE=postgres) to say which database to migrate"
            )
        work_on = url.get_secret_value()
        on_connection(work_on, work)
    except PerdureError as error:
        print(f"perdure: {error}", file=sys.stderr)
        raise SystemExit(2) from None


handed = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(dialect_name="postgresql", target_metadata=metadata, version_table=VERSION_TABLE)
    with context.begin_transaction():
        context.run_migrations()
elif handed is not None:
    migrate(handed)
else:
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    migrate_from_settings()
