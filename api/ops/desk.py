"""What every request to the operators' page passes: who asks, from where, and how errors look to a person."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.errors import CallerError, PerdureError, StorageUnavailable, TaskNotFound
from perdure.operating import Operator
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.watch import Watch

from ..auth import OPERATE, Caller, require
from ..codes import InsufficientScope
from .looks import rendered

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Nothing from elsewhere, nothing inline: what a task says cannot run here even if it were not escaped."""
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-store",
}


LOOK_EVERY = 2.0
"""Seconds. All open pages of a process cost one small query in that time."""


@dataclass(slots=True)
class _Look:
    """The last one, shared by all open pages."""

    at: float = -math.inf
    found: object = None


@dataclass(frozen=True, slots=True)
class Desk:
    """What the pages look at. `agent` is its name, `public_host` the one under which it is reached."""

    storage: Storage
    queue: Queue
    watch: Watch
    settings: Settings
    agent: str
    public_host: str
    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server stops: open pages must not hold it up."""
    _look: _Look = field(default_factory=_Look)

    async def standing(self) -> object:
        """How many tasks are open and what the workers do, as of the last two seconds, to be compared; None while the storage is
        away."""
        now = time.monotonic()
        if now - self._look.at >= LOOK_EVERY * 0.9:
            self._look.at = now
            try:
                counts, _ = await self.storage.waiting()
                beats = [each.beat for each in await self.storage.list_workers()]
            except StorageUnavailable:
                self._look.found = None
            else:
                workers = [(beat.worker_id, beat.running, beat.draining) for beat in beats]
                self._look.found = (dict(counts), workers)
        return self._look.found

    @property
    def redis_away(self) -> bool:
        """Whether turns are claimed straight from Postgres meanwhile; as the listener found it, so that no page waits for it."""
        return self.queue.shared and self.watch.degraded

    def operator(self, caller: Caller, request: Request) -> Operator:
        """Who acts."""
        where = request.client.host if request.client else "somewhere"
        name = caller.owner if caller.authenticated else f"{caller.owner} at {where}"
        return Operator(self.storage, self.queue, name)


WALLED = (
    "This front door sees the rows of one owner at a time, as it should. Start another one for operators, with "
    "WORKER_DATABASE_URL as well, and reach it by OPS__PORT or its own address."
)


def sees_one_owner(settings: Settings) -> bool:
    """Whether Postgres shows this process no other owner's rows."""
    return settings.storage.row_security and settings.worker_database_url is None


Page = Callable[[Desk, Request, Caller], Awaitable[Response]]


async def guarded(desk: Desk, show: Page, request: Request, *, act: Page | None = None) -> Response:
    """A page, or the page that says why not."""
    try:
        caller = require(request, OPERATE)
        if not caller.authenticated:
            _refuse_other_names(desk, request)
        if sees_one_owner(desk.settings):
            raise HTTPException(503, WALLED)
        page = act if act and request.method == "POST" else show
        response = await page(desk, request, caller)
    except (PerdureError, HTTPException) as error:
        response = _told(error)
    for name, value in HEADERS.items():
        response.headers.setdefault(name, value)
    return response


async def nowhere(desk: Desk, request: Request, caller: Caller) -> Response:
    """For an address at which nothing is."""
    return trouble(404, "There is no such page", "Its address may be mistyped, or of another version.")


def _told(error: PerdureError | HTTPException) -> Response:
    match error:
        case InsufficientScope():
            return trouble(
                403, "This key may not operate", "It needs the scope operate: see perdure keys create."
            )
        case TaskNotFound():
            return trouble(404, "There is no such task", "It may have been deleted with its conversation.")
        case CallerError():
            return trouble(409, "That is not possible", str(error))
        case StorageUnavailable():
            text = (
                "The task store cannot be reached. Messages are refused meanwhile; what was accepted is safe."
            )
            return trouble(503, "Postgres does not answer", text)
        case HTTPException():
            return trouble(error.status_code, "That did not work", error.detail)
    raise error


def trouble(status: int, title: str, text: str) -> Response:
    """A page about what went wrong."""
    return rendered("trouble.html", status_code=status, title=title, text=text, page="")


def _refuse_other_names(desk: Desk, request: Request) -> None:
    """Without authentication everybody who reaches this server is an operator. A web page that points a name of its own at this
    address (DNS rebinding) must not be among them."""
    host = request.url.hostname or ""
    if host in ("localhost", desk.public_host) or "." not in host or _is_address(host):
        return
    raise HTTPException(
        421, f"{host} is not a name of this server. Set deployment.url to it, or switch on AUTH__."
    )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True
