"""`perdure worker`: the bell where there is one, Postgres for when it is away, one count of slots for both."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

from perdure.agents import Agents
from perdure.settings import Settings

from .bell import hear
from .process import working


async def work(agents: Agents, settings: Settings) -> signal.Signals:
    """Run turns until SIGTERM or Ctrl-C, which of them; a second one ends the grace. Raises StorageUnavailable, ConfigError."""
    asked = asyncio.Event()
    stopped_by: list[signal.Signals] = []
    task = asyncio.current_task()

    def stop(number: signal.Signals) -> None:
        if asked.is_set() and task is not None:
            task.cancel()
        stopped_by.append(number)
        asked.set()

    _on_signals(stop)
    with suppress(asyncio.CancelledError):
        async with working(agents, settings) as slots:
            heard = [] if settings.queue_type == "inline" else slots.each
            bells = [asyncio.create_task(hear(each, settings)) for each in heard]
            await asked.wait()
            slots.stop()
            await slots.drain(settings.worker.grace)
            for bell in bells:
                bell.cancel()
            await asyncio.gather(*bells, return_exceptions=True)
    return stopped_by[0]


def _on_signals(stop: Callable[[signal.Signals], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
