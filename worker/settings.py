"""WorkerSettings: what `arq worker.settings.WorkerSettings` runs (installed: `perdure.worker.settings.WorkerSettings`).

arq reads attributes of this very class and ignores inherited ones without a word. What each override is for stands in DESIGN 7.
Importing this needs no AGENT, so that `--check` works anywhere.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any

import structlog
from arq.worker import func

from perdure import logs
from perdure.agents import Agents, load_agents
from perdure.backends import make_queue, make_storage
from perdure.errors import ConfigError, StorageUnavailable
from perdure.queue.arq import (
    DELIVER_PUSH,
    RUN_TASK,
    deserialize_job,
    queue_key,
    redis_settings,
    serialize_job,
)
from perdure.settings import Settings, load_settings
from perdure.turns.stuck import end_process, ending_for_sure

from .bell import HEALTH_SECONDS, hear
from .health import key_to_check, own_key
from .jobs import deliver_push, run_task
from .process import working
from .slots import EXIT_SECONDS, AllSlots

log = structlog.get_logger(__name__)


async def startup(ctx: dict[str, Any]) -> None:
    """Open everything and load AGENT. A mistake in the settings ends the process with one line."""
    stack = AsyncExitStack()
    try:
        logs.set_up(_settings.log)  # arq has set up its own by now
        slots = await stack.enter_async_context(working(_named_agents(_settings), _settings))
    except (ConfigError, StorageUnavailable) as error:
        _end(error)
    ctx["stack"], ctx["slots"] = stack, slots.each[0]
    # arq hears one queue, that of an only agent. Those of several are heard beside it.
    named = [each for each in slots.each if each.worker.name]
    ctx["bells"] = [asyncio.create_task(hear(each, _settings)) for each in named]
    _drain_on_signals(slots)


async def shutdown(ctx: dict[str, Any]) -> None:
    """arq has waited for its jobs; give back what is left."""
    for bell in ctx.get("bells", ()):
        bell.cancel()
    if stack := ctx.get("stack"):
        await stack.aclose()
    with ending_for_sure():
        pass


def _named_agents(settings: Settings) -> Agents:
    if settings.storage_type == "memory":
        raise ConfigError(
            "a worker needs STORAGE_TYPE=postgres: it cannot see the tasks in another process's memory"
        )
    if settings.queue_type == "inline":
        raise ConfigError("arq hears the bell of Redis: set QUEUE_TYPE=arq here and for the front door")
    # Before the agent is loaded: an `alembic/` in the author's folder would be taken for the library.
    make_storage(settings)
    make_queue(settings)
    return load_agents(settings)


def _drain_on_signals(slots: AllSlots) -> None:
    """arq tells nobody that it was asked to stop. Its handler is called through asyncio's wake-up descriptor; Python's own, a
    no-op there, is free to take notice as well. (Where arq has installed none, this is not its process.)

    The turns are drained at once and not in `on_shutdown`, which arq never reaches while Redis is down: it takes back its health
    key first, for as long as that takes. So the process ends without it.
    """
    loop = asyncio.get_running_loop()

    async def drained() -> None:
        await slots.drain(_settings.worker.grace)
        loop.call_later(EXIT_SECONDS, _end_without_redis)

    def drain() -> None:
        if not slots.stopping:
            slots.stop()
            _draining.append(loop.create_task(drained()))

    for number in (signal.SIGTERM, signal.SIGINT):
        before = signal.getsignal(number)
        if callable(before) and before is not signal.default_int_handler:
            signal.signal(number, lambda *_: _call_soon(loop, drain))


def _end_without_redis() -> None:
    log.warning(
        "worker.ended", why="arq did not end, as when Redis is away; all turns have ended or been given back"
    )
    end_process()


def _call_soon(loop: asyncio.AbstractEventLoop, drain: Callable[[], None]) -> None:
    loop.call_soon_threadsafe(drain)


_draining: list[asyncio.Task[None]] = []


def _settings_or_exit() -> Settings:
    try:
        return load_settings()
    except ConfigError as error:
        print(f"perdure: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def _end(error: Exception) -> None:
    """Inside arq's main task SystemExit would drag a traceback along; nothing is running yet that has to end in order."""
    print(f"perdure: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    os._exit(2 if isinstance(error, ConfigError) else 1)


_NEVER = 2**31
_settings = _settings_or_exit()
_checking = "--check" in sys.argv


class _Unlimited(float):
    """A function's time limit that is none: a turn's limits are ours. arq compares those of all functions, which it cannot do
    with None, and adds ten seconds to the longest: so long lasts the mark that it leaves on a running job. It is ten seconds
    alone, or the sweep would take a job for running whose worker died."""

    def __new__(cls) -> _Unlimited:
        return super().__new__(cls, 366 * 86_400)

    def __add__(self, seconds: float) -> float:
        return seconds


class WorkerSettings:
    """See the module."""

    functions = tuple(
        func(function, name=name, keep_result=0, max_tries=_NEVER, timeout=_Unlimited())
        for name, function in ((RUN_TASK, run_task), (DELIVER_PUSH, deliver_push))
    )
    queue_name = queue_key(_settings.queue_name)
    max_jobs = _settings.worker.slots
    poll_delay = _settings.worker.poll_delay
    job_serializer = serialize_job
    job_deserializer = deserialize_job
    keep_result = 0
    max_tries = _NEVER
    job_timeout = None
    health_check_interval = HEALTH_SECONDS
    log_results = False
    job_completion_wait = _settings.worker.grace + EXIT_SECONDS  # by then the turns have been released
    # A check asks once; a worker waits for Redis.
    redis_settings = redis_settings(
        _settings.redis_url.get_secret_value(),
        **({"patience": 0, "conn_retries": 0} if _checking else {}),
    )
    health_check_key = (key_to_check if _checking else own_key)(_settings.queue_name)
    on_startup = startup
    on_shutdown = shutdown
