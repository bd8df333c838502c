"""Who is calling. Authentication is off: everybody is the same, named caller."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.requests import Request

from perdure.tasks import ANONYMOUS


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. What `owner` stores is found again by the same owner only."""

    owner: str
    authenticated: bool = False
    """Whether it proved who it is."""


_ANYBODY = Caller(ANONYMOUS)


def identify(request: Request) -> Caller:
    """The caller of a request."""
    return _ANYBODY
