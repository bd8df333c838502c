"""What every page has."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from perdure.operating import MOST_AT_ONCE

from .desk import Desk
from .looks import rendered


async def shown(desk: Desk, request: Request, template: str, page: str, **values: Any) -> Response:
    """A page with what every page has: the banner while something is away, and where to look again."""
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return rendered(
        template,
        page=page,
        agent=desk.agent,
        here=target,
        redis_away=desk.redis_away,
        done=_done(request),
        **{"live": "/ops/live", **values},
    )


def _done(request: Request) -> str:
    """What the last action came to. The address says which; it has no words of its own."""
    query = request.query_params
    said = {
        "cancel": "The task is canceled.",
        "force-cancel": "The task is canceled, and its lease is taken away.",
        "retry": "This task is the retry.",
        "drain": "The worker begins no more turns from its next beat on.",
        "resume": "The worker begins turns again from its next beat on.",
        "replay": "It is sent again.",
        "enable": "What waits is sent again.",
    }.get(query.get("done", ""), "")
    if query.get("done") == "all" and query.get("n", "").isdigit() and query.get("left", "").isdigit():
        more = f" More match: it stops after {MOST_AT_ONCE} a time." if query.get("more") == "1" else ""
        said = f"{int(query['n'][:6])} done, {int(query['left'][:6])} left as they were.{more}"
    return said
