"""create_app: what is mounted where. Opening and closing the storage, the queue and the watch is the business of the lifespan."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.routing import Route

from perdure.agent import Agent
from perdure.card_signatures import JWKS_PATH, read_key
from perdure.errors import CallerError
from perdure.queue import Queue
from perdure.settings import Settings
from perdure.storage import Storage
from perdure.watch import Watch

from . import card, docs, health, jsonrpc, ops, rest
from .auth.guard import Authenticator, Guard
from .auth.schemes import with_security
from .cards import cards_of
from .connection import SlowReaders, SlowSenders
from .limits import BodyLimit, refuse_late
from .media_types import Modes
from .metrics import Metrics
from .operations import Door
from .own_port import OwnPort
from .rates import Rates
from .task_manager import TaskManager

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
    agent: Agent,
    storage: Storage,
    queue: Queue,
    watch: Watch,
    settings: Settings,
    *,
    lifespan: Lifespan | None = None,
) -> Starlette:
    """The front door of an agent. `lifespan` opens storage, queue and watch, and closes them; `state.manager` has the
    operations."""
    agent = with_security(agent, settings.auth)
    manager = TaskManager(
        storage,
        queue,
        watch,
        settings.server,
        agent.config,
        egress=settings.webhooks.egress(),
        own_webhook=settings.webhook_url is not None,
    )
    key = read_key(settings.card)
    cards = cards_of(agent, key)
    door = Door(
        manager,
        settings.server,
        Modes(agent),
        extended_card=cards.extended,
        extensions=cards.extensions,
        rates=Rates(settings.server),
        direct_replies=agent.config.direct_replies,
    )
    show_card = card.endpoint(cards.public)
    desk = ops.Desk(
        storage, queue, watch, settings, agent.config.name, public_host=agent.config.deployment.url.host or ""
    )
    app = Starlette(
        routes=[
            Route("/", jsonrpc.Endpoint(door), methods=["POST"]),
            Route("/.well-known/agent-card.json", show_card),
            Route("/.well-known/agent.json", show_card),
            Route(JWKS_PATH, card.endpoint(key.jwks if key and settings.card.serve_jwks else None)),
            Route("/healthz", health.healthz),
            Route("/readyz", partial(health.readyz, storage, queue, settings)),
            Route("/metrics", Metrics(storage, queue, settings).__call__),
            *docs.routes(agent.config),
            *(ops.routes(desk) if settings.ops.enabled else ()),
            *rest.routes(door),
        ],
        middleware=[
            Middleware(OwnPort, port=settings.ops.port),
            Middleware(SlowReaders, seconds=settings.server.slow_reader),
            Middleware(SlowSenders, seconds=settings.server.slow_sender, refuse=refuse_late),
            Middleware(BodyLimit, max_bytes=settings.server.max_body_bytes),
            Middleware(
                Guard,
                authenticator=Authenticator(settings.auth, storage) if settings.auth.is_on else None,
                public=PUBLIC,
                browsed=BROWSED,
            ),
        ],
        exception_handlers={HTTPException: rest.no_route, CallerError: rest.refuse},
        lifespan=lifespan,
    )
    app.state.manager = manager
    app.state.hang_up = desk.leaving.set
    return app
