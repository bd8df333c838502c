"""Postgres goes away, for everybody or for one worker: who keeps his task, who loses it, and what clients see."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from tests.support.processes import sending, text_of
from tests.support.proxy import Line, proxied

from .conftest import Stack, at, status_of, until

LEASE = 1.0
LEASES = 4
"""How many an outage lasts."""


@pytest.fixture
def network(stack: Stack) -> Iterator[Line]:
    """Between Postgres and all processes that are started from now on."""
    direct = stack.settings["DATABASE_URL"]
    stack.settings |= {
        "WORKER__LEASE": str(LEASE),
        "STORAGE__STATEMENT_TIMEOUT": "1",
        "STORAGE__CONNECT_TIMEOUT": "1",
        "SERVER__WAIT_TIMEOUT": "60",
    }
    with proxied(direct) as network:
        stack.settings["DATABASE_URL"] = network.url(direct)
        yield network


Outage = tuple[Callable[[], None], Callable[[], None]]


def outage(kind: str, stack: Stack, network: Line) -> Outage:
    """How it begins and how it ends."""
    postgres = stack.services.postgres
    return {
        "restart": (postgres.stop, postgres.start),
        "crash": (postgres.kill, postgres.start),
        "cut": (network.close, network.heal),
        "frozen": (network.hold, network.heal),
    }[kind]


def has_lasted(seconds: float) -> None:
    """The thing itself is to last: nothing would tell when it has."""
    end = time.monotonic() + seconds
    until(lambda: time.monotonic() > end, seconds=seconds + 5)


@pytest.mark.timeout(180)  # 20 s on a machine that does nothing else
@pytest.mark.parametrize("kind", ["restart", "crash", "cut", "frozen"])
def test_turns_outlive_an_outage_of_many_leases(stack: Stack, network: Line, kind: str) -> None:
    """Their handlers go on, and what they give is recorded by the attempt that it was, whether they end meanwhile or later. The
    client that waits gets it. Another worker waits all the time to take them over."""
    away, back = outage(kind, stack, network)
    server, _ = stack.front_door()
    first, short, long = stack.worker(), stack.gate("short"), stack.gate("long")
    with ThreadPoolExecutor(2) as clients:
        calls = [clients.submit(server.send, str(gate.path)) for gate in (short, long)]
        assert {short.begun(), long.begun()} == {first.popen.pid}
        other = stack.worker()
        until(lambda: len(stack.rows("SELECT FROM task_events WHERE kind = 'artifact'")) == 2)
        away()
        has_lasted(LEASES * LEASE)
        short.open()
        until(lambda: first.said("turn.write_waits") == 1)
        back()
        ended = calls[0].result()
        # The other one was renewed before anybody may judge it, and still is when everybody may.
        now = stack.rows("SELECT clock_timestamp()")[0][0]
        working = "SELECT lease_until FROM tasks WHERE state = 'working'"
        until(lambda: (stack.rows(working)[0][0] - now).total_seconds() > 4 * LEASE)
        long.open()
        for task in (ended, calls[1].result()):
            assert text_of(task) == f"done by {first.popen.pid}"
            stack.log_is_whole(task["id"])
    [counted] = stack.rows("SELECT max(attempt), sum(crashes + failures) FROM tasks")
    assert tuple(counted) == (1, 0)
    assert other.said("turn.started") == 0
    until(lambda: status_of(server) == "ready")
    assert server.send("no process was started again")["status"]["state"] == "completed"


FULL = """
CREATE FUNCTION is_full() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; END $$;
CREATE TRIGGER is_full BEFORE INSERT ON task_events FOR EACH STATEMENT EXECUTE FUNCTION is_full();
"""


def test_a_full_disk_fails_no_task(stack: Stack) -> None:
    """Postgres says so itself. A send is refused, a turn's result waits until there is space."""
    server, _ = stack.front_door()
    worker, gate = stack.worker(), stack.gate("gate")
    task_id = server.send(str(gate.path), blocking=False)["id"]
    gate.begun()
    until(lambda: len(stack.artifact_events(task_id)) == 1)
    stack.run(FULL)
    answer = server.post("message/send", sending("refused"))
    assert (answer.status_code, "retry-after" in answer.headers) == (503, True)
    gate.open()
    until(lambda: worker.said("turn.write_waits") == 1)
    stack.run("DROP FUNCTION is_full CASCADE")
    until(lambda: at(server, task_id, "completed"))
    assert stack.task(task_id)["attempt"] == 1
    assert stack.rows("SELECT count(*) FROM tasks")[0][0] == 1
    stack.log_is_whole(task_id)


