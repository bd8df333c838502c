"""Where the front door listens, and what that address is called."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from ipaddress import ip_address

from perdure.agent import Agent
from perdure.errors import ConfigError
from perdure.settings import Settings

DEFAULT_PORT = 3773
LOOPBACK = ("localhost", "127.0.0.1", "::1", "[::1]")
MANY_FILES = 65_536


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens there."""
    try:
        return host == "localhost" or ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def port_of(agent: Agent, settings: Settings) -> int:
    """The setting; else the port of `deployment.url` where that is this machine (behind a proxy it is the proxy's); else 3773."""
    url = agent.config.deployment.url
    if settings.port is None and url.scheme == "http" and url.host in LOOPBACK and url.port is not None:
        return url.port
    return DEFAULT_PORT if settings.port is None else settings.port


@contextmanager
def ops_port(settings: Settings) -> Iterator[list[socket.socket]]:
    """The operators' own listener, if they have one."""
    if settings.ops.port is None:
        yield []
        return
    with bound(settings.host, settings.ops.port) as listener:
        yield [listener]


@contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound there and does not listen yet. `ConfigError` says in one line why it cannot be."""
    try:
        family, _, _, _, where = socket.getaddrinfo(
            host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError):
        raise ConfigError(f"HOST: {host!r} is no address of this machine") from None
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(where)
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


def url_of(listener: socket.socket) -> str:
    """The address of a listener as it is."""
    host, port = listener.getsockname()[:2]
    return _joined(host, port)


def address(host: str, port: int) -> str:
    """Where clients find a server that listens on HOST. `localhost` for every address: which one others come by is not known."""
    if host.strip("[]") in ("", "0.0.0.0", "::"):  # noqa: S104 -- nothing is bound here
        host = "localhost"
    return _joined(host.strip("[]").partition("%")[0], port)  # URLs have no zones


def _joined(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def allow_many_files() -> None:
    """Every client that waits or listens has a file open here, and most systems start a process with 1,024 or fewer: ask for as
    many as it may have."""
    try:
        import resource  # not on Windows, which has no such limit
    except ImportError:
        return
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):  # macOS calls a limit infinite that is not
        resource.setrlimit(resource.RLIMIT_NOFILE, (MANY_FILES if most < 0 else min(most, MANY_FILES), most))
