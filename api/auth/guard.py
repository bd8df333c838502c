"""The guard at the door: no request passes that does not say who sends it, but for the few paths that are for everybody.

A middleware around the router, so that no route can be added that it does not cover, and none learns of a path before.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Collection
from contextlib import suppress

import structlog
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from perdure.owners import is_caller
from perdure.settings import AuthSettings
from perdure.storage.keys import Keys

from .. import jsonrpc, rest
from ..codes import OtherSite, refusal
from . import ANYBODY, CALLER, Caller
from .credentials import API_KEY_HEADER, BASIC, Refused, credential_in
from .keys import BootstrapKey, KeyRing
from .proxies import Proxies
from .refusals import RefusalLog
from .tokens import Tokens

log = structlog.get_logger(__name__)

MOST_READ = 64 * 1024
"""Bytes of a stranger's body that are looked at, for the id that the answer has to repeat. The rest is thrown away."""
READ_SECONDS = 5.0


class Authenticator:
    """All the ways to say who one is that the settings name. A credential goes before the word of a proxy."""

    def __init__(self, settings: AuthSettings, storage: Keys) -> None:
        key = settings.bootstrap_key
        self._bootstrap = BootstrapKey(key.get_secret_value()) if key else None
        self._keys = KeyRing(storage, memory=settings.cache) if settings.api_keys else None
        self._tokens = Tokens(settings) if settings.jwt_issuer or settings.oidc_issuer else None
        self._proxies = Proxies(settings)

    async def caller(self, request: Request, *, browsed: bool = False) -> Caller:
        """Who sent it. `Refused` when that is not proved."""
        credential = credential_in(request.headers, browsed=browsed)
        if credential is not None:
            return await self._bearer_of(credential, is_key=API_KEY_HEADER in request.headers)
        vouched = self._proxies.caller(request)
        if vouched is None:
            raise Refused("no credential", error="")
        return vouched

    async def _bearer_of(self, credential: str, *, is_key: bool) -> Caller:
        found = self._bootstrap.caller(credential) if self._bootstrap else None
        if found is None and self._keys:
            found = await self._keys.caller(credential)
        if found is None and self._tokens and not is_key:
            found = await self._tokens.caller(credential)
        if found is None:
            raise Refused("no such key")
        return found


class Guard:
    """ASGI middleware: puts the caller into the scope, or answers 401. Without an `authenticator` everybody is `ANYBODY`.

    What is at and under the paths `browsed` is looked at in a browser, which asks its user for a key and then sends it by itself:
    also with requests that pages of other sites make it send. Those are refused unless they only look.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        authenticator: Authenticator | None,
        public: Collection[str],
        browsed: Collection[str] = (),
    ) -> None:
        self._app = app
        self._authenticator = authenticator
        self._public = frozenset(public)
        self._browsed = frozenset(browsed)
        self._below = tuple(f"{place}/" for place in browsed)
        self._refusals = RefusalLog()

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if self._authenticator is None and scope["type"] == "http" and not self._is_browsed(scope):
            scope[CALLER] = ANYBODY
            return self._app(scope, receive, send)
        return self._guarded(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            request = Request(scope, receive)
            try:
                await self._let_in(request)
            except Exception as error:
                await self._refuse(error, request, send)
                return
        elif scope["type"] != "lifespan":
            return  # there are no websockets here
        caller = scope.get(CALLER)
        with bound_contextvars(**({"caller": caller.owner} if caller else {})):
            await self._app(scope, receive, send)

    async def _let_in(self, request: Request) -> None:
        browsed = self._is_browsed(request.scope)
        if browsed and is_of_other_site(request):
            raise OtherSite("a page of another site cannot do this")
        if self._authenticator is None:
            request.scope[CALLER] = ANYBODY
        elif _path(request.scope) not in self._public:
            caller = await self._authenticator.caller(request, browsed=browsed)
            if not is_caller(caller.owner):
                raise Refused("a name that is none of a caller")
            request.scope[CALLER] = caller

    def _is_browsed(self, scope: Scope) -> bool:
        path = _path(scope)
        return path in self._browsed or path.startswith(self._below)

    async def _refuse(self, error: Exception, request: Request, send: Send) -> None:
        if isinstance(error, Refused):
            self._refusals.tell(request, error)
        told = refusal(error)
        body = await _read(request)
        if _path(request.scope) == "/":
            answer = jsonrpc.refused(told, jsonrpc.reply_to(request, body))
        else:
            answer = rest.refused(told, request)
        if isinstance(error, Refused) and self._is_browsed(request.scope):
            answer.headers.append("WWW-Authenticate", BASIC)
        await answer(request.scope, request.receive, send)


def is_of_other_site(request: Request) -> bool:
    """Whether a page of another site had a browser send this, and not only to look (Fetch Metadata; RFC 6454). Programs that are
    no browsers send neither header."""
    if request.method in ("GET", "HEAD", "OPTIONS"):
        return False
    site, origin = request.headers.get("Sec-Fetch-Site"), request.headers.get("Origin")
    if site is not None:
        return site not in ("same-origin", "none")
    return origin is not None and origin.partition("://")[2] != request.headers.get("Host")


def _path(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", "")) or "/"


async def _read(request: Request) -> bytes:
    """The body, empty if it is longer than `MOST_READ`. It is read to its end: many clients look for an answer only then."""
    body = b""
    with suppress(TimeoutError, ClientDisconnect):
        async with asyncio.timeout(READ_SECONDS):
            async for chunk in request.stream():
                body = body + chunk if len(body) <= MOST_READ else body
    return body if len(body) <= MOST_READ else b""
