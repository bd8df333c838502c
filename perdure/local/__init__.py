"""Private PostgreSQL and Redis servers on this machine, for `perdure up` and the tests.

The servers' programs come from the wheels of the extra `perdure[local]` (a redis-server 7 or newer on the PATH is preferred).
They listen on free ports of 127.0.0.1 behind random passwords, and keep to their ports while the object lives, so that a test may
kill and start them again under whoever is connected.

Standard library only: it must be able to say what is missing before anything is there.
"""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

from perdure.errors import ConfigError
from perdure.local.postgres import Postgres
from perdure.local.redis import Redis
from perdure.local.server import Server

__all__ = ["LocalServices", "Postgres", "Redis", "Server", "local_services"]

T = TypeVar("T")


@contextmanager
def local_services(
    data_dir: Path | None, *, postgres: bool = True, redis: bool = True, fsync: bool = True
) -> Iterator[LocalServices]:
    """Run private servers while inside.

    `data_dir` keeps the data from one start to the next (one user at a time); None means a temporary folder, deleted at the end.
    `fsync=False` is quicker and loses data when the machine, not a process, crashes: for tests. Raises ConfigError with one
    readable line when a program is missing, the folder is in use or a server does not start.
    """
    with ExitStack() as stack:
        folder = _keep(data_dir, stack) if data_dir else _temporary(stack)
        services = LocalServices(folder, fsync=fsync)
        stack.callback(services.stop)
        services.start(postgres=postgres, redis=redis)
        yield services


class LocalServices:
    """The running servers; see `local_services`. Stopping and starting one of them leaves its address as it was."""

    def __init__(self, folder: Path, *, fsync: bool = True) -> None:
        self.folder = folder
        self._fsync = fsync
        self._postgres: Postgres | None = None
        self._redis: Redis | None = None

    def start(self, *, postgres: bool = True, redis: bool = True) -> None:
        """Start the servers that are asked for; returns when they answer."""
        if redis:
            self._redis = Redis(self.folder, fsync=self._fsync)
        if postgres:
            self._postgres = Postgres(self.folder, fsync=self._fsync)
        for server in self._servers():
            server.start()

    def stop(self) -> None:
        """Stop the servers cleanly. Harmless when they have stopped already."""
        for server in reversed(self._servers()):
            server.stop()

    @property
    def postgres(self) -> Postgres:
        """The PostgreSQL server. LookupError when it was not asked for."""
        return _asked_for(self._postgres, "postgres")

    @property
    def redis(self) -> Redis:
        """The Redis server. LookupError when it was not asked for."""
        return _asked_for(self._redis, "redis")

    @property
    def database_url(self) -> str:
        """`postgresql://user:password@127.0.0.1:port/perdure`; the user is the server's superuser."""
        return self.postgres.url

    @property
    def redis_url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return self.redis.url

    @property
    def postgres_pid(self) -> int:
        """The process id of the postmaster. LookupError while it does not run."""
        return self.postgres.pid

    @property
    def redis_pid(self) -> int:
        """The process id of redis-server. LookupError while it does not run."""
        return self.redis.pid

    def _servers(self) -> list[Server]:
        return [server for server in (self._redis, self._postgres) if server is not None]


def _temporary(stack: ExitStack) -> Path:
    return Path(
        stack.enter_context(tempfile.TemporaryDirectory(prefix="perdure-", ignore_cleanup_errors=True))
    )


def _keep(data_dir: Path, stack: ExitStack) -> Path:
    """Make the folder and lock it as long as the stack is open: two servers on one folder would spoil it."""
    folder = data_dir.absolute()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = stack.enter_context((folder / "lock").open("a"))
    except OSError as error:
        raise ConfigError(f"the data cannot be kept in {data_dir}: {error.strerror}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"{data_dir} is in use by another process") from error
    return folder


def _asked_for(server: T | None, name: str) -> T:
    if server is None:
        raise LookupError(f"{name} was not asked for")
    return server
