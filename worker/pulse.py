"""Pulse: feels from a thread of its own whether the event loop still turns.

A handler that blocks the loop stops everything in its process but the keeper. After a second that is said, with the tasks and the
line at which the loop stands. When a turn is over its time limit and the loop has not reacted for as long as it is given for
that, it never will: all stacks are written and the process ends, so that its supervisor starts another and its tasks run
elsewhere.
"""

from __future__ import annotations

import asyncio
import faulthandler
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress

import structlog

from perdure import metrics
from perdure.turns.stuck import end_process, fail_at_the_end, stack_of_thread

from .limits import hung_after
from .slots import AnySlots

log = structlog.get_logger(__name__)

WORTH_A_WARNING = 1.0
"""Seconds."""
_INTERVAL = 0.25


class Pulse:
    """Feel that of the running event loop until `close`. `hung` is called, on the thread, once the loop is given up."""

    def __init__(self, slots: AnySlots, *, hung: Callable[[], None] | None = None) -> None:
        self._slots = slots
        self._hung = hung or _end_hung_process
        self._patience = hung_after(slots.worker.settings)
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="perdure-pulse", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread. Not on the event loop: it may be waiting for that."""
        self._closed.set()
        self._thread.join(5)

    def _run(self) -> None:
        with suppress(RuntimeError):  # the loop is closed
            while not self._closed.wait(_INTERVAL):
                answered, asked = threading.Event(), time.monotonic()
                self._loop.call_soon_threadsafe(answered.set)
                if not answered.wait(WORTH_A_WARNING):
                    self._watch_block(answered)
                self._felt(time.monotonic() - asked)

    def _felt(self, lag: float) -> None:
        self._slots.worker.duty.loop_lag = lag
        metrics.LOOP_LAG.set(lag)

    def _watch_block(self, answered: threading.Event) -> None:
        seconds = WORTH_A_WARNING
        tasks = [str(task_id) for task_id in self._slots.task_ids()]
        log.warning("loop.blocked", seconds=seconds, tasks=tasks, stack=stack_of_thread(self._loop_thread))
        while not self._closed.is_set():
            before = time.monotonic()
            if answered.wait(_INTERVAL):
                log.warning("loop.unblocked", seconds=round(seconds, 1), tasks=tasks)
                return
            # Not simply the clock: while the whole process was stopped, the loop had no chance to answer.
            seconds += min(time.monotonic() - before, 2 * _INTERVAL)
            self._felt(seconds)
            if seconds >= self._patience and self._slots.react_by() <= time.monotonic():
                log.error("loop.hung", seconds=round(seconds, 1), tasks=tasks)
                self._hung()
                return


def _end_hung_process() -> None:
    if sys.__stderr__ is not None:
        faulthandler.dump_traceback(sys.__stderr__, all_threads=True)
    fail_at_the_end()
    end_process()
