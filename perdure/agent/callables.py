"""What kind of function an author gave, and so how it is run."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, Literal

from perdure.errors import ConfigError

Handler = Callable[..., Any]
Kind = Literal["function", "coroutine", "generator", "async generator"]

UNBOUND = "a method has to belong to an object: give MyAgent().method, not MyAgent.method"


def kind_of(handler: Handler) -> Kind:
    """`ConfigError` for what cannot be called."""
    if not callable(handler):
        raise ConfigError(f"the handler must be a function, not {type(handler).__name__}")
    inner = _unwrapped(handler)
    if inspect.isasyncgenfunction(inner):
        return "async generator"
    if inspect.isgeneratorfunction(inner):
        return "generator"
    return "coroutine" if inspect.iscoroutinefunction(inner) else "function"


def _unwrapped(handler: Handler) -> Handler:
    """The function that a partial or an object with `__call__` stands for."""
    inner = inspect.unwrap(handler)
    while hasattr(inner, "func"):
        inner = inner.func
    if inspect.isfunction(inner) or inspect.ismethod(inner) or inspect.isbuiltin(inner):
        return inner
    method: Handler = getattr(inner, "__call__", inner)  # noqa: B004 - wanted is the method, not the answer
    return method


def takes_turn(handler: Handler) -> bool:
    """Whether it takes (messages, turn), and not (messages) alone. `ConfigError` for one that takes something else."""
    try:
        parameters = inspect.signature(handler).parameters.values()
    except (TypeError, ValueError):  # a builtin that does not tell: it gets the messages
        return False
    positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    starred = any(p.kind is p.VAR_POSITIONAL for p in parameters)
    needed = [p for p in positional if p.default is p.empty]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
    names = [p.name for p in positional]
    if names[:1] == ["self"]:
        raise ConfigError(UNBOUND)
    if len(needed) > 2 or keywords or not (positional or starred) or names[:1] == ["turn"]:
        raise ConfigError(
            f"the handler must take (messages) or (messages, turn), not {inspect.signature(handler)}; "
            "a function with other parameters is a skill: mark it with @skill"
        )
    return len(needed) == 2 or (len(positional) > 1 and positional[1].name == "turn")
