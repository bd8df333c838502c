"""`perdure send`: a message to an agent, and its answer as it comes.

stdout has the answer alone; what is told about it (progress, questions, cuts, the task's id) goes to stderr.
"""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlsplit

import typer

EXIT_CODES = (
    "Exit codes: 0 completed, 1 failed, rejected, canceled or nobody answers, 2 wrong usage, "
    "3 the agent asks for more, 130 interrupted or detached."
)


def _address(to: str) -> str:
    try:
        parts = urlsplit(to)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return to
    except ValueError:  # a port that is none
        pass
    raise typer.BadParameter(f"{to!r} is no address: write it as http://host:port or https://host")


ToOption = Annotated[
    str, typer.Option("--to", envvar="PERDURE_URL", help="The agent's address.", callback=_address)
]
KeyOption = Annotated[
    str, typer.Option("--key", envvar="PERDURE_KEY", help="An API key or token.", show_default=False)
]
PatienceOption = Annotated[
    float, typer.Option(help="Seconds without an answer of the server after which to give up.")
]
AGENT = "http://localhost:3773"


def send(
    text: Annotated[str, typer.Argument(help="What to say; `-` reads it from stdin.")],
    to: ToOption = AGENT,
    key: KeyOption = "",
    patience: PatienceOption = 60.0,
    task: Annotated[str, typer.Option(help="Answer to this task.", show_default=False)] = "",
    context: Annotated[str, typer.Option(help="Go on with this conversation.", show_default=False)] = "",
    skill: Annotated[
        str, typer.Option(help="Which of the agent's skills it is for (`skillId`).", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print every update as a line of JSON.")] = False,
) -> None:
    """Send a message to an A2A agent and show its answer as it comes.

    The stream goes on by itself when the connection or the server breaks. Ctrl-C asks whether to leave the task running or to
    cancel it. Where the agent asks back, a terminal is asked for the answer.
    """
    from perdure.cli.client import Client
    from perdure.cli.talk import talk

    said = sys.stdin.read() if text == "-" else text
    client = Client(to, key, patience)
    raise typer.Exit(talk(client, said, task=task, context=context, skill=skill, as_json=as_json))


def tail(
    task: Annotated[str, typer.Argument(help="The task's id.")],
    to: ToOption = AGENT,
    key: KeyOption = "",
    patience: PatienceOption = 60.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print every update as a line of JSON.")] = False,
) -> None:
    """Show what a task has said so far and what it goes on to say."""
    from perdure.cli.client import Client
    from perdure.cli.talk import talk

    raise typer.Exit(talk(Client(to, key, patience), None, task=task, as_json=as_json))
