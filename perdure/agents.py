"""Which agents a process serves: one, as it has always been, or several, each with a name.

    AGENT=weather.py                        the only one of its deployment; it has no name there
    AGENTS=weather.py,pkg.travel:agent      several: the name of each is that of its config
    AGENTS=forecast=weather.py,travel.py    or one that is given here

A process may serve a part of them: `perdure worker weather.py` beside the same AGENTS.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from perdure import __version__
from perdure.agent import Agent
from perdure.agent.loader import load_agent
from perdure.errors import ConfigError
from perdure.owners import ONLY
from perdure.settings import Settings, listed

Agents = Mapping[str, Agent]
"""By name; an only one has the name `ONLY`. Never empty."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_TAKEN = frozenset(
    {"agents", "docs", "extendedagentcard", "healthz", "metrics", "ops", "readyz", "tasks", "v1"}
)
"""What is at these paths of the front door: an agent's name is a tenant, and so the first part of paths."""


class Named(NamedTuple):
    """One entry of AGENTS: where an agent is, and its name where it is given there."""

    spec: str
    name: str | None


def by_name(agents: Agents | Agent) -> Agents:
    """One agent as the only one."""
    return {ONLY: agents} if isinstance(agents, Agent) else agents


def known_as(agents: Agents) -> tuple[str, str]:
    """The name and the version of what a process is: of its agent, or of Perdure where it serves several."""
    if len(agents) > 1:
        return "perdure", __version__
    (agent,) = agents.values()
    return agent.config.name, agent.config.version


def load_agents(settings: Settings) -> Agents:
    """Those that AGENT or AGENTS names. `ConfigError` with one line."""
    if settings.agents is None:
        if not settings.agent:
            raise ConfigError(
                "which agent? give a file's path or module:attribute, or set AGENT (several: AGENTS)"
            )
        return {ONLY: load_agent(settings.agent)}
    if settings.agent:
        raise ConfigError("AGENT and AGENTS are both set: keep AGENT for an only agent, AGENTS for several")
    found: dict[str, Agent] = {}
    places: dict[str, str] = {}
    for entry in entries(settings.agents):
        agent = load_agent(entry.spec)
        name = checked_name(entry.name or agent.config.name, entry.spec)
        if name.lower() in places:
            raise ConfigError(
                f"{places[name.lower()]} and {entry.spec} are both called {name}: give one of them another name, "
                f"in its config or here as in other={entry.spec}"
            )
        places[name.lower()], found[name] = entry.spec, agent
    return found


def entries(text: str) -> Sequence[Named]:
    """What AGENTS says. `ConfigError` when it says nothing."""
    found = []
    for item in listed(text):
        name, given, spec = item.partition("=")
        found.append(Named(spec.strip(), name.strip()) if given else Named(item, None))
    if not found:
        raise ConfigError(
            "AGENTS names no agent: it is a list of files or module:attribute, divided by commas"
        )
    return found


def is_name(name: str) -> bool:
    """Whether one of several agents may be called that: it stands in URLs, as a tenant and in keys."""
    return _NAME.fullmatch(name) is not None and name.lower() not in _TAKEN


def checked_name(name: str, spec: str) -> str:
    """The name, if it is one. `ConfigError`."""
    if not is_name(name):
        raise ConfigError(
            f"{spec}: {name!r} cannot be the name of one of several agents, since it stands in URLs: take letters, digits and "
            f"., _ or -, at most 63 of them and none of {', '.join(sorted(_TAKEN))}; in the agent's config, or here as in "
            f"name={spec}"
        )
    return name


def chosen(settings: Settings, asked: Sequence[str]) -> Settings:
    """The settings of a process that was told on its command line which agents to serve: several; one; or, where AGENTS is
    set, a part of those, each by its file, its module or its name there. `ConfigError` for one that is not among them."""
    if not asked:
        return settings
    if settings.agents is not None:
        known = entries(settings.agents)
        own = [_entry(each, known) for each in asked]
        return settings.model_copy(update={"agents": ",".join(own), "agent": None})
    if len(asked) == 1 and "=" not in asked[0]:
        return settings.model_copy(update={"agent": asked[0]})
    return settings.model_copy(update={"agents": ",".join(asked), "agent": None})


def _entry(asked: str, known: Sequence[Named]) -> str:
    for entry in known:
        whole = f"{entry.name}={entry.spec}" if entry.name else entry.spec
        if asked in (entry.spec, entry.name, whole) or _same_file(asked, entry.spec):
            return whole
    raise ConfigError(f"{asked} is none of AGENTS, which are {', '.join(entry.spec for entry in known)}")


def _same_file(one: str, other: str) -> bool:
    return one.endswith(".py") and other.endswith(".py") and Path(one).resolve() == Path(other).resolve()
