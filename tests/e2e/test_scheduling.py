"""What callers and agents say about when to run, kept by several workers."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from tests.support.processes import Server, text_of

from .conftest import AGENTS, Stack, at, until


def all_at(server: Server, tasks: list[str], state: str) -> None:
    until(lambda: all(at(server, task, state) for task in tasks))


def test_limits_hold_for_all_workers_together(stack: Stack) -> None:
    stack.settings |= {"AGENT": str(AGENTS / "limited.py"), "WORKER__LEASE": "15"}
    server, _ = stack.front_door()
    workers = [stack.worker(), stack.arq_worker()]

    def send(number: int) -> str:
        metadata = {"tenant": "abc"[number % 3]}
        return str(server.send(str(number), blocking=False, metadata=metadata)["id"])

    sent = 0
    # Whoever is rung may take a whole round.
    while sent == 0 or not all(worker.said("turn.settled") for worker in workers):
        with ThreadPoolExecutor(8) as clients:
            tasks = list(clients.map(send, range(sent, sent + 40)))
        sent += len(tasks)
        all_at(server, tasks, "completed")
    met = [line.split() for line in (stack.folder / "turns.log").read_text().splitlines()]
    assert len(met) == sent
    assert max(map(len, met)) == 2
    assert all(len(set(tenants)) == len(tenants) for tenants in met)
    assert {row["running"] for row in stack.rows("SELECT running FROM concurrency_limits")} <= {0}


def test_a_delayed_task_begins_by_itself(stack: Stack) -> None:
    server, _ = stack.front_door()
    stack.worker()
    sent = time.monotonic()
    later = server.send("later", metadata={"perdure": {"notBefore": 1.5}})
    assert time.monotonic() - sent >= 1.5
    assert text_of(later) == "LATER"


def test_counters_of_values_that_come_no_more_go(stack: Stack) -> None:
    """A worker looks for them when it starts, and every hour."""
    stack.front_door()
    stack.run("INSERT INTO concurrency_limits (limit_key, max_running) VALUES ('tenant=gone', 1)")
    stack.worker()
    until(lambda: not stack.rows("SELECT FROM concurrency_limits"))
