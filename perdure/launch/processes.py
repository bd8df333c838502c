"""Several processes on one listening socket: `split` forks them, and the process that called it watches over them.

The socket is inherited: a connection that nobody has taken yet is taken by a neighbour when a process dies. The parent does
nothing else. It has no event loop, and what an agent's module starts is started by each process for itself.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import structlog

from perdure.errors import ConfigError

log = structlog.get_logger(__name__)

FIRST_PAUSE = 0.1
LONGEST_PAUSE = 5.0
LONG_LIFE = 10.0
"""Seconds. Whoever lived so long is started again after the first pause."""
_TICK = 0.05
_STOPS = (signal.SIGTERM, signal.SIGINT)
_HOPELESS = (1, 2)
"""Exit codes of a process that cannot start: a database that does not answer, wrong settings."""


def require_shared(count: int, *, storage_type: str) -> None:
    """ConfigError for several processes that could not see each other's tasks."""
    if count > 1 and storage_type == "memory":
        raise ConfigError(
            "SERVER__WORKERS: several processes need STORAGE_TYPE=postgres, since none sees the tasks in another's memory"
        )
    if count > 1 and not hasattr(os, "fork"):
        raise ConfigError(
            "SERVER__WORKERS: this system cannot fork; start several `perdure serve` behind a proxy"
        )


def asked_of_a_child(question: Callable[[], int]) -> int:
    """The answer of a process that ends with it, so that nothing it needs is loaded here. Where it gave none, this process ends
    as it did."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.write(writing, str(question()).encode())
        os._exit(0)
    os.close(writing)
    with open(reading, "rb") as pipe:
        answer = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code or not answer:
        raise SystemExit(code if code > 0 else 1)
    return int(answer)


def split(count: int, listener: socket.socket) -> Callable[[], None]:
    """Become `count` processes. Returns in each of them, with what to call once it serves.

    The process that called starts again whoever dies. It ends (SystemExit) when it was told to stop and all have ended, with 130
    after Ctrl-C; and as a process ended that could not start, before any had served: it would be no better the next time.
    """
    guard = _Guard(listener)
    with guard.told_to_stop():
        for _ in range(count):
            if guard.forked():
                return guard.serves
        while guard.children:
            if guard.lost_one() and guard.forked():
                return guard.serves
    raise SystemExit(guard.code)


class _Guard:
    """Who watches over the children, and what a child knows of it."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._heard, self._said = os.pipe()
        os.set_blocking(self._heard, False)
        self.children: dict[int, float] = {}  # when it was started, on the monotonic clock
        self.code = 0
        self._served = False
        self._stopping = False
        self._pause = FIRST_PAUSE

    def serves(self) -> None:
        """In a child: say that it serves."""
        with suppress(OSError):
            os.write(self._said, b".")

    @contextmanager
    def told_to_stop(self) -> Iterator[None]:
        """While inside, a signal to stop is passed on. A child leaves it with the handlers from before."""
        before = {number: signal.signal(number, self._stop) for number in _STOPS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if not self._stopping:
            self._listener.close()  # theirs is the last one: who comes now is refused, and not kept waiting
        self._stopping = True
        self.code = 130 if number == signal.SIGINT else self.code
        for pid in self.children:
            os.kill(pid, signal.SIGTERM)

    def forked(self) -> bool:
        """Start one more, unless it is time to stop. True in the child, which has the signals blocked still."""
        signal.pthread_sigmask(
            signal.SIG_BLOCK, _STOPS
        )  # none is missed between its start and its name on the list
        if not self._stopping:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                self.children = {}
                os.close(self._heard)
                _end_with(parent)
                return True
            self.children[pid] = time.monotonic()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOPS)
        return False

    def lost_one(self) -> bool:
        """Wait until a child ends. Whether another one is to take its place."""
        pid, status = os.waitpid(-1, 0)
        started = self.children.pop(pid, None)
        if started is None or self._stopping:
            return False
        code = os.waitstatus_to_exitcode(status)
        self._served = self._served or self._heard_any()
        if code in _HOPELESS and not self._served:
            self._stop(signal.SIGTERM, None)
            self.code = code
            return False
        long_life = time.monotonic() - started >= LONG_LIFE
        self._pause = FIRST_PAUSE if long_life else min(self._pause * 2, LONGEST_PAUSE)
        log.error("process.died", pid=pid, code=code, again_after=self._pause)
        self._wait(self._pause)
        return not self._stopping

    def _heard_any(self) -> bool:
        try:
            return bool(os.read(self._heard, 1024))
        except BlockingIOError:
            return False

    def _wait(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until and not self._stopping:
            time.sleep(_TICK)


def _end_with(parent: int) -> None:
    """Not to be left alone by a parent that is killed: Linux then sends SIGTERM."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(1, int(signal.SIGTERM))
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGTERM)
