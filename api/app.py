"""create_app: what is mounted where. Opening and closing the storage, the queue and the watch is the business of the lifespan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import BaseRoute, Route
from starlette.types import ASGIApp

from perdure.agent import Agent
from perdure.agents import Agents, by_name
from perdure.cards.signatures import JWKS_PATH, CardKey, read_key
from perdure.errors import CallerError
from perdure.owners import ONLY
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.watch import Watch

from . import card, docs, health, jsonrpc, ops, rest
from .auth.guard import Authenticator, Guard
from .auth.schemes import with_security
from .bounds import bounds_of
from .cards import Cards, cards_of
from .connection import SlowReaders, SlowSenders
from .limits import BodyLimit, refuse_late
from .media_types import Modes
from .metrics import Metrics
from .operations import Door
from .own_port import OwnPort
from .rates import Rates
from .several import PREFIX, ByPath, ToAgent, placed
from .several import routes as routes_of_several
from .straight import Straight
from .task_manager import TaskManager
from .traced import Traced

PUBLIC = (
    "/.well-known/agent-card.json",
    "/.well-known/agent.json",
    JWKS_PATH,
    "/healthz",
    "/readyz",
    *docs.PATHS,
    *ops.assets.PATHS,
)
"""For everybody. The document and its page tell no more than the card does, and how to authenticate is in them."""

BROWSED = ("/ops",)
"""Where pages for operators are, who look at them in a browser."""


class Lifespan(Protocol):
    """Makes what is open while the app serves."""

    def __call__(self, app: Starlette) -> AbstractAsyncContextManager[Any]: ...


def create_app(
    agents: Agents | Agent,
    storage: Storage,
    queue: Queue,
    watch: Watch,
    settings: Settings,
    *,
    lifespan: Lifespan | None = None,
) -> Starlette:
    """The front door of an agent, or of several. `lifespan` opens storage, queue and watch, and closes them; `state.manager` has
    the operations, of the first agent."""
    served = {name: with_security(agent, settings.auth) for name, agent in by_name(agents).items()}
    sides = _sides(served, storage, queue, watch, settings)
    first = next(iter(sides.values()))
    several = ONLY not in sides
    shown = {name: side.agent for name, side in sides.items()}
    desk = ops.Desk(
        storage,
        queue,
        watch,
        settings,
        ", ".join(agent.config.name for agent in shown.values()),
        public_host=first.agent.config.deployment.url.host or "",
    )
    root = first if not several else first.with_tenants({name: side.door for name, side in sides.items()})
    refusing: Any = {HTTPException: rest.no_route, CallerError: rest.refuse}
    app = Starlette(
        routes=[
            *(routes_of_several(shown) if several else ()),
            Route("/healthz", health.healthz),
            Route(
                "/readyz", partial(health.readyz, storage, queue, settings, tuple(sides) if several else ())
            ),
            Route("/metrics", Metrics(storage, queue, settings, tuple(sides) if several else ()).__call__),
            *(ops.routes(desk) if settings.ops.enabled else ()),
            *root.routes(settings),
        ],
        middleware=[
            *((Middleware(ByPath, names=sides.keys()),) if several else ()),
            Middleware(Traced),
            Middleware(OwnPort, port=settings.ops.port),
            Middleware(SlowReaders, seconds=settings.server.slow_reader),
            Middleware(SlowSenders, seconds=settings.server.slow_sender, refuse=refuse_late),
            Middleware(BodyLimit, max_bytes=settings.server.max_body_bytes),
            Middleware(
                Guard,
                authenticator=Authenticator(settings.auth, storage) if settings.auth.is_on else None,
                public=(*PUBLIC, PREFIX) if several else PUBLIC,
                browsed=BROWSED,
            ),
            *((Middleware(ToAgent, apps=_apps(sides, settings, refusing)),) if several else ()),
            Middleware(Straight, rpc=root.rpc),
        ],
        exception_handlers=refusing,
        lifespan=lifespan,
    )
    app.state.manager = first.door.manager
    app.state.hang_up = desk.leaving.set
    return app


@dataclass(frozen=True)
class Side:
    """What the front door has of an agent."""

    agent: Agent
    door: Door
    cards: Cards
    key: CardKey | None

    def with_tenants(self, doors: Mapping[str, Door]) -> Side:
        """The root's, of the first of several agents."""
        return replace(self, door=replace(self.door, tenants=doors))

    @cached_property
    def rpc(self) -> ASGIApp:
        """`POST /`."""
        return jsonrpc.Endpoint(self.door)

    def routes(self, settings: Settings) -> Sequence[BaseRoute]:
        """All that is there for callers."""
        show_card = card.endpoint(self.cards.public)
        keys = self.key.jwks if self.key and settings.card.serve_jwks else None
        return [
            Route("/", self.rpc, methods=["POST"]),
            Route("/.well-known/agent-card.json", show_card),
            Route("/.well-known/agent.json", show_card),
            Route(JWKS_PATH, card.endpoint(keys)),
            *docs.routes(self.agent.config),
            *rest.routes(self.door),
        ]


def _sides(
    agents: Agents, storage: Storage, queue: Queue, watch: Watch, settings: Settings
) -> Mapping[str, Side]:
    """Settings and limits are the same for all of them."""
    key, rates, bounds = read_key(settings.card), Rates(settings.server), bounds_of(storage, settings.server)
    sides = {}
    for name, unplaced in agents.items():
        agent, also = placed(name, unplaced)
        manager = TaskManager(
            storage,
            queue,
            watch,
            settings.server,
            agent.config,
            egress=settings.webhooks.egress(),
            own_webhook=settings.webhook_url is not None,
            agent=name,
            bounds=bounds,
        )
        cards = cards_of(agent, key, also)
        door = Door(
            manager,
            settings.server,
            Modes(agent),
            extended_card=cards.extended,
            extensions=cards.extensions,
            rates=rates,
            direct_replies=agent.config.direct_replies,
            agent=name,
        )
        sides[name] = Side(agent, door, cards, key)
    return sides


def _apps(sides: Mapping[str, Side], settings: Settings, refusing: Any) -> Mapping[str, Starlette]:
    return {
        name: Starlette(
            routes=side.routes(settings),
            middleware=[Middleware(Straight, rpc=side.rpc)],
            exception_handlers=refusing,
        )
        for name, side in sides.items()
    }
