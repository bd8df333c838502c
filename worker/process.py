"""A worker in a process of its own: everything it needs but the bell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from perdure import tracing
from perdure.agent import Agent
from perdure.backends import make_queue, make_storage, opened, require_keys
from perdure.memory import keep_what_is_loaded
from perdure.settings import Settings
from perdure.watch import Watch

from .embedded import at_work
from .health import marked
from .port import health_port
from .slots import Slots


@asynccontextmanager
async def working(agent: Agent, settings: Settings) -> AsyncIterator[Slots]:
    """Open storage, queue and watch and run turns while inside. `StorageUnavailable`, `ConfigError`."""
    require_keys(agent, settings)
    storage, queue = make_storage(settings, worker=True), make_queue(settings)
    watch = Watch(storage, queue, refresh=settings.server.refresh)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(
            tracing.exporting(settings, service=agent.config.name, version=agent.config.version)
        )
        await stack.enter_async_context(opened(storage, queue, watch))
        stack.enter_context(marked(settings.queue_name))
        keep_what_is_loaded()
        slots = await stack.enter_async_context(at_work(agent, storage, queue, watch, settings))
        stack.enter_context(health_port(slots, settings.host, settings.worker.health_port))
        yield slots
