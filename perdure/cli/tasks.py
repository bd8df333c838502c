"""`perdure tasks`: find tasks whoever owns them, see why they are where they are, cancel them and try them again."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from perdure.cli import send as talking
from perdure.cli.fleet import DEAD_AFTER
from perdure.cli.forms import ago, lasting, one_line, seconds, table, tell
from perdure.cli.operator import as_operator
from perdure.cli.options import EXIT_CODES, JsonOption, LimitOption, YesOption
from perdure.owners import agent_of, caller_of, shown

if TYPE_CHECKING:
    from perdure.operating import Bulk, Operator
    from perdure.storage import Storage
    from perdure.storage.operators import Attempt, TaskFilter, TaskLine
    from perdure.tasks import Task

tasks = typer.Typer(
    name="tasks",
    help="Find tasks, see why they are where they are, cancel them and try them again. Needs DATABASE_URL; `tail` an address.",
    epilog=EXIT_CODES,
    no_args_is_help=True,
    rich_markup_mode=None,
)
tasks.command(epilog=talking.EXIT_CODES)(talking.tail)

StateOption = Annotated[
    str | None, typer.Option(help="submitted, working, input-required, failed ...", show_default=False)
]
OwnerOption = Annotated[
    str | None, typer.Option(help="Whose they are; of several agents with --agent.", show_default=False)
]
AgentOption = Annotated[str | None, typer.Option(help="Of this one of several agents.", show_default=False)]
ContextOption = Annotated[str | None, typer.Option(help="Of which conversation.", show_default=False)]
WorkerOption = Annotated[str | None, typer.Option(help="Held by this worker now.", show_default=False)]
OlderOption = Annotated[
    str | None, typer.Option(help="Sent so long ago at least, as in 90d, 12h, 30m.", show_default=False)
]
NewerOption = Annotated[str | None, typer.Option(help="Sent so long ago at most.", show_default=False)]
ErrorOption = Annotated[
    str | None, typer.Option(help="Words of the error that an attempt failed with.", show_default=False)
]
TextOption = Annotated[str | None, typer.Option(help="Words of the first message.", show_default=False)]
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
    wanted = _filter(state, owner, agent, context, worker, older, newer, error, text)
    found = as_operator(lambda operator: _found(operator.storage, wanted, limit))
    if as_json:
        for line in found:
            print(json.dumps(_line_as_json(line)))
        return
    heads = ("TASK", "STATE", "AGE", "ATTEMPT", "WORKER", "OWNER", "SAYS")
    print(table(heads, [_row(line) for line in found]))


@tasks.command(epilog=EXIT_CODES)
def show(
    task: Annotated[UUID, typer.Argument(help="The task's id.")],
    events: Annotated[bool, typer.Option("--events", help="Every event of its log as well.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Print a task: where it stands, its attempts and why they ended, its traces, what was said."""
    line, attempts, whole, log, blocked = as_operator(lambda operator: _one(operator.storage, task, events))
    if as_json:
        from perdure.archive import task_json

        told = {
            **_line_as_json(line),
            "traces": [{"traceId": trace, "url": link or None} for trace, link in _traces(line)],
            "attempts": [_attempt_as_json(each) for each in attempts],
        }
        print(json.dumps({**told, "task": task_json(whole), "events": log}, indent=2))
        return
    print(_told(line, attempts, whole, blocked))
    for event in log:
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
    wanted = _filter(state, owner, agent, context, worker, older, newer, error, text)

    async def one(operator: Operator, task: UUID) -> str:
        return await (operator.force_cancel(task) if force else operator.cancel(task))

    _act("cancel", ids, everything, wanted, yes, as_json, one, lambda operator: operator.cancel_all(wanted))


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
    """Try failed, canceled or rejected tasks again, as new tasks of their owners: by their ids or (--all) all that match."""
    wanted = _filter(state, owner, agent, context, None, older, newer, error, text)

    async def one(operator: Operator, task: UUID) -> str:
        return f"retried as {await operator.retry(task, say)}"

    _act("retry", ids, everything, wanted, yes, as_json, one, lambda operator: operator.retry_all(wanted))


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
    """Print all that match as JSON lines: A2A 1.0 tasks with their history and artifacts, the newest first; in their member
    `perdure` with all that `perdure import` puts back."""
    wanted = _filter(state, owner, agent, context, None, older, newer, error, text)
    as_operator(lambda operator: _exported(operator.storage, wanted))


