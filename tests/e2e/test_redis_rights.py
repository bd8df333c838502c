"""What Perdure may do in Redis: the user of docs/redis.md suffices and may do nothing else; and nothing of it is run as code."""

from __future__ import annotations

import ast
import pickle
import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson
import pytest
import redis
from arq.constants import job_key_prefix

from perdure.local import LocalServices, local_services
from perdure.queue.arq import deserialize_job, queue_key, serialize_job
from tests.support.processes import ROOT, text_of

from .conftest import Stack, at, until

PAGE = ROOT / "docs" / "redis.md"
REFUSED = [
    "KEYS *", "SCAN 0", "FLUSHALL", "FLUSHDB", "CONFIG GET *", "CONFIG SET dir /tmp", "SHUTDOWN NOSAVE",
    "ACL LIST", "ACL SETUSER other on", "MODULE LIST", "MONITOR", "CLIENT LIST", "CLIENT KILL TYPE normal", "SCRIPT FLUSH",
    "SCRIPT KILL", "FUNCTION LIST", "FUNCTION FLUSH", "SAVE", "BGSAVE", "REPLICAOF NO ONE", "SLOWLOG GET", "SWAPDB 0 1",
    "GET other", "SET other x", "DEL other", "ZADD other 1 x", "RPUSH other x", "BLPOP other 1", "EXPIRE other 1", "WATCH other",
    "SUBSCRIBE other", "PSUBSCRIBE *", "PUBLISH other x", "RENAME perdure:queue other", "COPY perdure:queue other",
    "EVAL return(redis.call('GET','other')) 0", "EVAL return(redis.call('FLUSHALL')) 0",
    "MIGRATE h 1 perdure:queue 0 1", "OBJECT FREQ other",
    "SORT perdure:queue GET other", "DUMP perdure:queue", "RESTORE perdure:x 0 x", "HGETALL perdure:h", "XADD perdure:x * a b",
]  # fmt: skip


def command_of(page: Path) -> list[str]:
    """The ACL SETUSER of the page, as words."""
    [block] = re.findall(r"^```redis\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return shlex.split(block.replace("\\\n", " "))


@pytest.fixture
def services() -> Iterator[LocalServices]:
    with local_services(None, fsync=False) as services:
        yield services


@pytest.fixture
def stack(services: LocalServices, tmp_path: Path) -> Iterator[Stack]:
    with ExitStack() as exits:
        yield Stack(tmp_path, services, exits)


@pytest.fixture
def master(services: LocalServices) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(services.redis_url) as client:
        yield client


def limited(master: Any, url: str) -> str:
    """The address for the user of the page."""
    master.execute_command(*command_of(PAGE))
    master.acl_log_reset()
    address = urlsplit(url)
    return address._replace(netloc=f"perdure:a-long-password@{address.hostname}:{address.port}").geturl()


@pytest.mark.timeout(120)
def test_the_user_of_the_page_is_enough_for_a_fleet(stack: Stack, master: redis.Redis) -> None:
    stack.settings["REDIS_URL"] = limited(master, stack.services.redis_url)
    server, _ = stack.front_door()
    processes = [stack.worker(), stack.arq_worker()]
    for number in range(20):
        assert text_of(server.send(f"message {number}")) == f"MESSAGE {number}"
    gate = stack.gate("gate")
    waiting = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    server.call("tasks/cancel", {"id": waiting})
    until(lambda: "canceled" in gate.lines)
    empty = stack.gate("other")  # what was lost in Redis is rung for again, by the sweep
    busy = server.send(str(empty.path), blocking=False)["id"]
    empty.begun()
    master.flushall()
    empty.open()
    until(lambda: at(server, busy, "completed"))
    assert server._http.get(f"{server.url}/readyz").json() == {"status": "ready", "reasons": []}
    for process in processes:
        process.signal(signal.SIGTERM)
        assert process.ended() == 0, "".join(process.log[-12:])
    assert denied(master) == []
    for process in stack.processes:
        assert not process.said("bell.failed")
        assert not process.said("redis.evicts")


def denied(master: Any) -> list[tuple[Any, Any]]:
    """What the user asked for in vain."""
    entries = [(entry["reason"], entry["object"]) for entry in master.acl_log()]
    return [entry for entry in entries if entry != ("command", "client|setinfo")]


def test_the_user_may_do_nothing_else(redis_alone: str) -> None:
    with redis.Redis.from_url(redis_alone) as master:
        url = limited(master, redis_alone)
        with redis.Redis.from_url(url) as client:
            assert client.ping()
            for command in REFUSED:
                words = command.split(" ")
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*words)
        assert denied(master)


