"""What the front door and the worker both need: where they live, how they run, how their errors are told.

The only module that knows where `api` and `worker` live: beside the package in a checkout, inside it in an installed wheel.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from perdure.agent import Agent
from perdure.agents import Agents, by_name, load_agents
from perdure.backends import make_queue, make_storage
from perdure.errors import ConfigError, QueueUnavailable, StorageUnavailable
from perdure.settings import Settings
from perdure.turns.stuck import left_behind

T = TypeVar("T")


def import_parts(settings: Settings) -> None:
    """Before the agent is loaded: with it the author's folder goes to the front of the path, and an `alembic/` of theirs would
    be taken for the library."""
    make_storage(settings)
    make_queue(settings)


def loaded(agents: Agents | Agent | None, settings: Settings) -> Agents:
    """Those that were given, or those of the settings. ConfigError."""
    return load_agents(settings) if agents is None else by_name(agents)


def ours(name: str) -> ModuleType:
    """Import a module of ours by its name in a checkout, such as `api.app`.

    In a wheel it is `perdure.api.app`. So it is called in a checkout as well, loaded by its path, unless it has been imported
    from there as `api.app`: the names `api` and `worker` are left to the author's own modules, which may be on the path first.
    """
    folder, _, rest = name.partition(".")
    package = Path(__file__).resolve().parents[1]
    if not (package / folder / "__init__.py").is_file():
        path = package.parent / folder
        if folder in sys.modules and str(path) in map(str, getattr(sys.modules[folder], "__path__", ())):
            return import_module(name)
        _load_package(f"perdure.{folder}", path)
    return import_module(f"perdure.{folder}.{rest}")


def _load_package(name: str, path: Path) -> None:
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    if spec is None or spec.loader is None or not (path / "__init__.py").is_file():
        raise ConfigError(f"{path} is missing from this installation: install perdure again")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on uvloop where there is one."""
    try:
        from uvloop import new_event_loop as loop_factory
    except ImportError:  # Windows
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        return runner.run(main)
    finally:
        # Closing waits for what does not end; the process ends without it (`ending_for_sure`).
        if not left_behind:
            runner.close()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr: exit code 2 for ConfigError, 1 for a service that is away, 130 for Ctrl-C."""
    try:
        yield
    except ConfigError as error:
        one_line(error)
        raise SystemExit(2) from None
    except (StorageUnavailable, QueueUnavailable) as error:
        one_line(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def one_line(error: Exception | str) -> None:
    """Tell of an error that ends the process."""
    print(f"perdure: {' '.join(str(error).split())}", file=sys.stderr)
