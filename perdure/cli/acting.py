"""What `perdure tasks` does to tasks: to those that are named, one by one, or to all that match."""

from __future__ import annotations

import json
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING, Any
from uuid import UUID

import typer

from perdure.cli.forms import tell
from perdure.cli.operator import as_operator

if TYPE_CHECKING:
    from perdure.operating import Bulk, Operator
    from perdure.storage.operators import TaskFilter


def act(
    what: str,
    ids: list[UUID] | None,
    everything: bool,
    wanted: TaskFilter,
    yes: bool,
    as_json: bool,
    one: Callable[[Operator, UUID], Coroutine[Any, Any, str]],
    everyone: Callable[[Operator], Coroutine[Any, Any, Bulk]],
) -> None:
    """Do it to `ids`, or where `everything` is asked for to all that are `wanted`; a person is asked before that."""
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
