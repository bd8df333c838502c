"""`perdure worker`: the bell where there is one, Postgres for when it is away, one count of slots for both."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress

import structlog

from perdure.agents import Agents, is_name
from perdure.errors import StorageUnavailable
from perdure.owners import ONLY
from perdure.settings import Settings

from .bell import hear
from .process import working
from .slots import Slots

log = structlog.get_logger(__name__)


async def work(
    agents: Agents,
    settings: Settings,
    *,
    finds_name: bool = False,
    ready: Callable[[str], None] | None = None,
) -> signal.Signals:
    """Run turns until SIGTERM or Ctrl-C, which of them; a second one ends the grace. `ready` is called with the worker's id once
    it works. Raises StorageUnavailable, ConfigError.

    `finds_name`: nobody has said whether the only agent is alone in its deployment. Where tasks wait for one of several that is
    called as it is, and none has come for an only one, it serves those from then on.
    """
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
        name = await _worked(agents, settings, asked, finds_name=finds_name, ready=ready)
        if name is not None:
            await _worked({name: agents[ONLY]}, settings, asked)
    return stopped_by[0]


async def _worked(
    agents: Agents,
    settings: Settings,
    asked: asyncio.Event,
    *,
    finds_name: bool = False,
    ready: Callable[[str], None] | None = None,
) -> str | None:
    """Run turns until it is asked to stop, or the name of the only agent is found out; which."""
    async with working(agents, settings) as slots:
        if ready:
            ready(slots.worker.worker_id)
        heard = [] if settings.queue_type == "inline" else slots.each
        bells = [asyncio.create_task(hear(each, settings)) for each in heard]
        name = asyncio.create_task(_name_of(slots.each[0]) if finds_name else _never())
        stopping = asyncio.create_task(asked.wait())
        await asyncio.wait((name, stopping), return_when=asyncio.FIRST_COMPLETED)
        slots.stop()
        await slots.drain(settings.worker.grace)
        for each in (*bells, name, stopping):
            each.cancel()
        await asyncio.gather(*bells, name, stopping, return_exceptions=True)
    return None if asked.is_set() or name.cancelled() else name.result()


async def _name_of(slots: Slots) -> str:
    """The name that the only agent has in a deployment of several, once tasks wait there. Looks for it until it is found, or a
    turn of an only agent was begun."""
    worker, name = slots.worker, slots.worker.agent.config.name
    while is_name(name) and not slots.worked:
        with suppress(StorageUnavailable):
            if await worker.storage.stranded(idle=0.0, limit=1, agent=name):
                log.info("worker.named", agent=name)
                return name
        await asyncio.sleep(worker.settings.worker.sweep_interval)
    return await _never()


async def _never() -> str:
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]


def _on_signals(stop: Callable[[signal.Signals], None]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
