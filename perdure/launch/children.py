"""The processes of `perdure up`: each is kept alive, and given up when it never comes to be ready."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from perdure.local.server import LAUNCH

PATIENCE = 5.0
"""Seconds that a process gets to stop beyond its own grace; then it is killed."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 10.0
"""Seconds between two starts of a process that keeps dying; they double."""
STARTS = 4
"""After so many in a row that came to nothing it is not started again."""
LAST_WORDS = 8
"""Lines that are said again of one that is given up."""

Say = Callable[[str], None]


class Child:
    """One process that is kept alive. `grace`: the seconds that it takes for itself to stop."""

    def __init__(
        self, name: str, arguments: Sequence[str], environ: Mapping[str, str], say: Say, grace: float
    ) -> None:
        self.name = name
        self.on_ready: Callable[[str], None] | None = None
        self._arguments = list(arguments)
        self._environ = environ
        self._say = say
        self._grace = grace
        self.given_up = 0
        """The exit code of the whole where this process is not started again."""
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self._was_ready = False
        self._end = ""
        self._last_words: deque[str] = deque(maxlen=LAST_WORDS)

    async def keep(self, note: Say) -> None:
        """Start it, and start it again when it dies. Returns when it was stopped, and when it is given up: it says (exit code 2)
        that it never can start, or died a few times in a row before it was ready. One that was ready is started for ever: what
        kills it may be a task, which is given up in its turn."""
        pause, unready = FIRST_PAUSE, 0
        while not self._stopping.is_set():
            started = time.monotonic()
            code = await self._run_once()
            if self._stopping.is_set():
                return
            unready = 0 if self._was_ready else unready + 1
            if code == 2 or unready == STARTS:
                self.given_up = 2 if code == 2 else 1
                times = f", {unready} times in a row before it was ready" if unready > 1 else ""
                self._end = f"{self.name} {_ended(code)}{times}"
                return
            pause = FIRST_PAUSE if time.monotonic() - started > LONGEST_PAUSE else pause
            note(f"{self.name} {_ended(code)}; it is started again in {pause:g} s")
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), pause)
            pause = min(pause * 2, LONGEST_PAUSE)

    def why_given_up(self) -> list[str]:
        """How it ended and what it said last; nothing of one that was not given up."""
        return [f"{self._end}. Its last words:", *self._last_words] if self.given_up else []

    async def stop(self) -> None:
        """Stop it and wait for its end."""
        self._stopping.set()
        self.signal(signal.SIGTERM)
        if self._process is None:
            return
        try:
            await asyncio.wait_for(self._process.wait(), self._grace + PATIENCE)
        except TimeoutError:
            self._say(f"did not stop within {self._grace + PATIENCE:g} s and was killed")
            self.signal(signal.SIGKILL)
            await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self) -> int:
        self._was_ready = False
        self._last_words.clear()
        reading, writing = os.pipe()
        # LAUNCH ties its life to ours. -P: the working directory may hold an author's own `alembic/`.
        us = [sys.executable, "-I", "-S", "-c", LAUNCH, str(os.getpid()), str(int(signal.SIGTERM)), "0", "0"]
        try:
            process = self._process = await asyncio.create_subprocess_exec(
                *us,
                *(sys.executable, "-P", "-m", "perdure", *self._arguments, "--ready-fd", str(writing)),
                env=self._environ,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for us: we stop them in order
                pass_fds=(writing,),
            )
        finally:
            os.close(writing)
        self._say(f"started as process {process.pid}")
        self._hear_ready(reading)
        if self._stopping.is_set():  # while it was started
            self.signal(signal.SIGTERM)
        if process.stdout is not None:
            await _forward(process.stdout, self._heard)
        return await process.wait()

    def _heard(self, line: str) -> None:
        self._last_words.append(line)
        self._say(line)

    def _hear_ready(self, reading: int) -> None:
        loop = asyncio.get_running_loop()

        def readable() -> None:
            loop.remove_reader(reading)
            told = os.read(reading, 1000).decode()
            os.close(reading)
            if told:
                self._was_ready = True
                if self.on_ready:
                    self.on_ready(told)

        loop.add_reader(reading, readable)


def _ended(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"


async def _forward(stream: asyncio.StreamReader, say: Say) -> None:
    """Say each line. Not `readline`, which gives up on lines of 64 KiB."""
    rest = b""
    while chunk := await stream.read(65_536):
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            say(line.decode(errors="replace"))
    if rest:
        say(rest.decode(errors="replace"))
