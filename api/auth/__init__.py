"""Who is calling, and what they may do.

`guard.Guard` stands before every route and finds out; what comes after it asks here. A route of its own kind does so in its first
line, and what it raises becomes an answer:

    async def endpoint(request: Request) -> Response:
        caller = require(request, OPERATE)

A request that the guard has not seen has no caller, and fails.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from starlette.requests import Request

from perdure.security.schemes import SCOPES
from perdure.tasks import ANONYMOUS

from ..codes import InsufficientScope

READ, WRITE, OPERATE = SCOPES

CALLER = "perdure.caller"
"""The member of the ASGI scope that holds the caller."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Whoever sent a request. What `owner` stores is found again by the same owner only."""

    owner: str
    authenticated: bool = False
    """Whether it proved who it is."""
    scopes: frozenset[str] = frozenset()

    def require(self, scope: str) -> None:
        """`InsufficientScope` unless it may do what needs `scope`."""
        if scope not in self.scopes:
            raise InsufficientScope(scope)


ANYBODY = Caller(ANONYMOUS, scopes=frozenset(SCOPES))
"""Everybody, while authentication is off."""


def known(owner: str, scopes: Iterable[str]) -> Caller:
    """A caller that proved who it is."""
    return Caller(owner, authenticated=True, scopes=frozenset(scopes))


def identify(request: Request) -> Caller:
    """The caller of a request."""
    caller: Caller = request.scope[CALLER]
    return caller


def require(request: Request, scope: str) -> Caller:
    """The caller of a request, who must have the scope: `InsufficientScope`."""
    caller = identify(request)
    caller.require(scope)
    return caller
