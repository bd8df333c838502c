"""The filter of the list of tasks, in its URL: what can be seen can be sent to a colleague."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl, urlencode

from starlette.exceptions import HTTPException

from perdure.owners import agent_of, caller_of
from perdure.storage.operators import TaskFilter
from perdure.tasks import TaskState

AGES = {"5m": 300.0, "1h": 3600.0, "1d": 86400.0, "7d": 604800.0}
_LONGEST = 500


def read_filter(query: Mapping[str, str]) -> TaskFilter:
    """What a URL or a form asks for. Empty members count as not given."""
    given = {name: value.strip() for name, value in query.items() if value.strip()}
    if any(len(value) > _LONGEST or "\x00" in value for value in given.values()):
        raise HTTPException(400, f"A filter may have {_LONGEST} characters.")
    return TaskFilter(
        state=_state(given.get("state")),
        owner=given.get("owner"),
        agent=given.get("agent"),
        context_id=given.get("context"),
        worker=given.get("worker"),
        fingerprint=given.get("fingerprint"),
        older=_age(given.get("older")),
        newer=_age(given.get("newer")),
        error=given.get("error"),
        text=given.get("text"),
    )


def as_query(wanted: TaskFilter, **more: str) -> str:
    """The same as a query, without the question mark."""
    ages = {seconds: name for name, seconds in AGES.items()}
    members = {
        "state": wanted.state.value if wanted.state else None,
        "owner": wanted.owner,
        "agent": wanted.agent,
        "context": wanted.context_id,
        "worker": wanted.worker,
        "fingerprint": wanted.fingerprint,
        "older": ages.get(wanted.older) if wanted.older else None,
        "newer": ages.get(wanted.newer) if wanted.newer else None,
        "error": wanted.error,
        "text": wanted.text,
    }
    return urlencode({name: value for name, value in {**members, **more}.items() if value})


def of_owner(owner: str) -> str:
    """A part of a query: an owner, as the filter and the page of a conversation take it."""
    agent = agent_of(owner)
    return urlencode({"owner": caller_of(owner), **({"agent": agent} if agent else {})})


def members(wanted: TaskFilter) -> list[tuple[str, str]]:
    """The same for a form's hidden fields."""
    return parse_qsl(as_query(wanted))


def _state(name: str | None) -> TaskState | None:
    try:
        return TaskState(name) if name else None
    except ValueError:
        raise HTTPException(400, "There is no such state.") from None


def _age(name: str | None) -> float | None:
    if name is None:
        return None
    if name not in AGES:
        raise HTTPException(400, f"An age is one of {', '.join(AGES)}.")
    return AGES[name]
