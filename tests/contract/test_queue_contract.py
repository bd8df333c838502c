"""What the port promises, for both queues."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import closing
from functools import partial
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID

import orjson
import pytest
from redis import Redis as SyncRedis
from redis.asyncio import Redis

from perdure.errors import QueueUnavailable
from perdure.ids import new_task_id
from perdure.local import LocalServices
from perdure.queue import Queue
from perdure.queue.arq import ArqQueue, deserialize_job, redis_settings
from perdure.queue.inline import InlineQueue
from perdure.tasks import Notice, Ring, TaskState
from tests.support.proxy import proxied

UNUSED = "redis://127.0.0.1:1/0"


@pytest.fixture(params=["inline", "arq"])
async def queue(request: pytest.FixtureRequest) -> AsyncIterator[Queue]:
    made: Queue = InlineQueue()
    if request.param == "arq":
        made = ArqQueue(request.getfixturevalue("redis_url"), "test")
    await made.open()
    yield made
    await made.close()


@pytest.fixture
async def arq_queue(redis_url: str) -> AsyncIterator[ArqQueue]:
    made = ArqQueue(redis_url, "test")
    yield made
    await made.close()


@pytest.fixture
async def redis(redis_url: str) -> AsyncIterator[Any]:
    client = Redis.from_url(redis_url)
    yield client
    await client.aclose()


def notice(seq: int, state: TaskState | None = TaskState.WORKING, task_id: UUID | None = None) -> Notice:
    return Notice(task_id or new_task_id(), seq, state)


# ---------------------------------------------------------------------- both


async def test_whoever_listens_hears_all_that_is_announced_later_in_order(queue: Queue) -> None:
    said = [notice(1), notice(2, TaskState.COMPLETED), notice(0, None)]
    async with queue.listen() as heard, queue.listen() as also:
        await queue.announce(said[:1])
        await queue.announce(said[1:])
        await queue.announce([])
        assert [await anext(heard) for _ in said] == said
        assert [await anext(also) for _ in said] == said


async def test_whoever_listens_for_some_tasks_hears_of_no_others(queue: Queue) -> None:
    """Which they are is looked up when a notice comes."""
    mine, others, later = notice(1), notice(1), notice(1)
    wanted = {str(mine.task_id)}
    async with queue.listen(wanted) as heard:
        await queue.announce([others, mine])
        assert await anext(heard) == mine
        wanted.add(str(later.task_id))
        await queue.announce([others, later])
        assert await anext(heard) == later


async def test_announcing_to_nobody(queue: Queue) -> None:
    await queue.announce([notice(1)])
    async with queue.listen() as heard:
        later = notice(2)
        await queue.announce([later])
        assert await anext(heard) == later


async def test_many_announce_at_once_and_nothing_is_lost(queue: Queue) -> None:
    said = [notice(number) for number in range(200)]
    async with queue.listen() as heard:
        await asyncio.gather(*(queue.announce([each]) for each in said))
        assert [await anext(heard) for _ in said] == said


async def test_what_was_never_rung_is_missing(queue: Queue) -> None:
    rings = [Ring(new_task_id(), 1), Ring(new_task_id(), 7)]
    assert await queue.missing(rings) == rings
    assert await queue.missing([]) == []


async def test_ringing_for_nothing(queue: Queue) -> None:
    await queue.ring([])
    await queue.check()


# ---------------------------------------------------------------------- inline


async def test_a_ring_calls_whoever_is_attached() -> None:
    queue, calls = InlineQueue(), []
    detach = queue.attach(lambda: calls.append(1))
    await queue.ring([Ring(new_task_id(), 1), Ring(new_task_id(), 1)])
    assert calls == [1]
    await queue.ring([])
    detach()
    await queue.ring([Ring(new_task_id(), 2)])
    assert calls == [1]


async def test_a_ring_calls_those_who_serve_its_agent() -> None:
    queue = InlineQueue()
    calls: list[str] = []
    for agent in ("", "a", "b"):
        queue.attach(partial(calls.append, agent), agent)
    await queue.ring([Ring(new_task_id(), 1, "b"), Ring(new_task_id(), 1, "b")])
    await queue.ring([Ring(new_task_id(), 1)])
    assert calls == ["b", ""]


# ---------------------------------------------------------------------- arq


async def test_a_ring_is_a_job_that_arq_can_read(arq_queue: ArqQueue, redis: Any) -> None:
    ring = Ring(new_task_id(), 3)
    await arq_queue.ring([ring])
    name = f"{ring.task_id}:3"
    job = deserialize_job(await redis.get(f"arq:job:{name}"))
    assert (job["f"], job["a"], job["k"], job["t"]) == ("run_task", [str(ring.task_id), 3], {}, None)
    seconds, _ = await redis.time()
    score = await redis.zscore("test:queue", name)
    assert 299_000 <= seconds * 1000 + 1000 - score <= 302_000


async def test_each_agent_has_a_queue_and_a_bell_of_its_own(arq_queue: ArqQueue, redis: Any) -> None:
    rings = [Ring(new_task_id(), 1, agent) for agent in ("a", "", "b", "a")]
    await arq_queue.ring(rings)
    for agent, name in (("", "test"), ("a", "test:a"), ("b", "test:b")):
        own = {f"{ring.task_id}:1".encode() for ring in rings if ring.agent == agent}
        assert set(await redis.zrange(f"{name}:queue", 0, -1)) == own
        assert set(await redis.lrange(f"{name}:bell", 0, -1)) == own
    assert list(await arq_queue.missing(rings)) == []
    await redis.delete("test:a:queue")
    assert set(await arq_queue.missing(rings)) == {ring for ring in rings if ring.agent == "a"}
    await arq_queue.ring_deliveries("b")
    assert await redis.zcard("test:b:queue") == 2


async def test_what_was_rung_is_not_missing_until_it_is_picked_up(arq_queue: ArqQueue, redis: Any) -> None:
    rings = [Ring(new_task_id(), 1) for _ in range(4)]
    await arq_queue.ring(rings)
    assert await arq_queue.missing(rings) == []
    await redis.zrem("test:queue", *(f"{ring.task_id}:1" for ring in rings[:2]))
    await redis.set(f"arq:in-progress:{rings[0].task_id}:1", b"1")
    assert await arq_queue.missing(rings) == [rings[1]]
    await redis.flushdb()
    assert await arq_queue.missing(rings) == rings


async def test_all_keys_but_the_queue_expire_and_the_bell_stays_short(
    arq_queue: ArqQueue, redis: Any
) -> None:
    await arq_queue.ring([Ring(new_task_id(), 1) for _ in range(1500)])
    assert await redis.llen("test:bell") == 1000
    keys = [key async for key in redis.scan_iter(count=2000)]
    lasting = [key for key in keys if await redis.ttl(key) == -1]
    assert (len(keys), lasting) == (1502, [b"test:queue"])


async def test_many_rings_are_one_round_trip(arq_queue: ArqQueue, redis: Any) -> None:
    await arq_queue.ring([Ring(new_task_id(), 1)])  # loads the script
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    await arq_queue.ring([Ring(new_task_id(), 1) for _ in range(100)])
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 1


async def test_rings_of_the_same_moment_share_a_round_trip(arq_queue: ArqQueue, redis: Any) -> None:
    await arq_queue.ring([Ring(new_task_id(), 1)])  # loads the script
    before = (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"]
    rings = [Ring(new_task_id(), 1) for _ in range(100)]
    await asyncio.gather(*(arq_queue.ring([ring]) for ring in rings))
    assert (await redis.info("commandstats"))["cmdstat_evalsha"]["calls"] == before + 1
    assert await arq_queue.missing(rings) == []


async def test_what_is_rung_soon_is_rung_before_it_closes(redis_url: str, redis: Any) -> None:
    queue = ArqQueue(redis_url, "test")
    rings = [Ring(new_task_id(), 1) for _ in range(3)]
    for ring in rings:
        queue.ring_soon([ring])
    queue.ring_soon([])
    await queue.close()
    assert await redis.zcard("test:queue") == 3


async def test_two_names_do_not_hear_each_other(arq_queue: ArqQueue, redis_url: str) -> None:
    other = ArqQueue(redis_url, "other")
    async with arq_queue.listen() as heard:
        await other.announce([notice(1)])
        await arq_queue.announce([mine := notice(2)])
        assert await anext(heard) == mine
    await other.close()


NONE_OF_OURS: list[Any] = [
    5, "x", None, [], {}, ["x", 1, "working"], [5, 1, "working"], [str(UUID(int=7))], [str(UUID(int=7)), "1", "working"],
    [str(UUID(int=7)), None, None], [str(UUID(int=7)), 1, "asleep"], [str(UUID(int=7)), 1, ["working"]],
    [str(UUID(int=7)), 1, ""], [str(UUID(int=7)), 1, "working", 2],
]  # fmt: skip


NO_MESSAGES = [
    b"x",
    b"\xff\xfe",
    b"",
    b"5",
    b'"xyz"',
    b'{"a": 1}',
    b"null",
    b"[" * 5000,
    b"[" * 1000 + b"]" * 1000,
    b"s" * 5000,
]


async def test_what_is_no_notice_is_skipped_and_warned_of_once(
    arq_queue: ArqQueue, redis: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever may publish can say anything: the others in the same message are heard, and so is what comes later."""
    first, second, last = notice(1), notice(2, None), notice(3)
    good = [[str(first.task_id), 1, "working"], [str(second.task_id), 2, None]]
    async with arq_queue.listen() as heard:
        for nonsense in NO_MESSAGES:
            await redis.publish("test:notices", nonsense)
        await redis.publish("test:notices", orjson.dumps([good[0], *NONE_OF_OURS, good[1]]))
        await arq_queue.announce([last])
        assert [await anext(heard) for _ in range(3)] == [first, second, last]
    said = capsys.readouterr().out
    assert said.count("queue.strange_notices") == 1


