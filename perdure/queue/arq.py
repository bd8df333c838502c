"""ArqQueue: one arq job a ring, notices over Redis pub/sub.

What arq 0.28 does and this must know is in DESIGN 7. In short: the job's id is new for each dispatch (a known id is refused
without a word), its score lies in the past of Redis' own clock (a producer whose clock is ahead would delay it), its payload
is JSON (the default, pickle, runs code), and every key but the queue's expires.

Keys: `NAME:queue` (arq's sorted set), `NAME:bell` (a list on which our own workers block: something was put into the set); of
each of several agents `NAME:AGENT:queue` and `NAME:AGENT:bell`; the channel `NAME:notices`; arq's own `arq:job:ID`,
`arq:in-progress:ID` and `arq:retry:ID`, whose prefix it fixes.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Container, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeVar
from uuid import UUID

import orjson
import structlog
from arq.connections import RedisSettings
from arq.constants import in_progress_key_prefix, job_key_prefix
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.connection import SSLConnection, parse_url
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from perdure.errors import QueueUnavailable
from perdure.owners import ONLY
from perdure.queue.notices import Strange, spoken, understood
from perdure.queue.together import Together
from perdure.tasks import Notice, Ring

log = structlog.get_logger(__name__)

T = TypeVar("T")

RUN_TASK = "run_task"
"""The name of the function that runs a turn: it must not change while jobs of an older version wait."""

DELIVER_PUSH = "deliver_push"
"""The name of the other: webhooks are to be told something."""

PAYLOAD_SECONDS = 30 * 24 * 3600
BELL_SECONDS = 60
_BELL_LENGTH = 1000
_MOST_RINGS = 500
"""For one script, which holds Redis up for about a millisecond then."""
_HEAD_START_MS = 300_000
_DELIVERY_RINGS_MS = 100
_IMPATIENCE = 10.0
"""Seconds for which calls get only a short time, once one was in vain."""
_SHORT_PATIENCE = 1.0
_LISTENS_WITHIN = 5.0
_SILENCE = 10.0
"""Seconds without a notice after which a listener asks whether the connection still lives, and how long it waits."""

_RING = """
local now = redis.call('TIME')
local score = now[1] * 1000 + math.floor(now[2] / 1000) - tonumber(ARGV[1])
for i = 3, #KEYS do
  local id = ARGV[5 + (i - 3) * 2]
  redis.call('SET', KEYS[i], ARGV[6 + (i - 3) * 2], 'EX', ARGV[2])
  redis.call('ZADD', KEYS[1], score, id)
  redis.call('RPUSH', KEYS[2], id)
end
redis.call('LTRIM', KEYS[2], -tonumber(ARGV[3]), -1)
redis.call('EXPIRE', KEYS[2], ARGV[4])
"""


def named_for(name: str, agent: str) -> str:
    """The name of an agent's queue in a deployment whose own is `name`."""
    return f"{name}:{agent}" if agent else name


def queue_key(name: str) -> str:
    """arq's `queue_name`: the sorted set of what waits."""
    return f"{name}:queue"


def bell_key(name: str) -> str:
    """The list on which idle workers block."""
    return f"{name}:bell"


def job_id(ring: Ring) -> str:
    """The id of a ring's job."""
    return f"{ring.task_id}:{ring.dispatch}"


def ring_of(name: str, agent: str = ONLY) -> Ring:
    """The inverse of `job_id`, in an agent's queue. ValueError when it is none."""
    task_id, _, dispatch = name.partition(":")
    return Ring(UUID(task_id), int(dispatch), agent)


def client_of(url: str) -> Redis:
    """Without redis-py's own retries: they multiply (a command's with those of its connection), and a listener would be
    subscribed again without a word about what it missed.

    And without its `socket_timeout`, so whoever asks says how long he waits, by `asyncio.timeout`: redis-py sends by
    `asyncio.wait_for` then, which loses a cancel on Python 3.11, and a loop that was to stop would go on for ever."""
    client: Redis = Redis.from_url(url, socket_connect_timeout=2, socket_keepalive=True)
    return client


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Redis]:
    """A client whose connections are closed in the end, also where a cancel comes in the midst of it: redis-py would leave those
    open that it had not begun to close."""
    client = client_of(url)
    try:
        yield client
    finally:
        closing = asyncio.ensure_future(client.aclose())
        _closing.add(closing)
        closing.add_done_callback(_closing.discard)
        await asyncio.shield(closing)


_closing: set[asyncio.Future[None]] = set()
"""What goes on by itself; held here, since the loop holds it but weakly."""


