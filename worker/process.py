"""A worker in a process of its own: everything it needs but the bell."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from perdure import tracing
from perdure.agents import Agents, known_as
from perdure.backends import make_queue, make_storage, opened, require_keys
from perdure.memory import keep_what_is_loaded
from perdure.settings import Settings
from perdure.watch import Watch

from .embedded import at_work
from .health import marked
from .port import health_port
from .slots import AllSlots


@asynccontextmanager
async def working(agents: Agents, settings: Settings) -> AsyncIterator[AllSlots]:
    """Open storage, queue and watch and run turns while inside. `StorageUnavailable`, `ConfigError`."""
    require_keys(agents.values(), settings)
    storage, queue = make_storage(settings, worker=True), make_queue(settings)
    watch = Watch(storage, queue, refresh=settings.server.refresh)
    async with AsyncExitStack() as stack:
        service, version = known_as(agents)
        await stack.enter_async_context(tracing.exporting(settings, service=service, version=version))
        await stack.enter_async_context(opened(storage, queue, watch))
        stack.enter_context(marked(settings.queue_name))
        keep_what_is_loaded()
        slots = await stack.enter_async_context(at_work(agents, storage, queue, watch, settings))
        stack.enter_context(health_port(slots, settings.host, settings.worker.health_port))
        yield slots