async def test_without_redis_everything_says_so() -> None:
    queue = ArqQueue(UNUSED, "test", patience=0.1)
    await queue.open()
    ring = Ring(new_task_id(), 1)
    for attempt in (queue.check(), queue.ring([ring]), queue.announce([notice(1)]), queue.missing([ring])):
        with pytest.raises(QueueUnavailable):
            await attempt
    with pytest.raises(QueueUnavailable):
        async with queue.listen():
            pytest.fail("listened to nothing")
    await queue.close()


async def test_what_could_not_be_rung_soon_is_logged(capsys: pytest.CaptureFixture[str]) -> None:
    queue = ArqQueue(UNUSED, "test", patience=0.1)
    queue.ring_soon([ring := Ring(new_task_id(), 1)])
    await queue.close()
    said = capsys.readouterr().out
    assert (said.count("queue.unavailable"), said.count(str(ring.task_id))) == (1, 1)


async def test_a_restart_of_redis_breaks_listening_loudly_and_nothing_else(
    private_services: LocalServices,
) -> None:
    queue = ArqQueue(private_services.redis_url, "test", patience=30)
    await queue.check()
    async with queue.listen() as heard:
        await asyncio.to_thread(private_services.redis.stop)
        ringing = asyncio.create_task(queue.ring([Ring(new_task_id(), 1)]))
        await asyncio.to_thread(private_services.redis.start)
        await ringing
        with pytest.raises(QueueUnavailable):
            await anext(heard)
    async with queue.listen() as heard:
        await queue.announce([after := notice(1)])
        assert await anext(heard) == after
    await queue.close()


