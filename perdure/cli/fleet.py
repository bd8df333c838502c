"""`perdure workers` and `perdure contexts`: who works, and which conversations wait for what."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.forms import ago, lasting, one_line, table, tell
from perdure.cli.operator import as_operator, fail, said_in_one_line
from perdure.cli.options import EXIT_CODES, JsonOption
from perdure.owners import ONLY, agent_of, caller_of, owner_at, shown

if TYPE_CHECKING:
    from perdure.storage.operators import WorkerStatus

workers = typer.Typer(
    name="workers",
    help="See who works, and ask a worker to begin no more turns. Needs DATABASE_URL.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)
contexts = typer.Typer(
    name="contexts",
    help="See conversations: which task runs, which wait. Needs DATABASE_URL.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)

DEAD_AFTER = 30.0
"""Seconds without a sign of life after which a worker is called gone, since it did not end in order; or blocked, if it still
keeps tasks."""

WorkerArgument = Annotated[str, typer.Argument(help="The worker's id, see `perdure workers list`.")]


def top() -> None:
    """Watch tasks and workers, with the keys of htop. Needs DATABASE_URL and `pip install 'perdure[top]'`."""
    with said_in_one_line():
        from perdure.errors import ConfigError

        if not (sys.stdin.isatty() and sys.stderr.isatty()):  # it is drawn on stderr
            raise ConfigError(
                "perdure top needs a terminal; `perdure tasks list` and `perdure workers list` print once"
            )
        try:
            from perdure.cli.top import Top
        except ModuleNotFoundError as error:
            raise ConfigError(f"{error.name} is missing: pip install 'perdure[top]'") from None
    as_operator(lambda operator: Top(operator).run_async())


@workers.command("list", epilog=EXIT_CODES)
def list_workers(as_json: JsonOption = False) -> None:
    """Print the workers, and for an hour those that were lost. They ended without a word. Who works comes first."""
    from perdure.storage.operators import by_liveliness

    found = by_liveliness(as_operator(lambda operator: operator.storage.list_workers()), DEAD_AFTER)
    if as_json:
        print(json.dumps([_worker_as_json(worker) for worker in found], indent=2))
        return
    heads = ("WORKER", "WHERE", "VERSION", "UP", "SLOTS", "LAG", "SILENT", "")
    print(table(heads, [_worker_row(worker) for worker in found]))


@workers.command(epilog=EXIT_CODES)
def drain(worker: WorkerArgument, as_json: JsonOption = False) -> None:
    """Ask a worker to begin no more turns; those that run go on. Its next sign of life reads it."""
    _asked(worker, True, as_json)


@workers.command(epilog=EXIT_CODES)
def resume(worker: WorkerArgument, as_json: JsonOption = False) -> None:
    """Ask a worker that was drained to begin turns again."""
    _asked(worker, False, as_json)


def _asked(worker: str, drain: bool, as_json: bool) -> None:
    result = as_operator(lambda operator: operator.drain(worker, drain))
    tell({"workerId": worker, "result": result}, f"{worker}: {result}", as_json=as_json)
    if result == "no such worker":
        raise typer.Exit(1)


@contexts.command("list", epilog=EXIT_CODES)
def list_contexts(
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the conversations of the newest tasks."""
    found = as_operator(lambda operator: operator.storage.newest_contexts(limit))
    if as_json:
        members = ("owner", "agent", "contextId", "newestTaskAt", "waiting", "running")
        told = [
            (caller_of(owner), agent_of(owner) or None, name, at.isoformat(), wait, run and str(run))
            for owner, name, at, wait, run in found
        ]
        print(json.dumps([dict(zip(members, row, strict=True)) for row in told], indent=2))
        return
    rows = [
        (one_line(shown(owner), 30), one_line(name, 60), ago(at), str(wait), str(run or ""))
        for owner, name, at, wait, run in found
    ]
    print(table(("OWNER", "CONTEXT", "AGE", "WAIT", "RUNNING"), rows))


@contexts.command(epilog=EXIT_CODES)
def show(
    owner: Annotated[str, typer.Argument(help="Whose conversation it is.")],
    context: Annotated[str, typer.Argument(help="Its id.")],
    agent: Annotated[str, typer.Option(help="At this one of several agents.", show_default=False)] = ONLY,
    as_json: JsonOption = False,
) -> None:
    """Print the tasks of a conversation in their order."""
    found = as_operator(lambda operator: operator.storage.context_line(owner_at(agent, owner), context))
    if not found:
        fail(f"{owner} has no conversation {context}")
    if as_json:
        told = [{"taskId": str(line.task_id), "state": line.state.value, "text": line.text} for line in found]
        print(json.dumps(told, indent=2))
        return
    rows = [
        (str(line.task_id), line.state.value, ago(line.created_at), one_line(line.text)) for line in found
    ]
    print(table(("TASK", "STATE", "AGE", "SAYS"), rows))


def how_silent(worker: WorkerStatus) -> str:
    """`blocked`, `gone`, or nothing for one that gives signs of life."""
    if worker.silent <= DEAD_AFTER:
        return ""
    return "blocked" if worker.is_blocked(DEAD_AFTER) else "gone"


def _worker_row(worker: WorkerStatus) -> tuple[str, ...]:
    beat = worker.beat
    mark = "draining" if worker.drains else ""
    return (
        beat.worker_id,
        one_line(beat.name, 40),
        beat.version,
        ago(worker.started_at),
        f"{beat.running}/{beat.slots}",
        lasting(beat.loop_lag),
        lasting(worker.silent),
        " ".join(filter(None, (how_silent(worker) or mark, ", ".join(beat.agents)))),
    )


def _worker_as_json(worker: WorkerStatus) -> dict[str, Any]:
    beat = worker.beat
    return {
        "workerId": beat.worker_id,
        "name": beat.name,
        "version": beat.version,
        "startedAt": worker.started_at.isoformat(),
        "agents": list(beat.agents),
        "slots": beat.slots,
        "running": beat.running,
        "draining": worker.drains,
        "loopLag": beat.loop_lag,
        "silent": worker.silent,
        "blocked": worker.is_blocked(DEAD_AFTER),
        "tasks": [str(task) for task in worker.tasks],
    }