# ---------------------------------------------------------------------- finding


def _filter(
    state: str | None,
    owner: str | None,
    agent: str | None,
    context: str | None,
    worker: str | None,
    older: str | None,
    newer: str | None,
    error: str | None,
    text: str | None,
) -> TaskFilter:
    from perdure.storage.operators import TaskFilter
    from perdure.tasks import TaskState

    if state is not None and state not in set(TaskState):
        raise typer.BadParameter(f"is one of {', '.join(TaskState)}", param_hint="--state")
    return TaskFilter(
        state=None if state is None else TaskState(state),
        owner=owner,
        agent=agent,
        context_id=context,
        worker=worker,
        older=seconds(older, "--older"),
        newer=seconds(newer, "--newer"),
        error=error,
        text=text,
    )


async def _each(storage: Storage, wanted: TaskFilter, limit: float = float("inf")) -> AsyncIterator[TaskLine]:
    given, before = 0, None
    while given < limit:
        page = await storage.find_tasks(wanted, page_size=int(min(limit - given, 100)), before=before)
        for line in page.lines:
            yield line
        given += len(page.lines)
        if (before := page.next) is None:
            return


async def _found(storage: Storage, wanted: TaskFilter, limit: int) -> list[TaskLine]:
    return [line async for line in _each(storage, wanted, limit)]


async def _one(
    storage: Storage, task_id: UUID, events: bool
) -> tuple[TaskLine, Sequence[Attempt], Task, list[dict[str, Any]], bool]:
    line = await storage.task_line(task_id)
    attempts = await storage.attempts(task_id)
    return (
        line,
        attempts,
        await storage.load_task(line.owner, task_id),
        ([event async for event in _log(storage, line)] if events else []),
        any(task_id in each.tasks and each.is_blocked(DEAD_AFTER) for each in await storage.list_workers()),
    )


async def _log(storage: Storage, line: TaskLine) -> AsyncIterator[dict[str, Any]]:
    from perdure.payload import dump_body

    after = 0
    while page := await storage.events_since(line.owner, line.task_id, after):
        for event in page:
            after = event.seq
            kind, payload = dump_body(event.body)
            yield {"seq": event.seq, "time": event.time.isoformat(), "kind": kind, **payload}


async def _exported(storage: Storage, wanted: TaskFilter) -> None:
    from perdure.archive import line_of
    from perdure.errors import TaskNotFound

    async for line in _each(storage, wanted):
        try:
            print(line_of(await storage.task_record(line.task_id)).decode(), end="")
        except TaskNotFound:  # cleared meanwhile
            continue


# ---------------------------------------------------------------------- acting


def _act(
    what: str,
    ids: list[UUID] | None,
    everything: bool,
    wanted: TaskFilter,
    yes: bool,
    as_json: bool,
    one: Callable[[Operator, UUID], Coroutine[Any, Any, str]],
    everyone: Callable[[Operator], Coroutine[Any, Any, Bulk]],
) -> None:
    if bool(ids) == everything:
        raise typer.BadParameter(f"name the tasks to {what}, or give --all and filters")
    if everything:
        if not yes:
            count = as_operator(lambda operator: operator.storage.count_matching(wanted))
            typer.confirm(f"{what} all that match, {count} of the newest tasks?", abort=True)
        bulk = as_operator(everyone)
        told = {"done": bulk.done, "skipped": bulk.skipped, "more": bulk.more}
        tell(told, str(bulk), as_json=as_json)
        return
    failed = as_operator(lambda operator: _one_by_one(operator, ids or [], one, as_json))
    if failed:
        raise typer.Exit(1)


async def _one_by_one(
    operator: Operator,
    ids: Sequence[UUID],
    one: Callable[[Operator, UUID], Coroutine[Any, Any, str]],
    as_json: bool,
) -> bool:
    """Whether any failed. For programs every task has a line, on stdout."""
    from perdure.errors import CallerError

    failed = False
    for task in ids:
        try:
            result = await one(operator, task)
        except CallerError as error:
            failed = True
            if as_json:
                print(json.dumps({"taskId": str(task), "error": str(error)}))
            else:
                typer.echo(f"{task}: {error}", err=True)
        else:
            tell({"taskId": str(task), "result": result}, f"{task}: {result}", as_json=as_json)
    return failed


