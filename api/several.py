"""Several agents behind one front door: each below `/agents/{name}`, where all is as for an only agent; `/agents` lists them.

What is asked below an agent's path is asked of an application of its own, with the path as its root. In between stand what counts
and who is let in, which are the same for all of them. At the root is the first agent, and by a tenant's name each of the others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Collection, Mapping
from functools import partial

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send
from structlog.contextvars import bound_contextvars

from perdure.agent import Agent
from perdure.owners import ONLY

from . import rest
from .cached import Cached, cached
from .card import AsTenant
from .codes import MethodNotFound, refusal

PREFIX = "/agents"
AGENT = "perdure.agent"
"""The member of the ASGI scope that names the agent whose path it is."""
_ANY_METHOD = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def placed(name: str, agent: Agent) -> tuple[Agent, AsTenant | None]:
    """An agent with the address that it has among others, below the server's, and where it is reached as a tenant. What its
    config says is the server's address; one with a path of its own is the agent's already, whoever leads it here."""
    url = agent.config.deployment.url
    if name == ONLY or (url.path or "/") != "/":
        return agent, None
    server = str(url).rstrip("/")
    return agent.moved_to(f"{server}{PREFIX}/{name}"), AsTenant(f"{server}/", name)


def routes(agents: Mapping[str, Agent]) -> list[Route]:
    """What is at the root alone: which agents there are, and that there is no other."""
    index = cached(
        orjson.dumps({"agents": [_listed(name, agent) for name, agent in agents.items()]}), "application/json"
    )
    nobody = partial(_nobody, agents)
    return [
        Route(PREFIX, partial(_index, index)),
        Route(PREFIX + "/{name}", nobody, methods=_ANY_METHOD),
        Route(PREFIX + "/{name}/{rest:path}", nobody, methods=_ANY_METHOD),
    ]


def _listed(name: str, agent: Agent) -> dict[str, str]:
    url = str(agent.config.deployment.url).rstrip("/")
    return {
        "name": name,
        "description": agent.config.description or agent.config.name,
        "url": url,
        "card": f"{url}/.well-known/agent-card.json",
    }


async def _index(index: Cached, request: Request) -> Response:
    return index.answer(request)


async def _nobody(agents: Collection[str], request: Request) -> Response:
    name = request.path_params["name"]
    told = MethodNotFound(f"there is no agent {name!r} here; there are: {', '.join(agents)}")
    return rest.refused(refusal(told), request)


class ByPath:
    """ASGI middleware, the first: whose path it is. From here on the agent's path is the root."""

    def __init__(self, app: ASGIApp, *, names: Collection[str]) -> None:
        self._app = app
        self._names = names

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["type"] == "http":
            root: str = scope.get("root_path", "")
            path: str = scope["path"]
            below = path.removeprefix(root).removeprefix(f"{PREFIX}/")
            name = below.partition("/")[0]
            if path.startswith(f"{root}{PREFIX}/") and name in self._names:
                root += f"{PREFIX}/{name}"
                path = path if path != root else f"{root}/"
                scope = {**scope, "root_path": root, "path": path, AGENT: name}
        return self._app(scope, receive, send)


class ToAgent:
    """ASGI middleware, the last: to the application of the agent whose path it is."""

    def __init__(self, app: ASGIApp, *, apps: Mapping[str, ASGIApp]) -> None:
        self._app = app
        self._apps = apps

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        name = scope.get(AGENT)
        return self._app(scope, receive, send) if name is None else self._at(name, scope, receive, send)

    async def _at(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        with bound_contextvars(agent=name):
            await self._apps[name](scope, receive, send)
