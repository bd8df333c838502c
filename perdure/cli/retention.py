"""`perdure prune` and `perdure import`: delete what is old by hand, and put back what was archived."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.forms import in_bytes, seconds, table
from perdure.cli.operator import as_operator, said_in_one_line
from perdure.cli.options import JsonOption, YesOption

if TYPE_CHECKING:
    from uuid import UUID

    from perdure.operating import Operator
    from perdure.retention.archive import FileArchive
    from perdure.retention.pruning import Rules, Survey, Tally
    from perdure.settings import RetentionSettings
    from perdure.storage import Storage

# ---------------------------------------------------------------------- prune


def prune(
    older_than: Annotated[
        str | None,
        typer.Option(
            help="Ended so long ago at least, as in 90d, 12h, 30m. Default: what RETENTION__... says.",
            show_default=False,
        ),
    ] = None,
    state: Annotated[
        list[str] | None,
        typer.Option(
            help="Only tasks that are completed, failed, canceled or rejected; may be repeated.",
            show_default=False,
        ),
    ] = None,
    archive: Annotated[
        Path | None,
        typer.Option(
            help="A folder to write them to before they are deleted (RETENTION__ARCHIVE).", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be deleted.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Delete tasks that ended long ago, with all that is theirs. The servers may run.

    Never one that something needs: a worker, a delivery to a webhook, a message that refers to it, an idempotency key.
    """
    with said_in_one_line():
        from perdure.settings import load_settings

        settings = load_settings(storage_type="postgres").retention
        rules = _rules(settings, older_than, state)
    folder = archive or settings.archive
    if folder is not None and not folder.is_dir():
        raise typer.BadParameter(f"{folder} is no folder: make it first", param_hint="--archive")
    with _progress("looking") as tell:
        found: Survey = as_operator(lambda operator: _surveyed(operator.storage, rules, tell))
    if dry_run:
        print(json.dumps(_survey_json(found)) if as_json else _survey_text(found))
        return
    if not yes:
        typer.echo(_survey_text(found), err=True)
        where = f"after writing them to {folder}" if folder else "for good: they are not archived"
        typer.confirm(f"delete {found.total} tasks, {where}?", abort=True, err=True)
    told = _told(rules)
    with _progress("deleting", found.total) as tell:
        tally: Tally = as_operator(
            lambda operator: _pruned(operator, rules, told, _file(folder, settings), tell)
        )
    print(json.dumps(_tally_json(tally)) if as_json else tally)


def _rules(settings: RetentionSettings, older_than: str | None, states: list[str] | None) -> Rules:
    from perdure.retention.pruning import Rules
    from perdure.tasks import TaskState

    ended = [state.value for state in TaskState if state.terminal]
    if wrong := [state for state in states or () if state not in ended]:
        raise typer.BadParameter(f"{wrong[0]!r} is none of {', '.join(ended)}", param_hint="--state")
    given = seconds(older_than, "--older-than")
    if given is not None:
        return Rules({TaskState(state): given for state in states or ended})
    rules = Rules.of(settings)
    if states:
        rules = Rules({state: age for state, age in rules.ages.items() if state in states})
    if not rules:
        raise typer.BadParameter(
            "say how old, as in --older-than 90d, or set RETENTION__COMPLETED and its like",
            param_hint="--older-than",
        )
    return rules


async def _surveyed(storage: Storage, rules: Rules, tell: Callable[[int], None]) -> Survey:
    from perdure.retention.pruning import survey

    return await survey(storage, rules, tell=tell)


async def _pruned(
    operator: Operator, rules: Rules, told: str, archive: FileArchive | None, tell: Callable[[int], None]
) -> Tally:
    from perdure.retention import pruning

    done = pruning.Tally()

    async def go_on(place: UUID, tally: Tally) -> bool:
        tell(tally.tasks.total())
        return True

    async def act() -> str:
        nonlocal done
        done = await pruning.prune(operator.storage, rules, archive=archive, go_on=go_on)
        return str(done)

    try:
        await operator.audited("prune", told, act)
    finally:
        if archive is not None:
            archive.close()
    return done


def _file(folder: Path | None, settings: RetentionSettings) -> FileArchive | None:
    if folder is None:
        return None
    from perdure.ids import new_token
    from perdure.retention.archive import FileArchive

    return FileArchive(folder, name=f"by-hand-{str(new_token())[:8]}", compress=settings.compress)


def _told(rules: Rules) -> str:
    """For the audit."""
    said = [f"{state} for {age:g} s" for state, age in rules.ages.items()]
    if rules.events is not None:
        said.append(f"logs after {rules.events:g} s")
    if rules.actions is not None:
        said.append(f"the audit after {rules.actions:g} s")
    return ", ".join(said)


