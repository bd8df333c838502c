"""What Alembic runs: on the connection it is handed (`perdure migrate`, a start, the tests), or on one from the settings."""

from __future__ import annotations

import sys
from logging.config import fileConfig
from typing import Any

import sqlalchemy as sa
from alembic import context
from alembic.config import Config

from perdure.errors import PerdureError
from perdure.storage.migrate import on_connection, revision_of
from perdure.storage.schema import VERSION_TABLE, metadata
from perdure.storage.stepping import one_by_one, patiently


def ours(thing: Any, name: str | None, kind: str, reflected: bool, compare_to: Any) -> bool:
    """Whether autogenerate looks at it: other tables of the same database are nobody's business."""
    return not (kind == "table" and reflected and name not in metadata.tables)


def numbered(_: Any, __: Any, directives: list[Any]) -> None:
    """A new revision gets the next number: 0003 after 0002."""
    for script in directives:
        last = context.script.get_current_head()
        script.rev_id = f"{int(last or 0) + 1:04d}"


def configure(connection: sa.Connection, **more: Any) -> None:
    """Tell Alembic what there is to know, before each run."""
    context.configure(
        connection=connection,
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        include_object=ours,
        compare_type=True,
        compare_server_default=True,
        process_revision_directives=numbered,
        transaction_per_migration=True,
        **more,
    )


def migrate(connection: sa.Connection, lock_timeout: float) -> None:
    """Run the migrations that were asked for, each in a transaction of its own."""
    configure(connection)
    steps = one_by_one(context.get_context().opts["fn"], connection, lock_timeout)

    def run() -> None:
        connection.commit()  # or Alembic takes what a query has begun for somebody else's transaction, and commits nothing
        configure(connection, fn=steps)
        context.run_migrations()

    patiently(connection, run, lock_timeout=lock_timeout, revision=lambda: revision_of(connection))


def migrate_from_settings() -> None:
    """For the `alembic` command: open the database of the settings, take the lock, run."""
    from perdure.settings import load_settings

    def work(config: Config) -> None:
        migrate(config.attributes["connection"], config.attributes["lock_timeout"])

    try:
        settings = load_settings()
        url = settings.migrations_database_url or settings.database_url
        if url is None:
            raise PerdureError(
                "set DATABASE_URL (and STORAGE_TYPE=postgres) to say which database to migrate"
            )
        on_connection(url.get_secret_value(), work, lock_timeout=settings.storage.migration_lock_timeout)
    except PerdureError as error:
        print(f"perdure: {error}", file=sys.stderr)
        raise SystemExit(2) from None


handed = context.config.attributes.get("connection")
if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        target_metadata=metadata,
        version_table=VERSION_TABLE,
        transaction_per_migration=True,
    )
    with context.begin_transaction():
        context.run_migrations()
elif handed is not None:
    migrate(handed, context.config.attributes["lock_timeout"])
else:
    if context.config.config_file_name is not None:
        fileConfig(context.config.config_file_name, disable_existing_loggers=False)
    migrate_from_settings()