@pytest.fixture
def redis_alone() -> Iterator[str]:
    with local_services(None, postgres=False, fsync=False) as services:
        yield services.redis_url


# ---------------------------------------------------------------------- pickle


class Trap:
    """Unpickled it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.file,)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("command", ["worker", "arq_worker"])
def test_a_planted_pickle_is_not_run_and_costs_no_worker(
    stack: Stack, master: redis.Redis, tmp_path: Path, command: str
) -> None:
    trap = tmp_path / "sprung"
    assert not trap.exists()
    server, _ = stack.front_door()
    worker = getattr(stack, command)()
    assert text_of(server.send("before")) == "BEFORE"
    job: dict[str, Any] = {"t": None, "f": "run_task", "a": [Trap(trap)], "k": {}, "et": 1}
    planted = {
        "whole": pickle.dumps(job),
        "alone": pickle.dumps(Trap(trap)),
        "arguments": orjson.dumps(
            {"t": None, "f": "run_task", "a": ["x", {"y": []}], "k": {"z": 1}, "et": 1}
        ),
        "function": orjson.dumps({"t": None, "f": "os.system", "a": ["true"], "k": {}, "et": 1}),
        "list": b"[]",
        "nothing": b"",
        "no job": b"{}",
    }
    for name, payload in planted.items():
        master.set(f"{job_key_prefix}{name}", payload)
        master.zadd(queue_key("perdure"), {name: 1})
    until(lambda: not master.zcard(queue_key("perdure")))
    master.publish("perdure:notices", pickle.dumps(Trap(trap)))
    assert text_of(server.send("after")) == "AFTER"
    assert worker.popen.poll() is None
    assert not trap.exists()
    pickle.loads(planted["alone"])  # noqa: S301 - the trap is one
    assert trap.exists()


def test_neither_direction_of_arqs_serializers_is_pickle() -> None:
    tree = ast.parse((ROOT / "worker" / "settings.py").read_text())
    [settings] = [
        node for node in ast.walk(tree) if isinstance(node, ast.ClassDef) and node.name == "WorkerSettings"
    ]
    given = [ast.unparse(node) for node in ast.walk(settings) if isinstance(node, ast.Assign)]
    assert {"job_serializer = serialize_job", "job_deserializer = deserialize_job"} <= set(given)
    job: dict[str, Any] = {"t": 1, "f": "f", "a": ["a"], "k": {}, "et": 1}
    assert orjson.loads(serialize_job(job)) == job
    with pytest.raises(ValueError, match=r"JSON|unexpected|char"):
        deserialize_job(pickle.dumps(job))


def test_nobody_imports_what_runs_what_it_reads() -> None:
    """`pickle` and its kind; `arq.connections.create_pool` and `arq.jobs` read with it unless told otherwise."""
    files = [path for folder in ("perdure", "api", "worker") for path in (ROOT / folder).rglob("*.py")]
    assert len(files) > 80
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            names = (
                [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            )
            module = node.module or "" if isinstance(node, ast.ImportFrom) else ""
            imported = {name.partition(".")[0] for name in (*names, module)}
            assert not imported & {
                "pickle",
                "cPickle",
                "marshal",
                "shelve",
                "dill",
                "cloudpickle",
                "joblib",
            }, file
            assert module != "arq.jobs", file
            assert "create_pool" not in names, file
