"""Puts the parts together: the front door as an ASGI application, as a server, and the worker.

The only module that knows where `api` and `worker` live: beside the package in a checkout, inside it in an installed wheel.
"""

from __future__ import annotations

import asyncio
import errno
import math
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from ipaddress import ip_address
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Protocol, TypeVar

import structlog

from perdure import logs, processes, tracing
from perdure.agent import Agent
from perdure.agents import Agents, by_name, known_as, load_agents
from perdure.backends import make_queue, make_storage, opened, require_keys
from perdure.errors import ConfigError, QueueUnavailable, StorageUnavailable
from perdure.memory import keep_what_is_loaded
from perdure.settings import Settings, load_settings
from perdure.stuck import ending_for_sure, left_behind
from perdure.watch import Watch

log = structlog.get_logger(__name__)

DEFAULT_PORT = 3773
ANSWER_SECONDS = 2
"""For the last answers once the time of open requests is over."""
MANY_FILES = 65_536
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
T = TypeVar("T")


class Application(Protocol):
    """An ASGI application whose `router.lifespan_context(application)` opens and closes what it needs. `state.dismiss()` answers
    those who wait for a task with the task as it stands, `state.hang_up()` ends what only looks on."""

    router: Any
    state: Any

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...


# ---------------------------------------------------------------------- the front door


def asgi(agents: Agents | Agent, settings: Settings) -> Application:
    """The front door of an agent, or of several by their names, as an ASGI application (a Starlette), for `serve` or another ASGI
    server with one process.

    Its lifespan opens the storage and the queue and, with QUEUE_TYPE=inline, runs the turns in this process.
    Startup raises StorageUnavailable when the database does not answer in time. ConfigError where other machines could come in
    without saying who they are: HOST is believed to be what the other server listens on, and so is PORT where it is set.
    """
    served = by_name(agents)
    if settings.port:
        served = _served_at(served, _address(settings.host, settings.port))
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


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


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
        _import_parts(settings)
        if settings.server.workers > 1:
            _serve_in_several(agents, settings, ready)
            return
        served = _loaded(agents, settings)
        with _bound(settings.host, port_of(_first(served), settings)) as listener, _ops_port(settings) as own:
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
        port = processes.asked_of_a_child(lambda: port_of(_first(_loaded(agents, settings)), settings))
    with _bound(settings.host, port) as listener, _ops_port(settings) as own:
        serves = processes.split(count, listener)

        def listening(url: str) -> None:
            serves()
            if ready:
                ready(url)

        _serve_until_stopped(_loaded(agents, settings), settings, [listener, *own], listening)


def _serve_until_stopped(
    agents: Agents, settings: Settings, listeners: list[socket.socket], ready: Callable[[str], None] | None
) -> None:
    before = signal.getsignal(signal.SIGTERM)
    try:
        stopped_by = run(_serve(agents, settings, listeners, ready))
    finally:
        _on(signal.SIGTERM, before)
    if stopped_by == signal.SIGINT:
        raise KeyboardInterrupt


async def _serve(
    agents: Agents, settings: Settings, listeners: list[socket.socket], ready: Callable[[str], None] | None
) -> int | None:
    """Serve until a signal comes; which one. The first listener is that of the front door."""
    _allow_many_files()
    app = asgi(_served_at(agents, _address(settings.host, listeners[0].getsockname()[1])), settings)

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
            server = _server(app, settings, lambda: listening(_url(listeners[0])))
            await server.serve(sockets=listeners)
            log.info("stopping")
            stopped_by: int | None = server.stopped_by
            return stopped_by


def _allow_many_files() -> None:
    """Every client that waits or listens has a file open here, and most systems start a process with 1,024 or fewer: ask for as
    many as it may have."""
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls a limit infinite that is not
        resource.setrlimit(resource.RLIMIT_NOFILE, (MANY_FILES if most < 0 else min(most, MANY_FILES), most))


def _first(agents: Agents) -> Agent:
    return next(iter(agents.values()))


def _served_at(agents: Agents, url: str) -> Agents:
    return {name: agent.served_at(url) for name, agent in agents.items()}


def served(agent: Agent, settings: Settings) -> Agent:
    """The agent as it stands in its card: with the address that these settings make, and with the ways in."""
    agent = agent.served_at(_address(settings.host, port_of(agent, settings)))
    found: Agent = ours("api.auth.schemes").with_security(agent, settings.auth)
    return found


def port_of(agent: Agent, settings: Settings) -> int:
    """The setting; else the port of `deployment.url` where that is this machine (behind a proxy it is the proxy's); else 3773."""
    url = agent.config.deployment.url
    if settings.port is None and url.scheme == "http" and url.host in LOOPBACK and url.port is not None:
        return url.port
    return DEFAULT_PORT if settings.port is None else settings.port


@contextmanager
def _ops_port(settings: Settings) -> Iterator[list[socket.socket]]:
    """The operators' own listener, if they have one."""
    if settings.ops.port is None:
        yield []
        return
    with _bound(settings.host, settings.ops.port) as listener:
        yield [listener]


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"HOST: {host!r} is no address of this machine") from None
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise ConfigError(_cannot_listen(host, port, error)) from None
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"port {port} is in use: stop what uses it, or choose another with --port or PORT"
        case errno.EACCES:
            return f"port {port} is not for this user: choose one above 1023 with --port or PORT"
        case errno.EADDRNOTAVAIL:
            return f"HOST: {host!r} is no address of this machine"
    return f"cannot listen on {host}:{port}: {error.strerror}"


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return _joined(host, port)


def _address(host: str, port: int) -> str:
    """Where clients find a server that listens on HOST. `localhost` for every address: which one others come by is not known."""
    if host.strip("[]") in ("", "0.0.0.0", "::"):  # noqa: S104 -- nothing is bound here
        host = "localhost"
    return _joined(host.strip("[]").partition("%")[0], port)  # URLs have no zones


