"""`perdure doctor`, `backup` and `restore`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.cli.forms import in_bytes, tell
from perdure.cli.operator import said_in_one_line
from perdure.cli.options import JsonOption

FileArgument = Annotated[Path, typer.Argument(help="SQL text; compressed where the name ends in .gz.")]


def doctor(
    agent: Annotated[str | None, typer.Argument(help="The agent (AGENT).", show_default=False)] = None,
    url: Annotated[
        str, typer.Option(help="Also look at the card of the front door there.", show_default=False)
    ] = "",
    as_json: JsonOption = False,
) -> None:
    """Look for what is not well, and say what to do about it.

    It looks at the settings, the agent, the database, Redis, the clock and the collector of traces, and with --url at a card.
    Exit code 1 when something has failed; warnings are 0.
    """
    with said_in_one_line():
        from perdure.launch import run
        from perdure.settings import load_settings

        run(_examined(load_settings(agent=agent), url, _as_json if as_json else _Table()))


async def _examined(settings: Any, url: str, show: Callable[[Any], None]) -> None:
    from perdure.cli.doctor import Grade, examine

    failed = False
    async for finding in examine(settings, url=url):
        show(finding)
        failed |= finding.grade is Grade.FAILED
    if failed:
        raise SystemExit(1)


def _as_json(finding: Any) -> None:
    told = {"check": finding.check, "grade": finding.grade, "text": finding.text, "remedy": finding.remedy}
    print(json.dumps(told), flush=True)


class _Table:
    """A line for each finding, and beneath it what to do."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(highlight=False, soft_wrap=True)
        self._marks = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red")}

    def __call__(self, finding: Any) -> None:
        mark, style = self._marks[finding.grade]
        self._console.print(f"{mark} {finding.check:9}", style=style, end=" ")
        self._console.print(finding.text, markup=False)
        if finding.remedy:
            self._console.print(f"  {'':9} -> {finding.remedy}", style="bold", markup=False)


def backup(file: FileArgument, as_json: JsonOption = False) -> None:
    """Write the whole database to a file, as of one moment. The servers may run. Needs DATABASE_URL alone."""
    with _at_work("backing up") as (database_url, progress):
        from perdure.storage.backup import backup as write

        size = write(database_url, file, wrote=progress)
    tell({"file": str(file), "bytes": size}, f"{file}: {in_bytes(size)}", as_json=as_json)


def restore(file: FileArgument, as_json: JsonOption = False) -> None:
    """Load a backup into an empty database, all of it or nothing. Needs DATABASE_URL alone."""
    with _at_work("restoring") as (database_url, progress):
        from perdure.storage.backup import restore as load

        load(database_url, file, read=progress)
    text = "restored; `perdure migrate upgrade` brings an older schema up to date"
    tell({"file": str(file), "restored": True}, text, as_json=as_json)


@contextmanager
def _at_work(what: str) -> Iterator[tuple[str, Callable[[int], None]]]:
    """The database's address, and something to tell how many bytes are done."""
    with said_in_one_line():
        from rich.console import Console

        from perdure.backends import database_url
        from perdure.launch import one_line
        from perdure.settings import load_settings
        from perdure.storage.backup import BackupFailed

        url = database_url(load_settings(storage_type="postgres"), migrations=True)
        try:
            with Console(stderr=True).status(f"{what} ...") as status:
                yield url, lambda size: status.update(f"{what}: {in_bytes(size)} of SQL")
        except BackupFailed as error:
            one_line(error)
            raise SystemExit(1) from None
