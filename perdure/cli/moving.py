"""`perdure tasks move`: from one agent to several, without leaving anything behind."""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from perdure.cli.forms import tell
from perdure.cli.operator import as_operator
from perdure.cli.options import JsonOption, YesOption

if TYPE_CHECKING:
    from perdure.operating import Operator
    from perdure.storage.postgres.moving import Moved


def move(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="The name of one of several agents.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much there is to move.")] = False,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """Give an only agent's tasks to one of several agents.

    All its conversations go along. For a deployment that goes from AGENT to AGENTS; workers and front doors may run. A
    conversation in which a turn runs stays where it is: run it again.
    """
    from perdure.agents import is_name

    if not is_name(agent):
        raise typer.BadParameter(f"{agent!r} is no name that one of several agents may have")
    conversations, tasks = as_operator(_counted)
    there = f"{conversations} conversations with {tasks} tasks"
    if dry_run:
        told = {"conversations": conversations, "tasks": tasks, "dryRun": True}
        tell(told, f"{there} would be moved to {agent}", as_json=as_json)
        return
    if not yes:
        typer.confirm(f"move {there} of the only agent to {agent}?", abort=True)
    done: Moved = as_operator(lambda operator: _moved(operator, agent))
    told = {name: value for name, value in asdict(done).items() if name != "last"}
    tell(told, _in_words(done, agent), as_json=as_json)


def _counted(operator: Operator) -> Coroutine[Any, Any, tuple[int, int]]:
    from perdure.storage.postgres import PostgresStorage

    assert isinstance(operator.storage, PostgresStorage)  # noqa: S101 -- operators have no other
    return operator.storage.count_of_only_agent()


async def _moved(operator: Operator, agent: str) -> Moved:
    """All of them, a batch at a time."""
    from perdure.storage.postgres import PostgresStorage
    from perdure.storage.postgres.moving import FIRST, Moved

    storage = operator.storage
    assert isinstance(storage, PostgresStorage)  # noqa: S101 -- operators have no other
    done = Moved(last=FIRST)

    async def act() -> str:
        nonlocal done
        while done.last is not None:
            batch = await storage.move_to_agent(agent, after=done.last)
            done = Moved(
                done.conversations + batch.conversations,
                done.tasks + batch.tasks,
                done.busy + batch.busy,
                done.namesakes + batch.namesakes,
                batch.last,
            )
        return _in_words(done, agent)

    await operator.audited("move", agent, act)
    return done


def _in_words(done: Moved, agent: str) -> str:
    told = f"{done.conversations} conversations with {done.tasks} tasks were moved to {agent}"
    if done.busy:
        told += f"\n{done.busy} stay where a turn runs, or a webhook is being told: run it again"
    if done.namesakes:
        told += f"\n{done.namesakes} stay: their callers have conversations of the same ids at {agent}"
    return told