def redis_settings(url: str, *, patience: int = -1, conn_retries: int = 1_000_000) -> RedisSettings:
    """What arq connects with. A command is tried again `patience` times, by default until Redis is back: arq ends with the first
    one that fails. A start waits `conn_retries` seconds for Redis (arq gives up after five)."""
    given: dict[str, Any] = {**parse_url(url)}
    return RedisSettings(
        host=given.get("host", "localhost"),
        port=given.get("port", 6379),
        unix_socket_path=given.get("path"),
        database=given.get("db", 0),
        username=given.get("username"),
        password=given.get("password"),
        ssl=given.get("connection_class") is SSLConnection,
        ssl_keyfile=given.get("ssl_keyfile"),
        ssl_certfile=given.get("ssl_certfile"),
        ssl_cert_reqs=given.get("ssl_cert_reqs", "required"),
        ssl_ca_certs=given.get("ssl_ca_certs"),
        ssl_check_hostname=given.get("ssl_check_hostname") in (True, "true", "True", "1"),
        conn_timeout=5,
        conn_retries=conn_retries,
        retry=Retry(ConstantBackoff(0.25), patience),
        retry_on_timeout=True,
        retry_on_error=[RedisConnectionError, RedisTimeoutError, OSError],  # not the built-in ones
    )


def serialize_job(job: dict[str, Any]) -> bytes:
    """arq's form of a job as JSON: `{"t": try, "f": function, "a": args, "k": kwargs, "et": milliseconds}`."""
    return orjson.dumps(job, default=repr)  # repr: a result that is an exception, which nobody reads


def deserialize_job(stored: bytes) -> dict[str, Any]:
    """The inverse of `serialize_job`."""
    job: dict[str, Any] = orjson.loads(stored)
    return job


