"""Whose a task is: a caller's, and where several agents share a deployment, a caller's at an agent.

The storage knows one word, the owner. It stands in every key, in every WHERE of a caller's statements and in the policies of row
security. So the callers of a named agent own under the agent's name: the wall between agents is the wall between owners, and
there is no second one that could be forgotten somewhere. An only agent has no name here, and its callers own as themselves.
"""

from __future__ import annotations

ONLY = ""
"""The name of an agent that is alone in its deployment."""

_BETWEEN = "\x1f"
"""ASCII's unit separator: in no agent's name, and no caller may have it in his."""


def owner_at(agent: str, caller: str) -> str:
    """What a caller owns as at an agent."""
    return f"{agent}{_BETWEEN}{caller}" if agent else caller


def agent_of(owner: str) -> str:
    """The agent at which somebody owns; `ONLY` for one that is alone."""
    agent, between, _ = owner.partition(_BETWEEN)
    return agent if between else ONLY


def caller_of(owner: str) -> str:
    """The caller that an owner is, at whatever agent."""
    agent, between, caller = owner.partition(_BETWEEN)
    return caller if between else agent


def shown(owner: str) -> str:
    """An owner, for people."""
    return f"{caller_of(owner)} at {agent}" if (agent := agent_of(owner)) else owner


def is_caller(name: str) -> bool:
    """Whether a caller may have this name: it cannot be taken for that of a caller at an agent."""
    return _BETWEEN not in name
