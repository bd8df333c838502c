"""The bell of a process of its own: arq, as it has to be run, and started again whenever Redis is back."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import arq
import structlog
from arq.worker import func
from redis.exceptions import RedisError

from perdure.queue.arq import (
    DELIVER_PUSH,
    RUN_TASK,
    deserialize_job,
    queue_key,
    redis_settings,
    serialize_job,
)
from perdure.settings import Settings

from .health import own_key
from .jobs import deliver_push, run_task
from .slots import Slots

log = structlog.get_logger(__name__)

HEALTH_SECONDS = 10
_NEVER = 2**31
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0


def arq_options(settings: Settings) -> dict[str, Any]:
    """How arq has to run, whoever starts it."""
    return {
        "functions": [
            func(run_task, name=RUN_TASK, keep_result=0, max_tries=_NEVER),
            func(deliver_push, name=DELIVER_PUSH, keep_result=0, max_tries=_NEVER),
        ],
        "queue_name": queue_key(settings.queue_name),
        "max_jobs": settings.worker.slots,
        "poll_delay": settings.worker.poll_delay,
        "job_serializer": serialize_job,
        "job_deserializer": deserialize_job,
        "keep_result": 0,
        "max_tries": _NEVER,
        # None: a turn's limits are ours. The mark that arq leaves on a running job then lasts ten seconds, and the sweep does not
        # take a job for running whose worker died. (arq compares the limits of its functions: a second function needs None too.)
        "job_timeout": None,
        "health_check_interval": HEALTH_SECONDS,
        "log_results": False,
    }


async def hear(slots: Slots, settings: Settings) -> None:
    """Run arq for ever, again and again."""
    pause = _FIRST_PAUSE
    while True:
        bell = _Bell(slots, settings)
        try:
            await bell.main()
        except (RedisError, OSError) as error:
            level = log.warning if pause == _FIRST_PAUSE else log.debug
            level("bell.lost", error=str(error))
        except Exception:
            log.exception("bell.failed")
        finally:
            await bell.leave()
        await asyncio.sleep(pause)
        pause = _FIRST_PAUSE if bell.rang else min(pause * 2, _LONGEST_PAUSE)


class _Bell(arq.Worker):
    """arq's worker with signals handled elsewhere, that picks no more jobs than there are free slots."""

    def __init__(self, slots: Slots, settings: Settings) -> None:
        super().__init__(
            **arq_options(settings),
            redis_settings=redis_settings(settings.redis_url.get_secret_value(), patience=3, conn_retries=0),
            health_check_key=own_key(settings.queue_name),
            handle_signals=False,
            ctx={"slots": slots},
        )
        self._slots = slots
        self.rang = False
        """Whether it ever heard Redis."""

    async def _poll_iteration(self) -> None:
        self.allow_pick_jobs = self._slots.free > 0
        self.max_jobs = self.job_counter + self._slots.free
        await super()._poll_iteration()
        self.rang = True

    async def leave(self) -> None:
        """Forget the bell: the turns go on, their jobs end over the old connection."""
        if self._pool is None:
            return
        jobs, pool = [job for job in self.tasks.values() if not job.done()], self._pool

        async def close() -> None:
            await asyncio.gather(*jobs, return_exceptions=True)
            with suppress(RedisError, OSError):
                await pool.delete(self.health_check_key)
            await pool.aclose()

        _leaving.add(task := asyncio.create_task(close()))
        task.add_done_callback(_leaving.discard)
        if not jobs or self._slots.stopping:
            await asyncio.wait((task,), timeout=2)


_leaving: set[asyncio.Task[None]] = set()