class ArqQueue:
    """See `Queue`. A call is tried again for `patience` seconds, which a restart of Redis may take. Once that was in vain, calls
    fail at their first error for a while, or after a second, so that a longer outage or a Redis that hangs does not hold
    callers up."""

    shared = True

    def __init__(self, url: str, name: str, *, patience: float = 2.0) -> None:
        self._url = url
        self._name, self._channel = name, f"{name}:notices"
        self._patience = patience
        self._redis = client_of(url)
        self._ring_script = self._redis.register_script(_RING)
        self._rings = Together(self._ring_all)
        self._notices = Together(self._announce_all)
        self._impatient_until = 0.0
        self._policy = ""
        self._strange = Strange("queue.strange_notices")

    async def open(self) -> None:
        pass

    async def close(self) -> None:
        await asyncio.gather(self._rings.end(timeout=1), self._notices.end(timeout=1))
        await self._redis.aclose()

    async def check(self) -> None:
        with _telling():
            async with asyncio.timeout(self._patience):
                await self._redis.ping()

    async def ring(self, rings: Sequence[Ring]) -> None:
        """What is rung for while one round trip is under way goes into the next one together."""
        await self._rings.add(rings)

    def ring_soon(self, rings: Sequence[Ring]) -> None:
        if rings:
            self._rings.post(rings).add_done_callback(lambda rung: _say_unrung(rings, rung))

    async def _ring_all(self, rings: Sequence[Ring]) -> None:
        for agent, own in _by_agent(rings).items():
            await self._ring_agent(agent, own)

    async def _ring_agent(self, agent: str, rings: Sequence[Ring]) -> None:
        now = int(time.time() * 1000)  # only told in arq's log
        for start in range(0, len(rings), _MOST_RINGS):
            some = rings[start : start + _MOST_RINGS]
            keys = [*self._keys(agent), *(job_key_prefix + job_id(ring) for ring in some)]
            arguments: list[Any] = [_HEAD_START_MS, PAYLOAD_SECONDS, _BELL_LENGTH, BELL_SECONDS]
            for ring in some:
                arguments += (job_id(ring), _payload(ring, now))
            await self._asked(lambda keys=keys, arguments=arguments: self._ring_script(keys, arguments))  # type: ignore[misc]

    def _keys(self, agent: str) -> tuple[str, str]:
        """An agent's set and bell."""
        name = named_for(self._name, agent)
        return queue_key(name), bell_key(name)

    async def ring_deliveries(self, agent: str = ONLY) -> None:
        now = int(time.time() * 1000)
        name = f"{DELIVER_PUSH}:{now // _DELIVERY_RINGS_MS}"  # one for all who ring within a moment
        job = serialize_job({"t": None, "f": DELIVER_PUSH, "a": [], "k": {}, "et": now})
        arguments: list[Any] = [_HEAD_START_MS, BELL_SECONDS, _BELL_LENGTH, BELL_SECONDS, name, job]
        keys = [*self._keys(agent), job_key_prefix + name]
        await self._asked(lambda: self._ring_script(keys, arguments))

    async def announce(self, notices: Sequence[Notice]) -> None:
        """What is announced while one PUBLISH is under way goes into the next one together."""
        await self._notices.add(notices)

    def tell(self, notices: Sequence[Notice]) -> None:
        if notices:
            self._notices.post(notices)

    async def _announce_all(self, notices: Sequence[Notice]) -> None:
        newest = {
            notice.task_id: notice for notice in notices
        }  # the start and the end of a short turn go out together
        told = spoken(list(newest.values()))
        await self._asked(lambda: self._redis.publish(self._channel, told))

    @asynccontextmanager
    async def listen(self, wanted: Container[str] | None = None) -> AsyncIterator[AsyncIterator[Notice]]:
        async with connected(self._url) as client, client.pubsub() as pubsub:
            with _telling():
                async with asyncio.timeout(_LISTENS_WITHIN):
                    await pubsub.subscribe(self._channel)
                    while (await _message(pubsub, _LISTENS_WITHIN))["type"] != "subscribe":
                        pass
            await self._look_at_eviction(client)
            yield self._heard(pubsub, wanted)

    async def _look_at_eviction(self, client: Redis) -> None:
        """Warn of a Redis that throws keys away when it is full: once, and again when that was changed. Asked by INFO, since
        managed ones refuse CONFIG; one that refuses INFO as well is left in peace."""
        policy = await _eviction_policy(client)
        if policy not in (self._policy, "", "noeviction"):
            log.warning(
                "redis.evicts",
                maxmemory_policy=policy,
                hint="set it to noeviction: a full Redis throws rings away, and tasks start a sweep late",
            )
        self._policy = policy or self._policy

    async def eviction_policy(self) -> str:
        return await _eviction_policy(self._redis)

    async def _heard(self, pubsub: PubSub, wanted: Container[str] | None) -> AsyncIterator[Notice]:
        while True:
            with _telling():
                message = await _message_or_ping(pubsub)
            if message["type"] == "message":
                notices, strange = understood(message["data"], wanted)
                self._strange.skipped(strange)
                for notice in notices:
                    yield notice

    async def missing(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        by_agent = _by_agent(rings)
        return [ring for agent, own in by_agent.items() for ring in await self._missing(agent, own)]

    async def _missing(self, agent: str, rings: Sequence[Ring]) -> Sequence[Ring]:
        queue, _ = self._keys(agent)
        names = [job_id(ring) for ring in rings]
        async with self._redis.pipeline(transaction=False) as pipe:
            pipe.zmscore(queue, names)
            pipe.mget([in_progress_key_prefix + name for name in names])
            waiting, started = await self._asked(pipe.execute)
        return [
            ring
            for ring, score, mark in zip(rings, waiting, started, strict=True)
            if score is None and mark is None
        ]

    async def _asked(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives; everything that is asked may be asked twice."""
        pause, now = 0.05, time.monotonic()
        until = now + (self._patience if now > self._impatient_until else 0.0)
        hopeless = max(until, now + _SHORT_PATIENCE)
        while True:
            try:
                with _telling():
                    async with asyncio.timeout(hopeless - time.monotonic()):
                        return await ask()
            except QueueUnavailable:
                if time.monotonic() + pause > until:
                    self._impatient_until = time.monotonic() + _IMPATIENCE
                    raise
            await asyncio.sleep(pause)
            pause = min(pause * 2, 0.4)


def _say_unrung(rings: Sequence[Ring], rung: asyncio.Future[None]) -> None:
    if not rung.cancelled() and (error := rung.exception()) is not None:
        log.warning("queue.unavailable", task_ids=[str(ring.task_id) for ring in rings], error=str(error))


def _by_agent(rings: Sequence[Ring]) -> Mapping[str, Sequence[Ring]]:
    """In their order."""
    found: dict[str, list[Ring]] = {}
    for ring in rings:
        found.setdefault(ring.agent, []).append(ring)
    return found


def _payload(ring: Ring, now: int) -> bytes:
    return serialize_job(
        {"t": None, "f": RUN_TASK, "a": [str(ring.task_id), ring.dispatch], "k": {}, "et": now}
    )


async def _message(pubsub: PubSub, timeout: float) -> dict[str, Any]:
    message = await pubsub.get_message(timeout=timeout)
    if message is None:
        raise QueueUnavailable(f"Redis said nothing for {timeout:g} s")
    found: dict[str, Any] = message
    return found


async def _message_or_ping(pubsub: PubSub) -> dict[str, Any]:
    """The next message. After a long silence Redis has to answer a ping: a peer that vanished would never be noticed."""
    message: dict[str, Any] | None = await pubsub.get_message(timeout=_SILENCE)
    if message is None:
        await pubsub.ping()
        message = await _message(pubsub, _SILENCE)
    return message


class _telling:  # noqa: N801 -- reads as a statement
    """Everything that Redis can fail with as QueueUnavailable."""

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, RedisError | OSError | TimeoutError):
            raise QueueUnavailable(f"Redis: {type(error).__name__}: {error}") from error


async def _eviction_policy(client: Redis) -> str:
    try:
        async with asyncio.timeout(_SHORT_PATIENCE):
            return str((await client.info("memory")).get("maxmemory_policy", ""))
    except (RedisError, OSError, TimeoutError) as error:
        log.debug("redis.policy_unknown", error=str(error))
        return ""
