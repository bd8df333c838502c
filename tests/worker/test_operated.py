"""What a worker tells operators, and what it does when one asks it to drain."""

from __future__ import annotations

import httpx
import pytest

from perdure import metrics
from perdure.errors import AgentError, ConfigError, Retry
from perdure.operating import Operator
from perdure.storage.operators import TaskFilter, Why
from perdure.tasks import TaskState
from tests.worker.conftest import Shop
from worker.lease import Reins
from worker.port import health_port
from worker.slots import Slots
from worker.sweep import beat
from worker.turn import run_turn


def _value(name: str, **labels: str) -> float:
    return metrics.REGISTRY.get_sample_value(name, labels) or 0.0


async def test_operators_see_why_a_turn_failed_and_callers_do_not(any_shop: Shop) -> None:
    def handler(messages: object) -> None:
        raise ValueError("no account 4711 for 'ann'")

    task = await any_shop.run(handler)
    assert task.state is TaskState.FAILED
    assert task.status_message is not None
    assert "4711" not in str(task)
    assert "4711" not in str(await any_shop.events(task.task_id))
    [attempt] = await any_shop.storage.attempts(task.task_id)
    assert attempt.failure is not None
    assert (attempt.why, attempt.failure.error_class) == (Why.FAILED, "ValueError")
    assert attempt.failure.message == "no account 4711 for 'ann'"
    assert "in handler" in attempt.failure.traceback
    assert attempt.failure.worker == "w1"
    assert (await any_shop.storage.find_tasks(TaskFilter(error="account"))).lines[0].task_id == task.task_id


async def test_each_attempt_has_its_own_failure(any_shop: Shop) -> None:
    async def handler(messages: object) -> None:
        raise Retry(0, "not yet")

    task = await any_shop.run(handler)
    await any_shop.run(handler, task.task_id)
    first, second = await any_shop.storage.attempts(task.task_id)
    assert (first.why, first.retry, second.why) == (Why.RETRY, 0, Why.RETRY)
    assert first.failure is not None
    assert (first.failure.error_class, first.failure.message) == ("Retry", "not yet")


async def test_what_an_agent_says_itself_is_a_failure_too(shop: Shop) -> None:
    def handler(messages: object) -> None:
        raise AgentError("the bank is closed")

    task = await shop.run(handler)
    [group] = await shop.storage.failure_groups()
    assert (group.error_class, group.message, group.tasks) == ("AgentError", "the bank is closed", 1)
    assert task.state is TaskState.FAILED


async def test_turns_are_counted(shop: Shop) -> None:
    before = _value("perdure_attempts_total", outcome="completed", agent="")
    waited = _value("perdure_task_wait_seconds_count", agent="")
    claims = _value("perdure_claims_total", result="task")
    await shop.run(lambda messages: "done")
    assert _value("perdure_attempts_total", outcome="completed", agent="") == before + 1
    assert _value("perdure_turn_run_seconds_count", outcome="completed", agent="") >= 1
    assert _value("perdure_task_wait_seconds_count", agent="") == waited + 1
    assert _value("perdure_claims_total", result="task") == claims + 1


async def test_a_worker_that_is_asked_to_drain_begins_nothing_until_it_may_again(any_shop: Shop) -> None:
    worker = any_shop.worker(lambda messages: "done")
    slots, operator = Slots(worker), Operator(any_shop.storage, any_shop.queue, "ann")
    await beat(worker, slots)
    assert await operator.drain("w1") == "asked"
    await beat(worker, slots)
    await any_shop.submit()
    assert slots.free == 0
    assert not await run_turn(worker, Reins())
    await beat(worker, slots)
    [status] = await any_shop.storage.list_workers()
    assert status.beat.draining
    assert status.beat.name
    assert await operator.drain("w1", False) == "resumed"
    await beat(worker, slots)
    assert await run_turn(worker, Reins())


async def test_the_port_answers_probes_and_prometheus(shop: Shop) -> None:
    worker = shop.worker(lambda messages: "done")
    slots = Slots(worker)
    with health_port(slots, "127.0.0.1", 0) as port:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
            assert (await http.get("/healthz")).status_code == 200
            assert (await http.get("/readyz")).json()["reasons"] == ["the task store cannot be reached"]
            worker.duty.storage_answers = True
            assert (await http.get("/readyz")).json() == {"status": "ready", "reasons": []}
            worker.duty.draining = True
            assert (await http.get("/readyz")).status_code == 503
            scraped = await http.get("/metrics")
            assert scraped.headers["Content-Type"].startswith("text/plain")
            assert "perdure_draining 1.0" in scraped.text
            assert (await http.get("/tasks")).status_code == 404
    with health_port(slots, "127.0.0.1", None) as none:
        assert none is None


async def test_a_port_that_is_taken_is_one_readable_line(shop: Shop) -> None:
    slots = Slots(shop.worker(lambda messages: "done"))
    with (
        health_port(slots, "127.0.0.1", 0) as port,
        pytest.raises(ConfigError, match="WORKER__HEALTH_PORT: cannot listen"),
        health_port(slots, "127.0.0.1", port),
    ):
        pass
