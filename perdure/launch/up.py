"""`perdure up`: the whole durable stack on one machine, as child processes with one log stream.

The order of a start: PostgreSQL and Redis, the migrations, then the front door and the workers. Of a stop: the front door (no
new work), the workers (each finishes or gives back its turns), then the servers.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from perdure.agents import chosen, entries, load_agents
from perdure.launch.children import Child, Say
from perdure.launch.front_door import require_authentication
from perdure.launch.listeners import bound, port_of
from perdure.launch.parts import run
from perdure.local import LocalServices, Server, local_services
from perdure.security.vault import new_key
from perdure.settings import Settings, environment, given, load_settings, wants_colour

# Before any agent is loaded, which puts its folder in front: see `launch.parts.import_parts`.
from perdure.storage.migrate import upgrade

COLOURS = (36, 33, 35, 32, 34, 31)
"""Of the prefixes: ANSI's cyan, yellow, magenta, green, blue, red."""
LOOK_AGAIN = 0.5
"""Seconds between two looks at whether the servers live."""
TRY_IT = (
    """{"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": """
    """{"messageId": "1", "role": "ROLE_USER", "parts": [{"text": "hello"}]}}}"""
)


def run_stack(
    agents: Sequence[str], *, workers: int, data_dir: Path | None, port: int | None, insecure: bool = False
) -> int:
    """Run until Ctrl-C (130), SIGTERM (0), a process says that its settings are wrong (2) or one never comes to be ready (1).
    ConfigError, StorageUnavailable."""
    settings = load_settings(
        storage_type="postgres",
        queue_type="arq",
        database_url="postgresql://of.our/own",  # whatever the environment names stays untouched
        data_dir=data_dir,
        port=port,
        auth={"insecure": True} if insecure else None,
    )
    require_authentication(settings)
    # So that a wrong agent, or a port in use, is one line before anything starts.
    first = next(iter(load_agents(chosen(settings, agents)).values()))
    with bound(settings.host, port_of(first, settings)):
        pass
    lines = Lines(["perdure", "front door", *(f"worker {number + 1}" for number in range(workers))])
    say = lines.speaker("perdure")
    say(f"starting PostgreSQL and Redis, data in {settings.data_dir.absolute()}")
    with local_services(settings.data_dir) as services:
        upgrade(services.database_url)
        ours = _stack_settings(settings, services)
        environ = environment(**ours, **_of_children(settings))
        children = [
            Child(
                "front door",
                ["serve", *agents],
                environ,
                lines.speaker("front door"),
                settings.server.stop_timeout,
            )
        ]
        for number in range(1, workers + 1):
            name = f"worker {number}"
            children.append(
                Child(name, ["worker", *agents], environ, lines.speaker(name), settings.worker.grace)
            )
        file = settings.data_dir.absolute() / "env"
        welcomed: set[str] = set()

        def ready(url: str) -> None:
            _write_env(file, {**_told_to_us(chosen(settings, agents)), **ours, "PERDURE_URL": url})
            if url in welcomed:
                say(f"serving on {url} again")
            else:
                _welcome(say, url, workers, settings, file)
            welcomed.add(url)

        children[0].on_ready = ready
        try:
            code = run(_until_stopped(children, (services.postgres, services.redis), say))
        finally:
            file.unlink(missing_ok=True)
        say("stopping PostgreSQL and Redis")
    for child in children:  # at the very end: it should not have to be looked for above what the others said
        for line in child.why_given_up():
            say(line)
    return code


def _stack_settings(settings: Settings, services: LocalServices) -> dict[str, str]:
    """What makes a process part of this stack: the parts that `perdure up` runs, and commands in another shell."""
    return {
        "STORAGE_TYPE": "postgres",
        "DATABASE_URL": services.database_url,
        "MIGRATIONS_DATABASE_URL": services.database_url,
        "STORAGE__RUN_MIGRATIONS_ON_STARTUP": "false",
        "QUEUE_TYPE": "arq",
        "REDIS_URL": services.redis_url,
        **({} if settings.webhooks.keys is not None else {"WEBHOOKS__KEYS": _webhook_key(settings)}),
    }


def _told_to_us(settings: Settings) -> dict[str, str]:
    """What else holds for this stack: the settings that it was started with, and its agents."""
    here_alone = ("HOST", "PORT", "DATA_DIR", "AGENT", "AGENTS")
    told = {name: value for name, value in given().items() if name not in here_alone}
    if settings.agents is not None:
        found = [(f"{name}=" if name else "", _anywhere(spec)) for spec, name in entries(settings.agents)]
        return {**told, "AGENTS": ",".join(f"{name}{spec}" for name, spec in found)}
    return {**told, "AGENT": _anywhere(settings.agent)} if settings.agent else told


