"""The bell of `perdure worker`: wait for rings, take as many as there are free slots, start as many turns.

arq is left out here: a ring is only a wake-up, and which task runs is decided by the claim in Postgres. So there is nothing to
look up, to mark as running or to finish, and one script does what takes arq's loop six round trips a job (decision 017). It
leaves alone what a stock arq worker has begun with, so both kinds may run in one fleet.

Waking: who rings puts an id into the set and a token into the list, in one script. Idle workers block on the list. Who takes
removes the tokens of what is gone from the set, and leaves one where something is left, so that the next idle worker comes.
Should a token be lost, everybody looks into the set once a second.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import structlog
from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio import Redis
from redis.exceptions import RedisError, ResponseError

from perdure.queue.arq import BELL_SECONDS, DELIVER_PUSH, bell_key, client_of, named_for, queue_key, ring_of
from perdure.queue.notices import Strange
from perdure.settings import Settings
from perdure.tasks import Ring

from .health import own_key
from .slots import Slots
from .worker import ring

log = structlog.get_logger(__name__)

HEALTH_SECONDS = 10
_UNASKED_SECONDS = 1
"""After so long without a token an idle worker looks into the set."""
_PATIENCE = 5.0
"""Seconds until a Redis that does not answer is given up."""
_MOST_AT_ONCE = 1000
_DELIVERIES = DELIVER_PUSH.encode()
_FIRST_PAUSE = 0.1
_LONGEST_PAUSE = 2.0

# What a stock worker has marked is passed over: it reads the payload next. A hundred marks may be in the way, those of a
# fleet that was killed; they last ten seconds. One that is about to mark an id has looked for it in the set before, and watches
# the mark alone: so the mark is touched.
_TAKE = """
local now = redis.call('TIME')
local wanted = tonumber(ARGV[1])
local due = now[1] * 1000 + math.floor(now[2] / 1000)
local taken = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', due, 'LIMIT', 0, wanted + 100)) do
  if #taken == wanted then break end
  if redis.call('EXISTS', ARGV[3] .. id) == 0 then
    taken[#taken + 1] = id
    redis.call('ZREM', KEYS[1], id)
    redis.call('SET', ARGV[3] .. id, '')
    redis.call('DEL', ARGV[3] .. id, ARGV[4] .. id)
  end
end
if #taken < wanted or redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
else
  redis.call('LTRIM', KEYS[2], #taken, -1)
  if redis.call('EXISTS', KEYS[2]) == 0 then
    redis.call('RPUSH', KEYS[2], '')
    redis.call('EXPIRE', KEYS[2], ARGV[2])
  end
end
return taken
"""


async def hear(slots: Slots, settings: Settings) -> None:
    """Until cancelled: wait for rings and start turns, again and again, whatever becomes of Redis. Takes nothing more once the
    slots stop; the sign of life for health checks goes on."""
    pause = _FIRST_PAUSE
    while True:
        bell = Bell(slots, settings)
        try:
            await bell.heard()
        except (RedisError, OSError, TimeoutError) as error:
            level = log.warning if pause == _FIRST_PAUSE else log.debug
            level("bell.lost", error=str(error) or "Redis does not answer")
        except Exception:
            log.exception("bell.failed")
        finally:
            await bell.leave()
        await asyncio.sleep(pause)
        pause = _FIRST_PAUSE if bell.rang else min(pause * 2, _LONGEST_PAUSE)


class Bell:
    """One connection to it, until it breaks."""

    def __init__(self, slots: Slots, settings: Settings) -> None:
        self._slots = slots
        self._agent = slots.worker.name
        name = named_for(settings.queue_name, self._agent)
        self._queue, self._bell = queue_key(name), bell_key(name)
        self._health = own_key(settings.queue_name)
        self._redis: Redis = client_of(settings.redis_url.get_secret_value())
        self._take_script = self._redis.register_script(_TAKE)
        self._strange = Strange("bell.strange_jobs")
        self.rang = False
        """Whether it ever heard Redis."""

    async def heard(self) -> None:
        """Until the connection breaks. TaskGroup (on Python 3.11) and gather lose a cancel that comes while one of both fails."""
        both = [asyncio.create_task(self.start_turns()), asyncio.create_task(self._give_signs_of_life())]
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_EXCEPTION)
            for each in done:
                each.result()
        finally:
            for each in both:
                each.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def start_turns(self) -> None:
        """Until the process stops or the connection breaks."""
        while free := await self._slots.vacancy():
            taken = self._turns(await self._take(min(free, _MOST_AT_ONCE)))
            if self._slots.stopping:
                await ring(self._slots.worker.queue, taken)
            elif taken:
                self._slots.start(len(taken))
            else:
                await self._token()
        await self._take(0)  # a token that was on its way here wakes somebody else

    def _turns(self, taken: list[bytes]) -> list[Ring]:
        """Those that are not for deliveries, which take no slot. Ids that none of us has made are dropped."""
        turns, strange = [], []
        for name in taken:
            if name.startswith(_DELIVERIES):
                continue
            try:
                turns.append(ring_of(name.decode(), self._agent))
            except ValueError:  # UnicodeDecodeError is one
                strange.append(name)
        self._strange.skipped(strange)
        if len(turns) + len(strange) < len(taken):
            self._slots.worker.deliver()
        return turns

    async def _take(self, wanted: int) -> list[bytes]:
        arguments: list[int | str] = [wanted, BELL_SECONDS, in_progress_key_prefix, job_key_prefix]
        async with asyncio.timeout(_PATIENCE):
            taken: list[bytes] = await self._take_script([self._queue, self._bell], arguments)
        self.rang = True
        return taken

    async def _token(self) -> None:
        """Wait until there may be something to take, or the process stops."""
        blocking: Any = self._redis.blpop([self._bell], _UNASKED_SECONDS)
        waiting = asyncio.ensure_future(blocking)
        stopping = asyncio.create_task(self._slots.stopped.wait())
        try:
            async with asyncio.timeout(_UNASKED_SECONDS + _PATIENCE):
                await asyncio.wait((waiting, stopping), return_when=asyncio.FIRST_COMPLETED)
            if waiting.done():
                waiting.result()
        finally:
            stopping.cancel()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)  # its connection is closed then

    async def _give_signs_of_life(self) -> None:
        """What `arq worker.settings.WorkerSettings --check` looks at."""
        while True:
            running = f"{datetime.now(UTC):%b-%d %H:%M:%S} running={self._slots.running} slots={self._slots.capacity}"
            try:
                async with asyncio.timeout(_PATIENCE):
                    await self._redis.set(self._health, running, ex=HEALTH_SECONDS + 1)
            except ResponseError as error:  # it is full: rings that are there can be taken all the same
                log.warning("bell.health_unwritten", error=str(error))
            await asyncio.sleep(HEALTH_SECONDS)

    async def leave(self) -> None:
        """Forget it. The turns go on."""
        async with aclosing(self._redis):
            with suppress(RedisError, OSError, TimeoutError):
                async with asyncio.timeout(2):
                    await self._redis.delete(self._health)
