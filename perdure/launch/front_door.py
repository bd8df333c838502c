"""The front door: as an ASGI application, and as a server."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import structlog

from perdure import logs, tracing
from perdure.agent import Agent
from perdure.agents import Agents, by_name, known_as
from perdure.backends import make_queue, make_storage, opened, require_keys
from perdure.errors import ConfigError
from perdure.launch import processes
from perdure.launch.listeners import address, allow_many_files, bound, is_loopback, ops_port, port_of, url_of
from perdure.launch.parts import import_parts, loaded, one_line_errors, ours, run
from perdure.launch.server import Application, on_signal, server_of
from perdure.memory import keep_what_is_loaded
from perdure.settings import Settings, load_settings
from perdure.turns.stuck import ending_for_sure
from perdure.watch import Watch

log = structlog.get_logger(__name__)


def asgi(agents: Agents | Agent, settings: Settings) -> Application:
    """The front door of an agent, or of several by their names, as an ASGI application (a Starlette), for `serve` or another ASGI
    server with one process.

    Its lifespan opens the storage and the queue and, with QUEUE_TYPE=inline, runs the turns in this process.
    Startup raises StorageUnavailable when the database does not answer in time. ConfigError where other machines could come in
    without saying who they are: HOST is believed to be what the other server listens on, and so is PORT where it is set.
    """
    served = by_name(agents)
    if settings.port:
        served = _served_at(served, address(settings.host, settings.port))
    require_authentication(settings)
    require_keys(served.values(), settings)
    _require_role_for_turns(settings)
    storage, queue = make_storage(settings), make_queue(settings)
    watch = Watch(storage, queue, refresh=settings.server.refresh)

    @asynccontextmanager
    async def lifespan(_: Any) -> AsyncIterator[None]:
        async with AsyncExitStack() as stack:
            service, version = known_as(served)
            await stack.enter_async_context(tracing.exporting(settings, service=service, version=version))
            await stack.enter_async_context(opened(storage, queue, watch))
            if not (settings.auth.is_on or is_loopback(settings.host)):
                log.warning("auth.off", host=settings.host, remedy="see docs/security.md")
            if settings.queue_type == "inline":
                embedded = ours("worker.embedded").embedded
                await stack.enter_async_context(embedded(served, storage, queue, watch, settings))
            stopping = asyncio.create_task(ours("api.stream").server_stops())
            stopping.add_done_callback(lambda _: watch.dismiss())
            stopping.add_done_callback(lambda _: app.state.hang_up())
            stack.callback(stopping.cancel)
            yield

    app: Application = ours("api.app").create_app(served, storage, queue, watch, settings, lifespan=lifespan)
    app.state.dismiss = watch.dismiss
    return app


def require_authentication(settings: Settings) -> None:
    """ConfigError when a durable server would be open to other machines without anybody having said so."""
    if settings.auth.is_on or is_loopback(settings.host):
        return
    if settings.storage_type == "memory" or settings.auth.insecure:
        return
    raise ConfigError(
        f"HOST is {settings.host or 'every address'}: other machines could come in, and nobody would have to say who they are. "
        "Set AUTH__API_KEYS=true and make a key with `perdure keys create`, or another AUTH__ setting; or give --insecure"
    )


def _require_role_for_turns(settings: Settings) -> None:
    if settings.storage.row_security and settings.queue_type == "inline" and not settings.worker_database_url:
        raise ConfigError(
            "STORAGE__ROW_SECURITY with QUEUE_TYPE=inline needs WORKER_DATABASE_URL: turns run in this process, as another role"
        )


def serve(
    agents: Agents | Agent | None = None,
    settings: Settings | None = None,
    *,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Serve an agent, or several by their names (None: those that AGENT or AGENTS names) until SIGTERM, then return.

    `ready` is called with the address once it listens.

    Ends the process with one line where it cannot start: 2 for wrong settings and a port in use, 1 for a database that does not
    answer; with 130 after Ctrl-C.
    """
    with ending_for_sure(), one_line_errors():
        settings = settings or load_settings()
        logs.set_up(settings.log)
        require_authentication(settings)  # `asgi` does too: here before there are several processes to say it
        import_parts(settings)
        if settings.server.workers > 1:
            _serve_in_several(agents, settings, ready)
            return
        served = loaded(agents, settings)
        with bound(settings.host, port_of(_first(served), settings)) as listener, ops_port(settings) as own:
            _serve_until_stopped(served, settings, [listener, *own], ready)


def _serve_in_several(
    agents: Agents | Agent | None, settings: Settings, ready: Callable[[str], None] | None
) -> None:
    """In each of them load the agents and serve; in the process that was started watch over them."""
    count = settings.server.workers
    processes.require_shared(count, storage_type=settings.storage_type)
    ours("api.app")  # once for all of them
    port = settings.port
    if port is None:
        port = processes.asked_of_a_child(lambda: port_of(_first(loaded(agents, settings)), settings))
    with bound(settings.host, port) as listener, ops_port(settings) as own:
        serves = processes.split(count, listener)

        def listening(url: str) -> None:
            serves()
            if ready:
                ready(url)

        _serve_until_stopped(loaded(agents, settings), settings, [listener, *own], listening)


def _serve_until_stopped(
    agents: Agents, settings: Settings, listeners: list[socket.socket], ready: Callable[[str], None] | None
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stopped_by = run(_serve(agents, settings, listeners, ready))
    finally:
        on_signal(signal.SIGTERM, before)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


async def _serve(
    agents: Agents, settings: Settings, listeners: list[socket.socket], ready: Callable[[str], None] | None
) -> int | None:
    """Serve until a signal comes; which one. The first listener is that of the front door."""
    allow_many_files()
    app = asgi(_served_at(agents, address(settings.host, listeners[0].getsockname()[1])), settings)

    def listening(url: str) -> None:
        log.info(
            "serving",
            url=url,
            agent=", ".join(name or agent.config.name for name, agent in agents.items()),
            storage=settings.storage_type,
            queue=settings.queue_type,
        )
        if ready:
            ready(url)

    # Not uvicorn's way through the lifespan: that logs a failed start as a traceback and ends with 3. And bound before anything
    # is opened, listening only when all is: who connects too early is refused and not kept waiting.
    with ours("api.stream").ending_in_order():
        async with app.router.lifespan_context(app):
            keep_what_is_loaded()
            server = server_of(app, settings, lambda: listening(url_of(listeners[0])))
            await server.serve(sockets=listeners)
            log.info("stopping")
            stopped_by: int | None = server.stopped_by
            return stopped_by


def _first(agents: Agents) -> Agent:
    return next(iter(agents.values()))


def _served_at(agents: Agents, url: str) -> Agents:
    return {name: agent.served_at(url) for name, agent in agents.items()}


def served(agent: Agent, settings: Settings) -> Agent:
    """The agent as it stands in its card: with the address that these settings make, and with the ways in."""
    agent = agent.served_at(address(settings.host, port_of(agent, settings)))
    found: Agent = ours("api.auth.schemes").with_security(agent, settings.auth)
    return found
