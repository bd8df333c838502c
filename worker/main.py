"""`perdure worker`: arq for the bell, Postgres for when there is none, one count of slots for both.

arq's own main ends when Redis is away for longer than its retries, and takes its jobs with it. Here it is started again while the
turns go on, and meanwhile the sweep claims straight from the storage.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

from perdure.agent import Agent
from perdure.settings import Settings

from .bell import hear
from .process import working


def run(agent: Agent, settings: Settings) -> None:
    """Run turns until SIGTERM or Ctrl-C; a second one ends the grace. Raises StorageUnavailable, ConfigError and, after Ctrl-C,
    KeyboardInterrupt."""
    stopped_by: list[signal.Signals] = []
    _run(_work(agent, settings, stopped_by))
    if signal.SIGINT in stopped_by[:1]:
        raise KeyboardInterrupt


async def _work(agent: Agent, settings: Settings, stopped_by: list[signal.Signals]) -> None:
    asked = asyncio.Event()
    task = asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        if asked.is_set() and task is not None:
            task.cancel()
        stopped_by.append(number)
        asked.set()

    _on_signals(stop)
    with suppress(asyncio.CancelledError):
        async with working(agent, settings) as slots:
            bells = [] if settings.queue_type == "inline" else [asyncio.create_task(hear(slots, settings))]
            await asked.wait()
            slots.stop()
            await slots.drain(settings.worker.grace)
            for bell in bells:
                bell.cancel()
            await asyncio.gather(*bells, return_exceptions=True)


def _on_signals(stop: Callable[[signal.Signals], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        with suppress(NotImplementedError):  # Windows
            loop.add_signal_handler(number, stop, number)


def _run(main: Coroutine[Any, Any, None]) -> None:
    try:
        from uvloop import new_event_loop as loop_factory
    except ImportError:  # Windows
        asyncio.run(main)
        return
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main)
