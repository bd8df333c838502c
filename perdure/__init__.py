"""Perdure: a durable task server for A2A agents.

An agent is a config and a function: `bindufy(config, handler)`. These are the names that its author needs; how to test a
handler is in `perdure.testing`, everything else belongs to the server.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.agent import Agent, Turn, bindufy
    from perdure.agent.skills.functions import skill
    from perdure.errors import AgentError, AuthRequired, InputRequired, Rejected, Retry
    from perdure.tasks import (
        Artifact,
        DataPart,
        Message,
        Part,
        RawPart,
        TaskState,
        TextPart,
        UrlPart,
    )

__version__ = "0.1.0"

__all__ = [
    "Agent",
    "AgentError",
    "Artifact",
    "AuthRequired",
    "DataPart",
    "InputRequired",
    "Message",
    "Part",
    "RawPart",
    "Rejected",
    "Retry",
    "TaskState",
    "TextPart",
    "Turn",
    "UrlPart",
    "__version__",
    "bindufy",
    "skill",
]

_HOMES = {
    "perdure.agent": {"Agent", "Turn", "bindufy"},
    "perdure.errors": {"AgentError", "AuthRequired", "InputRequired", "Rejected", "Retry"},
    "perdure.agent.skills.functions": {"skill"},
    "perdure.tasks": {
        "Artifact",
        "DataPart",
        "Message",
        "Part",
        "RawPart",
        "TaskState",
        "TextPart",
        "UrlPart",
    },
}


def __getattr__(name: str) -> Any:
    """Fetch a public name when it is first asked for: `perdure --version` needs no pydantic."""
    for home, names in _HOMES.items():
        if name in names:
            globals()[name] = found = getattr(import_module(home), name)
            return found
    raise AttributeError(f"module 'perdure' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
