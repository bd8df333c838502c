"""Processes that are measured: started, waited for, looked at, stopped."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil  # type: ignore[import-untyped]

from perdure.reference import describe
from perdure.settings import Settings, environment

ROOT = Path(__file__).resolve().parents[1]
AGENTS = Path(__file__).parent / "agents"
ARQ = str(Path(sys.executable).parent / "arq")
PERDURE = str(Path(sys.executable).parent / "perdure")


class Process:
    """A running one; its output goes into a file, so that nobody has to read it."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen, self._log = popen, log
        self._psutil = psutil.Process(popen.pid)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._popen.pid

    def until_said(self, text: str, *, timeout: float = 60.0) -> str:
        """The first line of its output with this text. RuntimeError with its last words when it ends or takes too long."""
        until = time.monotonic() + timeout
        while time.monotonic() < until:
            for line in self.said().splitlines():
                if text in line:
                    return line
            if self._popen.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"{self._popen.args!r} never said {text!r}, but: ...{self.said()[-2000:]}")

    def said(self) -> str:
        """All its output so far."""
        return self._log.read_text(errors="replace")

    def cpu_seconds(self) -> float:
        """User and system time so far, with that of its children."""
        return sum(sum(each.cpu_times()[:2]) for each in self._all())

    def memory(self) -> float:
        """Its own memory and that of its children, in MB: the unique set, without what is shared with other processes."""
        return sum(float(each.memory_full_info().uss) for each in self._all()) / 1e6

    def _all(self) -> list[psutil.Process]:
        return [self._psutil, *self._psutil.children(recursive=True)]

    def stop(self) -> None:
        """In good order, and after ten seconds without."""
        self._popen.send_signal(signal.SIGTERM)
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            children = self._psutil.children(recursive=True)
            self._popen.kill()
            for child in children:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            self._popen.wait()


@contextmanager
def started(command: Sequence[str], *, settings: Mapping[str, str] | None = None) -> Iterator[Process]:
    """A process with these variables in its environment and no settings of ours besides; stopped at the end."""
    ours = {row.name for row in describe(Settings())}
    env = {name: value for name, value in environment().items() if name not in ours}
    env |= {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(settings or {})}
    with tempfile.TemporaryDirectory(prefix="perdure-bench-") as folder:
        log = Path(folder) / "log"
        with log.open("wb") as said:
            popen = subprocess.Popen(
                command, cwd=folder, env=env, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL
            )
        process = Process(popen, log)
        try:
            yield process
        finally:
            if popen.poll() is None:
                process.stop()


def free_port() -> int:
    """One that nobody listens on."""
    import socket

    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
