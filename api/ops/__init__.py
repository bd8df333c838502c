"""`/ops`: the operators' page. Made on the server, readable without JavaScript; htmx keeps it live, uPlot draws.

Who may see it needs the scope `operate`. What is done by hand goes through `perdure.operating`, and so into the audit.
"""

from __future__ import annotations

from functools import partial

from starlette.datastructures import Headers
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from . import actions, assets, live, pages, webhooks
from .desk import Desk, guarded, nowhere

__all__ = ["Desk", "routes"]


def routes(desk: Desk) -> list[BaseRoute]:
    """Everything below /ops."""
    shown = {
        "": pages.overview,
        "/tasks": pages.tasks,
        "/tasks/{task_id:uuid}": pages.task,
        "/conversations": pages.conversations,
        "/conversation": pages.conversation,
        "/failures": pages.failures,
        "/workers": pages.workers,
        "/webhooks": webhooks.webhooks,
        "/webhooks/{delivery_id:uuid}": webhooks.delivery,
        "/audit": pages.audit,
        "/bulk": pages.bulk,
        "/live": live.changes,
    }
    done = {
        "/tasks/{task_id:uuid}/{action:str}": actions.on_task,
        "/bulk": actions.on_all,
        "/webhooks/{delivery_id:uuid}/{action:str}": actions.on_delivery,
        "/workers/{worker_id:str}/{action:str}": actions.on_worker,
    }
    return [
        Mount("/ops/assets", routes=[Route("/{path:path}", assets.asset)]),
        *(
            Route(f"/ops{path}", partial(guarded, desk, act), methods=["POST"])
            for path, act in done.items()
            if path not in shown
        ),
        *(
            Route(
                f"/ops{path}",
                partial(guarded, desk, show, act=done.get(path)),
                methods=["GET", "POST"] if path in done else ["GET"],
            )
            for path, show in shown.items()
        ),
        _ForBrowsers("/ops/{path:path}", partial(guarded, desk, nowhere)),
    ]


class _ForBrowsers(Route):
    """For people who are lost: programs are answered as at every other path."""

    def matches(self, scope: Scope) -> tuple[Match, Scope]:
        accepted = Headers(scope=scope).get("Accept", "") if scope["type"] == "http" else ""
        # A slash too many is for the router, which leads to the page without it.
        if "text/html" not in accepted or scope["path"].endswith("/"):
            return Match.NONE, {}
        return super().matches(scope)
