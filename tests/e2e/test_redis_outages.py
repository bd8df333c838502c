"""Redis goes away, hangs, or is full: everything goes on, a little later, and is as before when it is back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from queue import Queue
from typing import Any

import httpx
import pytest
import redis

from tests.support.processes import Server, sending, text_of
from tests.support.proxy import Line, proxied

from .conftest import AGENTS, Process, Stack, at, status_of, until

BY_THE_BELL = {"WORKER__SWEEP_INTERVAL": "3600", "SERVER__REFRESH": "3600"}
"""Nobody looks at the log unasked: what is seen in time was rung for or announced, or the outage is known."""


@pytest.fixture
def network(stack: Stack) -> Iterator[Line]:
    """Between Redis and all processes."""
    direct = stack.settings["REDIS_URL"]
    with proxied(direct) as network:
        stack.settings["REDIS_URL"] = network.url(direct)
        yield network


@contextmanager
def streaming(server: Server, method: str, params: dict[str, Any]) -> Iterator[Callable[[], dict[str, Any]]]:
    """A stream, read all the time; call what is given for the next result."""
    request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
    results: Queue[dict[str, Any]] = Queue()

    def read(response: httpx.Response) -> None:
        for line in response.iter_lines():
            if line.startswith("data:"):
                results.put(json.loads(line.removeprefix("data:"))["result"])

    with (
        httpx.stream("POST", server.url, json=request, timeout=40) as response,
        ThreadPoolExecutor(1) as reader,
    ):
        done = reader.submit(read, response)
        yield lambda: results.get(timeout=30)
        done.result(timeout=30)


def told(result: dict[str, Any]) -> str:
    """The text of an artifact's piece, or a state."""
    if result["kind"] == "artifact-update":
        return "".join(part["text"] for part in result["artifact"]["parts"])
    return str(result["status"]["state"])


def both_said(processes: tuple[Process, ...], event: str, times: int = 1) -> bool:
    return all(process.said(event) >= times for process in processes)


def test_waits_and_streams_go_on_without_redis_and_hear_the_bell_again(stack: Stack) -> None:
    """A stream that was open, one that is opened meanwhile, a blocking send. Afterwards nobody looks unasked."""
    server, door = stack.front_door(AGENT=str(AGENTS / "gated_stream.py"), **BY_THE_BELL)
    worker = stack.worker(AGENT=str(AGENTS / "gated_stream.py"), **BY_THE_BELL)
    open_before, opened_later = stack.gate("before"), stack.gate("later")
    until(lambda: status_of(server) == "ready")
    pid = worker.popen.pid
    with streaming(server, "message/stream", sending(str(open_before.path))) as first:
        assert [told(first()) for _ in range(3)] == ["submitted", "working", f"begun by {pid}, "]
        stack.services.redis.stop()
        until(lambda: both_said((door, worker), "watch.degraded"))
        open_before.open()
        while (last := told(first())) != "completed":
            assert last in (f"done by {pid}", "")
    with streaming(server, "message/stream", sending(str(opened_later.path))) as second:
        assert [told(second()) for _ in range(3)] == ["submitted", "working", f"begun by {pid}, "]
        opened_later.open()
        while told(second()) != "completed":
            pass
    assert text_of(server.send("blocking")) == "BLOCKING"
    assert status_of(server) == "degraded"
    stack.services.redis.start()
    until(lambda: both_said((door, worker), "watch.recovered"))
    until(lambda: status_of(server) == "ready")
    for number in range(20):
        assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
    assert not any("Traceback" in line for line in door.log + worker.log)


def test_workers_claim_within_a_second_while_redis_is_away(stack: Stack) -> None:
    """The interval that docs/faults.md states, whatever the sweep's own is."""
    server, door = stack.front_door(**BY_THE_BELL)
    workers = (stack.worker(**BY_THE_BELL), stack.worker(**BY_THE_BELL))
    stack.services.redis.stop()
    until(lambda: both_said((door, *workers), "watch.degraded"))
    for number in range(10):
        assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
    waited = [
        row["waited"].total_seconds()
        for row in stack.rows(
            "SELECT e.created_at - t.created_at AS waited FROM tasks t JOIN task_events e USING (task_id) WHERE e.seq = 2"
        )
    ]
    assert len(waited) == 10
    # An interval, a tick of the sweep that finds it over, and what a busy machine adds.
    assert sorted(waited)[len(waited) // 2] < 1.0 + 1.5 / 4 + 1.0


def test_a_redis_that_hangs(stack: Stack, network: Line) -> None:
    """It accepts and never answers: claims are held up for a second or two, and nothing is lost."""
    server, _ = stack.front_door()
    stack.worker()
    until(lambda: status_of(server) == "ready")
    network.hold()
    for number in range(3):
        assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
    assert status_of(server) == "degraded"
    network.heal()
    until(lambda: status_of(server) == "ready")
    assert text_of(server.send("after")) == "AFTER"
    assert stack.rows("SELECT max(attempt) FROM tasks")[0][0] == 1


def test_a_redis_that_is_full_takes_no_ring(stack: Stack) -> None:
    """Nothing can be written to it; reading and listening go on, so nobody calls it degraded. Workers claim unasked."""
    server, door = stack.front_door()
    worker = stack.worker()
    with closing(redis.Redis.from_url(stack.services.redis_url)) as client:
        client.config_set("maxmemory", 1)
        for number in range(3):
            assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
        until(lambda: door.said("queue.unavailable") >= 1)
        client.config_set("maxmemory", 0)
    task_id = server.send("after", blocking=False)["id"]
    until(lambda: at(server, task_id, "completed"))
    assert worker.popen.poll() is None


def test_nonsense_in_redis_is_skipped(stack: Stack) -> None:
    """On the notices' channel and among the jobs. Nobody looks at the log unasked: what is answered was announced and heard."""
    server, door = stack.front_door(**BY_THE_BELL)
    worker = stack.worker(**BY_THE_BELL)
    until(lambda: status_of(server) == "ready")
    with closing(redis.Redis.from_url(stack.services.redis_url)) as client:
        assert client.publish("perdure:notices", "x") == 2
        client.zadd("perdure:queue", {b"\xff\xfe": 1, b"nonsense": 2})
        client.rpush("perdure:bell", "x")
    for number in range(5):
        assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
    until(lambda: both_said((door, worker), "queue.strange_notices"))
    until(lambda: worker.said("bell.strange_jobs") == 1)
    assert not any("Traceback" in line or "degraded" in line for line in door.log + worker.log)


def test_both_warn_of_a_redis_that_throws_keys_away(stack: Stack) -> None:
    """When they start; and when it was changed, once they connect again."""
    with closing(redis.Redis.from_url(stack.services.redis_url)) as client:
        client.config_set("maxmemory-policy", "allkeys-lru")
    processes = (stack.front_door()[1], stack.worker(), stack.arq_worker())
    until(lambda: both_said(processes, "redis.evicts"))
    stack.services.redis.stop()
    stack.services.redis.start()  # as it is configured: noeviction
    until(lambda: both_said(processes, "watch.recovered"))
    assert [process.said("redis.evicts") for process in processes] == [1, 1, 1]
