"""`perdure tasks`: find tasks whoever owns them, see why they are where they are, cancel them and try them again."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated
from uuid import UUID

import typer

from perdure.cli import send as talking
from perdure.cli.acting import act
from perdure.cli.finding import (
    AgentOption,
    ContextOption,
    ErrorOption,
    NewerOption,
    OlderOption,
    OwnerOption,
    StateOption,
    TextOption,
    WorkerOption,
    each_task,
    line_as_json,
    line_row,
    task_filter,
)
from perdure.cli.forms import table
from perdure.cli.moving import move
from perdure.cli.one_task import looked_as_json, looked_as_text, looked_at
from perdure.cli.operator import as_operator
from perdure.cli.options import EXIT_CODES, JsonOption, LimitOption, YesOption

if TYPE_CHECKING:
    from perdure.operating import Operator
    from perdure.storage import Storage
    from perdure.storage.operators import TaskFilter, TaskLine

tasks = typer.Typer(
    name="tasks",
    help="Find tasks, see why they stand where they do, cancel, retry. Needs DATABASE_URL; `tail` an address.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)
tasks.command(epilog=talking.EXIT_CODES)(talking.tail)
tasks.command(epilog=EXIT_CODES)(move)

TaskArguments = Annotated[list[UUID] | None, typer.Argument(help="Ids of tasks.", show_default=False)]
AllOption = Annotated[bool, typer.Option("--all", help="All that match the filters.")]


@tasks.command("list", epilog=EXIT_CODES)
def list_tasks(
    state: StateOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    context: ContextOption = None,
    worker: WorkerOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    error: ErrorOption = None,
    text: TextOption = None,
    limit: LimitOption = 50,
    as_json: JsonOption = False,
) -> None:
    """Print the newest tasks that match, whoever owns them. With --json a line for each."""
    wanted = task_filter(state, owner, agent, context, worker, older, newer, error, text)
    found = as_operator(lambda operator: _found(operator.storage, wanted, limit))
    if as_json:
        for line in found:
            print(json.dumps(line_as_json(line)))
        return
    heads = ("TASK", "STATE", "AGE", "ATTEMPT", "WORKER", "OWNER", "SAYS")
    print(table(heads, [line_row(line) for line in found]))


@tasks.command(epilog=EXIT_CODES)
def show(
    task: Annotated[UUID, typer.Argument(help="The task's id.")],
    events: Annotated[bool, typer.Option("--events", help="Every event of its log as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a task: where it stands, its attempts, what was said. And its traces, and what was told to webhooks."""
    found = as_operator(lambda operator: looked_at(operator.storage, task, events=events))
    if as_json:
        print(json.dumps(looked_as_json(found), indent=2))
        return
    print(looked_as_text(found))
    for event in found.log:
        print(json.dumps(event))


@tasks.command(epilog=EXIT_CODES)
def cancel(
    ids: TaskArguments = None,
    force: Annotated[
        bool, typer.Option("--force", help="Take it from a worker that does not let go of it.")
    ] = False,
    everything: AllOption = False,
    state: StateOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    context: ContextOption = None,
    worker: WorkerOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    error: ErrorOption = None,
    text: TextOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Cancel tasks, by their ids or (--all) all that match."""
    wanted = task_filter(state, owner, agent, context, worker, older, newer, error, text)

    async def one(operator: Operator, task: UUID) -> str:
        return await (operator.force_cancel(task) if force else operator.cancel(task))

    act("cancel", ids, everything, wanted, yes, as_json, one, lambda operator: operator.cancel_all(wanted))


@tasks.command(epilog=EXIT_CODES)
def retry(
    ids: TaskArguments = None,
    say: Annotated[
        str | None, typer.Option(help="Say this instead of what was said.", show_default=False)
    ] = None,
    everything: AllOption = False,
    state: StateOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    context: ContextOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    error: ErrorOption = None,
    text: TextOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Try failed, canceled or rejected tasks again, as new tasks. By their ids or (--all) all that match, for their owners."""
    wanted = task_filter(state, owner, agent, context, None, older, newer, error, text)

    async def one(operator: Operator, task: UUID) -> str:
        return f"retried as {await operator.retry(task, say)}"

    act("retry", ids, everything, wanted, yes, as_json, one, lambda operator: operator.retry_all(wanted))


@tasks.command(epilog=EXIT_CODES)
def export(
    state: StateOption = None,
    owner: OwnerOption = None,
    agent: AgentOption = None,
    context: ContextOption = None,
    older: OlderOption = None,
    newer: NewerOption = None,
    error: ErrorOption = None,
    text: TextOption = None,
) -> None:
    """Print all that match as JSON lines, the newest first. Each is an A2A 1.0 task with its history and artifacts; in its member
    `perdure` with all that `perdure import` puts back."""
    wanted = task_filter(state, owner, agent, context, None, older, newer, error, text)
    as_operator(lambda operator: _exported(operator.storage, wanted))


async def _found(storage: Storage, wanted: TaskFilter, limit: int) -> list[TaskLine]:
    return [line async for line in each_task(storage, wanted, limit)]


async def _exported(storage: Storage, wanted: TaskFilter) -> None:
    from perdure.errors import TaskNotFound
    from perdure.retention.archive import line_of

    async for line in each_task(storage, wanted):
        try:
            print(line_of(await storage.task_record(line.task_id)).decode(), end="")
        except TaskNotFound:  # cleared meanwhile
            continue