# ---------------------------------------------------------------------- showing


def _row(line: TaskLine) -> tuple[str, ...]:
    return (
        str(line.task_id),
        line.state.value,
        ago(line.created_at),
        str(line.attempt),
        line.holder,
        one_line(shown(line.owner), 30),
        one_line(line.error or line.text, 60),
    )


def _told(line: TaskLine, attempts: Sequence[Attempt], task: Task, blocked: bool) -> str:
    facts = [
        ("task", str(line.task_id)),
        ("state", f"{line.state} since {ago(line.status_timestamp)}"),
        ("owner", shown(line.owner)),
        ("context", line.context_id),
        ("sent", f"{line.created_at:%Y-%m-%d %H:%M:%S %Z}, {ago(line.created_at)} ago"),
        ("attempts", f"{line.attempt}, of which {line.failures} failed and {line.crashes} crashed"),
        ("held by", _held_by(line, blocked)),
        *(("trace", link or trace) for trace, link in _traces(line)),
    ]
    told = [f"{name:9} {value}" for name, value in facts]
    if progress := task.metadata.get("progress"):
        fraction = progress.get("fraction")
        share = "" if fraction is None else f"{fraction:.0%} "
        told.append(f"{'progress':9} {share}{one_line(progress.get('note') or '')}")
    if attempts:
        rows = [_attempt_row(each) for each in attempts]
        told += ["", table(("ATTEMPT", "WORKER", "BEGAN", "TOOK", "ENDED", "BECAUSE"), rows)]
    told += ["", *(f"{message.role}: {one_line(message.text, 2000)}" for message in task.history)]
    if task.status_message:
        told.append(f"{task.state}: {one_line(task.status_message.text, 2000)}")
    told += [f"artifact {each.artifact_id}: {one_line(each.text, 2000)}" for each in task.artifacts]
    return "\n".join(told)


def _held_by(line: TaskLine, blocked: bool) -> str:
    if blocked:
        return f"{line.holder}, which is blocked: a handler holds its event loop; end that process (perdure workers list)"
    if line.holder and line.state.terminal:
        return f"{line.holder}, whose handler has not ended: perdure tasks cancel --force {line.task_id}"
    return line.holder or "nobody"


def _traces(line: TaskLine) -> list[tuple[str, str]]:
    """The ids of its traces, the newest first, and where to look at them if OPS__TRACE_URL says so."""
    from perdure.settings import load_settings
    from perdure.tracing import trace_ids

    ops = load_settings(storage_type="postgres").ops
    return [(found, ops.trace_link(found)) for found in trace_ids(line.trace_contexts)]


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    took = (attempt.ended_at - attempt.began_at).total_seconds() if attempt.ended_at else None
    failure = attempt.failure
    because = f"{failure.error_class}: {failure.message}" if failure else ""
    return (
        str(attempt.attempt),
        attempt.worker,
        f"{attempt.began_at:%H:%M:%S}",
        lasting(took),
        attempt.why.value,
        one_line(because, 100),
    )


def _line_as_json(line: TaskLine) -> dict[str, Any]:
    return {
        "taskId": str(line.task_id),
        "contextId": line.context_id,
        "owner": caller_of(line.owner),
        "agent": agent_of(line.owner) or None,
        "state": line.state.value,
        "createdAt": line.created_at.isoformat(),
        "statusTimestamp": line.status_timestamp.isoformat(),
        "dueAt": line.due_at.isoformat(),
        "attempt": line.attempt,
        "failures": line.failures,
        "crashes": line.crashes,
        "priority": line.priority,
        "holder": line.holder or None,
        "text": line.text,
        "error": line.error,
    }


def _attempt_as_json(attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "beganAt": attempt.began_at.isoformat(),
        "endedAt": attempt.ended_at.isoformat() if attempt.ended_at else None,
        "why": attempt.why.value,
        "error": f"{failure.error_class}: {failure.message}" if failure else None,
        "traceback": failure.traceback if failure else None,
    }