def _joined(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _server(app: Application, settings: Settings, listening: Callable[[], None]) -> Any:
    import uvicorn  # here: a worker needs none

    class Server(uvicorn.Server):
        stopped_by: int | None = None

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            listening()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            # Before uvicorn cancels what is still open: a 500 would make a client send an accepted message again.
            asyncio.get_running_loop().call_later(settings.server.stop_timeout, app.state.dismiss)
            app.state.hang_up()
            await super().shutdown(sockets)

        @contextmanager
        def capture_signals(self) -> Iterator[None]:
            """As uvicorn does, without raising the signal again at the end: the lifespan has to close first."""
            interrupt = signal.getsignal(signal.SIGINT)
            _on(signal.SIGINT, self.handle_exit)
            _on(signal.SIGTERM, self.handle_exit)
            try:
                yield
            finally:
                _on(signal.SIGINT, interrupt)  # a second Ctrl-C ends the grace of the turns
                _on(signal.SIGTERM, signal.SIG_IGN)

        def handle_exit(self, sig: int, frame: FrameType | None) -> None:
            self.stopped_by = self.stopped_by or sig
            super().handle_exit(sig, frame)

    return Server(
        uvicorn.Config(
            app,
            lifespan="off",
            proxy_headers=False,  # who may speak for a client is said by AUTH__PROXY_ADDRESSES
            http=ours("api.connection").connection(settings.server),
            ws="none",
            log_config=None,
            access_log=settings.log.level == "debug",
            server_header=False,
            timeout_keep_alive=75,  # longer than proxies keep idle connections, or they meet ones that are being closed
            timeout_graceful_shutdown=math.ceil(settings.server.stop_timeout) + ANSWER_SECONDS,
        )
    )


def _on(number: signal.Signals, handler: Any) -> None:
    if threading.current_thread() is threading.main_thread():  # elsewhere Python has no signals
        signal.signal(number, handler)


# ---------------------------------------------------------------------- the worker


def work(
    agents: Agents | Agent | None = None,
    settings: Settings | None = None,
    *,
    finds_name: bool = False,
    ready: Callable[[str], None] | None = None,
) -> None:
    """Run turns of an agent, or of several by their names (None: those that AGENT or AGENTS names) until SIGTERM, then return.
    `finds_name`: where tasks wait for one of several agents that is called as the only one here, serve those. `ready` is called
    with the worker's id once it takes tasks.

    Ends the process as `serve` does."""
    with ending_for_sure(), one_line_errors():
        settings = settings or load_settings()
        logs.set_up(settings.log)
        if settings.storage_type == "memory":
            raise ConfigError(
                "a worker needs STORAGE_TYPE=postgres: it cannot see the tasks in another process's memory "
                "(`perdure serve` alone runs the agent as well)"
            )
        _import_parts(settings)
        main = ours("worker.main")
        working = main.work(_loaded(agents, settings), settings, finds_name=finds_name, ready=ready)
        if run(working) == signal.SIGINT:
            raise KeyboardInterrupt


# ---------------------------------------------------------------------- what both need


def _import_parts(settings: Settings) -> None:
    """Before the agent is loaded: with it the author's folder goes to the front of the path, and an `alembic/` of theirs would
    be taken for the library."""
    make_storage(settings)
    make_queue(settings)


def _loaded(agents: Agents | Agent | None, settings: Settings) -> Agents:
    """Those that were given, or those of the settings. ConfigError."""
    return load_agents(settings) if agents is None else by_name(agents)


def ours(name: str) -> ModuleType:
    """Import a module of ours by its name in a checkout, such as `api.app`.

    In a wheel it is `perdure.api.app`. So it is called in a checkout as well, loaded by its path, unless it has been imported
    from there as `api.app`: the names `api` and `worker` are left to the author's own modules, which may be on the path first.
    """
    folder, _, rest = name.partition(".")
    package = Path(__file__).resolve().parent
    if not (package / folder / "__init__.py").is_file():
        path = package.parent / folder
        if folder in sys.modules and str(path) in map(str, getattr(sys.modules[folder], "__path__", ())):
            return import_module(name)
        _load_package(f"perdure.{folder}", path)
    return import_module(f"perdure.{folder}.{rest}")


def _load_package(name: str, path: Path) -> None:
    if name in sys.modules:
        return
    spec = spec_from_file_location(name, path / "__init__.py", submodule_search_locations=[str(path)])
    if spec is None or spec.loader is None or not (path / "__init__.py").is_file():
        raise ConfigError(f"{path} is missing from this installation: install perdure again")
    sys.modules[name] = module = module_from_spec(spec)
    spec.loader.exec_module(module)


def run(main: Coroutine[Any, Any, T]) -> T:
    """`asyncio.run` on uvloop where there is one."""
    try:
        from uvloop import new_event_loop as loop_factory
    except ImportError:  # Windows
        runner = asyncio.Runner()
    else:
        runner = asyncio.Runner(loop_factory=loop_factory)
    try:
        return runner.run(main)
    finally:
        # Closing waits for what does not end; the process ends without it (`ending_for_sure`).
        if not left_behind:
            runner.close()


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the process with one line on stderr: exit code 2 for ConfigError, 1 for a service that is away, 130 for Ctrl-C."""
    try:
        yield
    except ConfigError as error:
        one_line(error)
        raise SystemExit(2) from None
    except (StorageUnavailable, QueueUnavailable) as error:
        one_line(error)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


def one_line(error: Exception | str) -> None:
    """Tell of an error that ends the process."""
    print(f"perdure: {' '.join(str(error).split())}", file=sys.stderr)