@pytest.fixture
def evicting(private_services: LocalServices) -> Iterator[SyncRedis]:
    """A client of a Redis whose policy the test sets."""
    with closing(SyncRedis.from_url(private_services.redis_url)) as client:
        yield client


async def listened(queue: ArqQueue, times: int = 1) -> None:
    for _ in range(times):
        async with queue.listen():
            pass


async def test_a_redis_that_throws_keys_away_is_warned_of_once(
    private_services: LocalServices, evicting: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    queue = ArqQueue(private_services.redis_url, "test")
    await listened(queue, times=2)
    assert "redis.evicts" not in capsys.readouterr().out
    evicting.config_set("maxmemory-policy", "allkeys-lru")
    await listened(queue, times=3)
    assert capsys.readouterr().out.count("redis.evicts") == 1
    evicting.config_set("maxmemory-policy", "volatile-ttl")
    await listened(queue, times=2)
    said = capsys.readouterr().out
    assert (said.count("redis.evicts"), said.count("volatile-ttl")) == (1, 1)
    evicting.config_set("maxmemory-policy", "noeviction")
    await listened(queue)
    evicting.config_set("maxmemory-policy", "volatile-ttl")
    await listened(queue)
    assert capsys.readouterr().out.count("redis.evicts") == 1
    await queue.close()


@pytest.mark.parametrize("refused", ["CONFIG", "INFO"])
async def test_a_managed_redis_that_refuses_to_tell_is_as_good(
    private_services: LocalServices, evicting: Any, capsys: pytest.CaptureFixture[str], refused: str
) -> None:
    evicting.config_set("maxmemory-policy", "allkeys-lru")
    evicting.execute_command("ACL", "SETUSER", "managed", "on", ">secret", "~*", "&*", "+@all", f"-{refused}")
    url = urlsplit(private_services.redis_url)
    queue = ArqQueue(url._replace(netloc=f"managed:secret@127.0.0.1:{url.port}").geturl(), "test")
    async with queue.listen() as heard:
        await queue.announce([said := notice(1)])
        assert await anext(heard) == said
    assert capsys.readouterr().out.count("redis.evicts") == (refused == "CONFIG")
    await queue.close()


async def test_a_redis_that_hangs_holds_nobody_up_for_long(redis_url: str) -> None:
    with proxied(redis_url) as network:
        queue = ArqQueue(network.url(redis_url), "test", patience=0.5)
        rings = [Ring(new_task_id(), 1)]
        await queue.ring(rings)
        network.hold()
        begin = time.monotonic()
        for attempt in (queue.ring(rings), queue.announce([notice(1)]), queue.missing(rings), queue.check()):
            with pytest.raises(QueueUnavailable):
                await attempt
        assert time.monotonic() - begin < 4.5  # a second each, and what a busy machine adds
        network.heal()
        assert await queue.missing(rings) == []
        await queue.close()


def test_an_address_for_arq() -> None:
    settings = redis_settings("rediss://me:p%40ss@host:7/3?ssl_cert_reqs=none")
    assert (settings.host, settings.port, settings.database, settings.ssl) == ("host", 7, 3, True)
    assert (settings.username, settings.password, settings.ssl_cert_reqs) == ("me", "p@ss", "none")
    assert redis_settings("unix:///run/redis.sock").unix_socket_path == "/run/redis.sock"