def test_who_is_cut_off_for_longer_than_the_others_is_fenced(stack: Stack, network: Line) -> None:
    """Its handler goes on all the same; its result is dropped, and the task completes elsewhere."""
    alone, gate = stack.worker(), stack.gate("gate")
    stack.settings["DATABASE_URL"] = stack.services.database_url  # not by way of the network
    server, _ = stack.front_door()
    task_id = server.send(str(gate.path), blocking=False)["id"]
    assert gate.begun() == alone.popen.pid
    other = stack.worker()
    until(lambda: len(stack.artifact_events(task_id)) == 1)  # it said that it has begun
    network.close()
    assert gate.begun(2) == other.popen.pid
    gate.open(alone.popen.pid)
    until(lambda: alone.said("turn.write_waits") == 1)
    until(lambda: len(stack.artifact_events(task_id)) == 2)
    written = stack.events(task_id)
    network.heal()
    until(lambda: alone.said("turn.lost") == 1)
    assert stack.events(task_id) == written
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    assert text_of(server.call("tasks/get", {"id": task_id})) == f"done by {other.popen.pid}"
    row = stack.task(task_id)
    assert (row["attempt"], row["crashes"]) == (2, 1)
    stack.log_is_whole(task_id)
    assert alone.popen.poll() is None


def test_who_does_not_come_back_within_a_lease_of_an_outage_is_fenced(stack: Stack, network: Line) -> None:
    """And nobody takes its task away before Postgres has been up for a lease."""
    alone, gate = stack.worker(), stack.gate("gate")
    stack.settings["DATABASE_URL"] = stack.services.database_url
    server, _ = stack.front_door()
    task_id = server.send(str(gate.path), blocking=False)["id"]
    assert gate.begun() == alone.popen.pid
    other = stack.worker()
    network.hold()
    stack.services.postgres.stop()
    has_lasted(3 * LEASE)
    stack.services.postgres.start()
    assert gate.begun(2) == other.popen.pid
    [waited] = stack.rows(
        "SELECT created_at - pg_postmaster_start_time() AS waited FROM task_events"
        " WHERE task_id = $1 AND payload #>> '{status,state}' = 'TASK_STATE_SUBMITTED'",
        task_id,
    )
    assert waited["waited"].total_seconds() >= LEASE
    gate.open()
    until(lambda: at(server, task_id, "completed"))
    network.heal()
    until(lambda: alone.said("turn.lost") == 1)
    assert text_of(server.call("tasks/get", {"id": task_id})) == f"done by {other.popen.pid}"
    assert stack.task(task_id)["attempt"] == 2
    stack.log_is_whole(task_id)


def test_a_send_that_gets_no_answer_is_refused_in_time_and_nothing_is_half_done(
    stack: Stack, network: Line
) -> None:
    """It may have been taken all the same, where only the answer was lost: as a whole, then."""
    server, _ = stack.front_door()
    stack.worker()
    assert server.send("before")["status"]["state"] == "completed"
    network.hold()
    answer = server.post("message/send", sending("refused"))
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) > 0
    assert httpx.get(f"{server.url}/readyz", timeout=30).status_code == 503
    assert httpx.get(f"{server.url}/healthz", timeout=30).status_code == 200
    network.heal()
    until(lambda: status_of(server) == "ready")
    assert server.send("after")["status"]["state"] == "completed"
    until(lambda: not stack.rows("SELECT FROM tasks WHERE state <> 'completed'"))
    [counted] = stack.rows(
        "SELECT (SELECT count(*) FROM tasks) AS tasks, (SELECT count(*) FROM contexts) AS contexts,"
        " (SELECT count(*) FROM task_events WHERE seq = 1 AND kind = 'message') AS messages"
    )
    assert counted["tasks"] in {2, 3}
    assert counted["tasks"] == counted["contexts"] == counted["messages"]