def _anywhere(spec: str) -> str:
    """An agent as another folder's shell finds it, too: a file by its whole path."""
    return str(Path(spec).resolve()) if spec.endswith(".py") else spec


def _of_children(settings: Settings) -> dict[str, str]:
    """The settings of the processes that are started here, and of no others."""
    changes: dict[str, str] = {
        # They write into a pipe, where the default would be JSON without colours.
        "LOG__FORMAT": "console" if settings.log.format == "auto" else settings.log.format,
    }
    if settings.log.contents == "auto" and sys.stdout.isatty():
        changes["LOG__CONTENTS"] = "shown"
    if settings.auth.insecure:
        changes["AUTH__INSECURE"] = "true"
    if settings.port is not None:
        changes["PORT"] = str(settings.port)
    if wants_colour(sys.stdout):
        changes["FORCE_COLOR"] = "1"
    return changes


def _webhook_key(settings: Settings) -> str:
    """One that is made at the first start and kept beside the data, where the settings have none."""
    file = settings.data_dir / "webhooks.key"
    if not file.exists():
        file.touch(mode=0o600)
        file.write_text(new_key(), encoding="utf-8")
    return file.read_text(encoding="utf-8")


def _write_env(file: Path, values: Mapping[str, str]) -> None:
    """For `set -a; . FILE` in a shell. It has passwords: for this user alone, from its first moment."""
    file.unlink(missing_ok=True)  # of a stack that was killed; whoever may read that one would read this
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as stream:
        stream.writelines(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _welcome(say: Say, url: str, workers: int, settings: Settings, file: Path) -> None:
    say(f"serving on {url} with {workers} worker{'s' if workers > 1 else ''}; Ctrl-C stops everything.")
    if settings.ops.enabled and settings.ops.port is None:
        say(f"the page for operators: {url}/ops")
    say(
        "for `perdure send hello`, `perdure tasks list` and the other commands in another shell, there first:"
    )
    say(f"set -a; . {shlex.quote(str(file))}; set +a")
    if settings.auth.api_keys:
        say("callers need a key. Make one there: export PERDURE_KEY=$(perdure keys create --owner me)")
    elif settings.auth.is_on:
        say("callers have to say who they are: put a token of theirs into PERDURE_KEY")
    header = '-H "authorization: Bearer $PERDURE_KEY" ' if settings.auth.is_on else ""
    say("without them:")
    say(f"curl {url} {header}-H 'content-type: application/json' -d {shlex.quote(TRY_IT)}")


async def _until_stopped(children: Sequence[Child], servers: Sequence[Server], say: Say) -> int:
    asked: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def stop(code: int) -> None:
        if not asked.done():
            asked.set_result(code)
        elif code == 130:  # a second Ctrl-C: somebody is in a hurry
            for child in children:
                child.signal(signal.SIGKILL)

    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGINT, stop, 130)
    loop.add_signal_handler(signal.SIGTERM, stop, 0)
    keepers = [asyncio.create_task(child.keep(say)) for child in children]
    kept = asyncio.create_task(_keep(servers, say))
    try:
        either: list[asyncio.Future[Any]] = [asked, kept, *keepers]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        say("stopping")
    finally:
        for child in children[:1]:
            await child.stop()
        await asyncio.gather(*(child.stop() for child in children[1:]))
        await asyncio.gather(*keepers)
        kept.cancel()
        with suppress(asyncio.CancelledError):
            await kept
    return asked.result() if asked.done() else max(child.given_up for child in children)


async def _keep(servers: Sequence[Server], say: Say) -> None:
    """Start a server again that has died: its address stays. ConfigError when it does not come up."""
    while True:
        await asyncio.sleep(LOOK_AGAIN)
        for server in servers:
            if not server.running:
                say(f"{server.name} has ended; it is started again")
                await asyncio.to_thread(server.start)
                say(f"{server.name} runs again")


class Lines:
    """One stream for all: each line behind the name of who said it."""

    def __init__(self, names: Sequence[str]) -> None:
        self._wide = max(map(len, names))
        self._coloured = wants_colour(sys.stdout)
        self._colours = {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}

    def speaker(self, name: str) -> Say:
        """What prints a line as `name`'s."""
        prefix = f"{name:{self._wide}} | "
        if self._coloured:
            prefix = f"\x1b[{self._colours[name]}m{prefix}\x1b[0m"
        return lambda line: self._print(prefix + line)

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except BrokenPipeError:  # `perdure up | head`: stop in order, into nowhere
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            os.kill(os.getpid(), signal.SIGTERM)
