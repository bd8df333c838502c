"""The worker, as a process."""

from __future__ import annotations

import signal
from collections.abc import Callable

from perdure import logs
from perdure.agent import Agent
from perdure.agents import Agents
from perdure.errors import ConfigError
from perdure.launch.parts import import_parts, loaded, one_line_errors, ours, run
from perdure.settings import Settings, load_settings
from perdure.turns.stuck import ending_for_sure


def work(
    agents: Agents | Agent | None = None,
    settings: Settings | None = None,
    *,
    finds_name: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run turns of an agent, or of several by their names (None: those that AGENT or AGENTS names) until SIGTERM, then return.
    `finds_name`: where tasks wait for one of several agents that is called as the only one here, serve those. `ready` is called
    with the worker's id once it takes tasks.

    Ends the process as `serve` does."""
    with ending_for_sure(), one_line_errors():
        settings = settings or load_settings()
        logs.set_up(settings.log)
        if settings.storage_type == "memory":
            raise ConfigError(
                "a worker needs STORAGE_TYPE=postgres: it cannot see the tasks in another process's memory "
                "(`perdure serve` alone runs the agent as well)"
            )
        import_parts(settings)
        main = ours("worker.main")
        working = main.work(loaded(agents, settings), settings, finds_name=finds_name, ready=ready)
        if run(working) == signal.SIGINT:
            raise KeyboardInterrupt