def _survey_text(found: Survey) -> str:
    rows = [
        (state.value, age, str(count), in_bytes(found.sizes[state, age]))
        for (state, age), count in sorted(found.tasks.items())
    ]
    rows.append(("all", "", str(found.total), in_bytes(found.sizes.total())))
    told = table(("STATE", "ENDED", "TASKS", "ABOUT"), rows)
    if found.kept:
        told += f"\n{found.kept} more are old enough, and something needs them"
    if found.logs:
        told += f"\n{found.logs} logs would be trimmed"
    return told


def _survey_json(found: Survey) -> dict[str, Any]:
    groups = [
        {"state": state.value, "age": age, "tasks": count, "bytes": found.sizes[state, age]}
        for (state, age), count in sorted(found.tasks.items())
    ]
    return {"tasks": found.total, "groups": groups, "kept": found.kept, "logs": found.logs}


def _tally_json(tally: Tally) -> dict[str, Any]:
    return {
        "deleted": {state.value: count for state, count in tally.tasks.items()},
        "contexts": tally.contexts,
        "trimmed": tally.trimmed,
        "actions": tally.actions,
        "kept": tally.kept,
    }


# ---------------------------------------------------------------------- import


@dataclass(slots=True)
class _Found:
    """What became of the lines."""

    restored: int = 0
    skipped: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)

    def refuse(self, file: Path, line: int, why: str) -> None:
        """A line that is left out, or where a file cannot be read any further."""
        self.refused.append({"file": str(file), "line": line, "error": why})
        typer.echo(f"{file}:{line}: {why}", err=True)


def put_back(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="What `perdure prune --archive`, RETENTION__ARCHIVE or `perdure tasks export` wrote, compressed or not.",
            metavar="FILE...",
        ),
    ],
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only read the files, and say what would be put back.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Put archived or exported tasks back, for their owners. A task that is there already is left as it is.

    Lines that cannot be read are named and left out; the exit code is then 1. It may be run again.
    """
    if missing := [file for file in files if not file.is_file()]:
        raise typer.BadParameter(f"{missing[0]} is no file", param_hint="FILE")
    found = _Found()
    total = sum(file.stat().st_size for file in files)
    with _progress("reading", total) as tell:
        as_operator(lambda operator: _imported(operator, files, dry_run, found, tell))
    if as_json:
        counts = {"restored": found.restored, "skipped": found.skipped, "refused": found.refused}
        print(json.dumps({**counts, "dryRun": dry_run}))
    else:
        done = "would be put back" if dry_run else "put back"
        print(f"{found.restored} {done}, {found.skipped} were there already, {len(found.refused)} refused")
    if found.refused:
        raise typer.Exit(1)


async def _imported(
    operator: Operator, files: list[Path], dry_run: bool, found: _Found, tell: Callable[[int], None]
) -> None:
    async def act() -> str:
        before = 0
        for file in files:
            await _read(operator.storage, file, dry_run, found, partial(_further, tell, before))
            before += file.stat().st_size
        return f"{found.restored} put back, {found.skipped} were there, {len(found.refused)} refused"

    if dry_run:
        await act()
    else:
        await operator.audited("import", ", ".join(str(file) for file in files), act)


def _further(tell: Callable[[int], None], before: int, read: int) -> None:
    tell(before + read)


async def _read(
    storage: Storage, file: Path, dry_run: bool, found: _Found, tell: Callable[[int], None]
) -> None:
    from perdure.retention.archive import CutShort, opened

    number = 0
    try:
        with opened(file) as (lines, read):
            for number, line in enumerate(lines, start=1):
                await _put_back(storage, file, number, line, dry_run, found)
                tell(read())
    except OSError as error:
        found.refuse(file, number + 1, f"the file cannot be read: {error.strerror or error}")
    except CutShort:
        found.refuse(file, number + 1, _CUT)


_CUT = (
    "the file ends in the middle of this line. If its writer was killed, the task of this line was not deleted; "
    "if the file was copied, copy it again"
)


async def _put_back(
    storage: Storage, file: Path, number: int, line: bytes, dry_run: bool, found: _Found
) -> None:
    from perdure.retention.archive import record_of

    if not line.strip():
        return
    try:
        record = record_of(line)
        if dry_run:
            [notice] = await storage.notices([record.task.task_id])
            new = notice.state is None
        else:
            new = await storage.restore_task(record)
    except ValueError as error:
        found.refuse(file, number, str(error) if line.endswith(b"\n") else _CUT)
        return
    found.restored += new
    found.skipped += not new


@contextmanager
def _progress(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr, where that is a terminal; and something to tell how much is done."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn(what), BarColumn(), TextColumn("{task.completed}"), TimeElapsedColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        row = progress.add_task("", total=total)
        yield lambda done: progress.update(row, completed=done)
