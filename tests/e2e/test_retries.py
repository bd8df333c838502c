"""Failures that may pass, in real processes: Postgres knows when the next run is due, and somebody rings."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.processes import text_of

from .conftest import AGENTS, Stack


@pytest.fixture
def flaky(stack: Stack) -> Stack:
    """A stack whose handlers fail twice."""
    stack.settings["AGENT"] = str(AGENTS / "flaky.py")
    return stack


def reasons(events: list[dict[str, Any]]) -> list[str]:
    """Why the task went back."""
    metadata = [event["payload"].get("metadata") or {} for event in events if event["kind"] == "status"]
    return [each["reason"] for each in metadata if "reason" in each]


@pytest.mark.parametrize("queue", ["arq", "inline"])
def test_who_waits_gets_the_answer_of_the_third_run(flaky: Stack, queue: str) -> None:
    server, _ = flaky.front_door(QUEUE_TYPE=queue)
    if queue == "arq":
        flaky.worker()
    task = server.send("hello")
    assert (task["status"]["state"], text_of(task)) == ("completed", "hello, at the attempt 3")
    row = flaky.task(task["id"])
    assert (row["attempt"], row["failures"], row["crashes"]) == (3, 2, 0)
    assert reasons(flaky.events(task["id"])) == ["retry", "retry"]
    flaky.log_is_whole(task["id"])


def test_it_fails_with_the_reason_when_it_never_passes(flaky: Stack) -> None:
    server, _ = flaky.front_door(TURNS__MAX_FAILURES="2")
    flaky.arq_worker(TURNS__MAX_FAILURES="2")
    task = server.send("never")
    assert task["status"]["state"] == "failed"
    assert task["status"]["message"]["parts"][0]["text"] == "The service is down."
    assert flaky.task(task["id"])["attempt"] == 3
    flaky.log_is_whole(task["id"])
