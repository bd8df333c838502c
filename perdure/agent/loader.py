"""load_agent: the agent that a file's path or `module:attribute` names, without running the file as a script."""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType

from perdure.agent import Agent, declared
from perdure.errors import ConfigError, PerdureError


def load_agent(spec: str) -> Agent:
    """The agent of `path/to/file.py`, `path/to/file.py:attribute`, `module:attribute` or `module`.

    Without an attribute it is the one agent that the file makes, also where the result of `bindufy` is not assigned.
    `ConfigError` with one line when there is none, when there are several, or when the file cannot be loaded.
    """
    place, _, attribute = spec.partition(":")
    known = len(declared)
    module = _load(spec, lambda: _file(Path(place)) if _is_path(place) else _module(place))
    if attribute:
        return _attribute(module, attribute, spec)
    return _only_agent(module, declared[known:], spec)


def _is_path(place: str) -> bool:
    return place.endswith(".py") or "/" in place or Path(place).is_file()


def _load(spec: str, load: Callable[[], ModuleType]) -> ModuleType:
    try:
        return load()
    except PerdureError as error:
        raise ConfigError(f"{spec}: {error}" if not isinstance(error, ConfigError) else str(error)) from None
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{spec} cannot be loaded: {_one_line(error)}") from error


def _file(path: Path) -> ModuleType:
    """Run a file as a module of its own name. Its folder is searched for what it imports, as when Python runs a script."""
    path = path.resolve()
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")
    _search(path.parent)
    name = f"perdure_agent_{sha256(str(path).encode()).hexdigest()[:12]}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look a class's module up
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _module(name: str) -> ModuleType:
    if not all(word.isidentifier() for word in name.split(".")):
        raise ConfigError(f"{name!r} is neither a file nor the name of a module")
    _search(Path.cwd())
    return importlib.import_module(name)


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _attribute(module: ModuleType, attribute: str, spec: str) -> Agent:
    found: object = module
    for name in attribute.split("."):
        if not hasattr(found, name):
            raise ConfigError(f"{spec}: there is no {attribute}")
        found = getattr(found, name)
    if not isinstance(found, Agent):
        raise ConfigError(
            f"{spec} is no agent but {type(found).__name__}: use what bindufy(config, handler) returns"
        )
    return found


def _only_agent(module: ModuleType, new: Sequence[Agent], spec: str) -> Agent:
    """The agents in the module's variables and those it declared: they must come down to one, or one must be called `agent`."""
    named = {name: value for name, value in vars(module).items() if isinstance(value, Agent)}
    if "agent" in named:
        return named["agent"]
    agents = {id(agent): agent for agent in (*named.values(), *(new or _declared_by(module)))}
    if len(agents) == 1:
        return next(iter(agents.values()))
    if not agents:
        raise ConfigError(
            f"{spec} makes no agent: call bindufy(config, handler) in it, not under `if __name__`"
        )
    raise ConfigError(
        f"{spec} makes {len(agents)} agents: say which, as in {spec}:{next(iter(named), 'agent')}"
    )


def _declared_by(module: ModuleType) -> Sequence[Agent]:
    """Those that a module which had been imported before declared then, found by their functions."""
    return [
        agent
        for agent in declared
        if any(
            getattr(each, "__globals__", None) is vars(module)
            for each in (agent.handler, *(function.func for function in agent.functions.values()))
        )
    ]


def _one_line(error: BaseException) -> str:
    """`ModuleNotFoundError: No module named 'x' (my_agent.py, line 3)`."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({Path(error.filename or '').name}, line {error.lineno})"
    where = [
        frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename
    ]
    place = f" ({Path(where[-1].filename).name}, line {where[-1].lineno})" if len(where) > 1 else ""
    said = " ".join(str(error).split())
    return f"{type(error).__name__}: {said}{place}" if said else f"{type(error).__name__}{place}"
