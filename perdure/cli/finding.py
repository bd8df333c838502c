"""How `perdure tasks` finds tasks: its filters, and lines of a list."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.forms import ago, one_line, seconds
from perdure.owners import agent_of, caller_of, shown

if TYPE_CHECKING:
    from perdure.storage import Storage
    from perdure.storage.operators import TaskFilter, TaskLine

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


def task_filter(
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
    """What the options ask for."""
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


async def each_task(
    storage: Storage, wanted: TaskFilter, limit: float = float("inf")
) -> AsyncIterator[TaskLine]:
    """All that match, the newest first, page by page."""
    given, before = 0, None
    while given < limit:
        page = await storage.find_tasks(wanted, page_size=int(min(limit - given, 100)), before=before)
        for line in page.lines:
            yield line
        given += len(page.lines)
        if (before := page.next) is None:
            return


def line_row(line: TaskLine) -> tuple[str, ...]:
    """TASK, STATE, AGE, ATTEMPT, WORKER, OWNER, SAYS: an error, unless the task has completed in spite of it."""
    error = "" if line.state.value == "completed" else line.error
    return (
        str(line.task_id),
        line.state.value,
        ago(line.created_at),
        str(line.attempt),
        line.holder,
        one_line(shown(line.owner), 30),
        one_line(error or line.text, 60),
    )


def line_as_json(line: TaskLine) -> dict[str, Any]:
    """For programs."""
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
