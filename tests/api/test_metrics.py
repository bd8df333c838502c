"""`/metrics` of the front door: who may read it, and what it says of the fleet."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from pydantic import SecretStr

from perdure.owners import owner_at
from perdure.settings import AuthSettings, WorkerSettings
from perdure.storage.operators import WorkerBeat
from tests.api.front import opened_front
from tests.support.stories import ME, started, submit

KEY = "k" * 40


def _samples(text: str) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *sorted(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_the_fleet_is_told() -> None:
    async with opened_front() as front:
        await front.storage.beat(WorkerBeat(worker_id="w", slots=4, running=1, version="1"))
        params = {"message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hi"}]}}
        await front.call(
            "SendMessage", params | {"configuration": {"returnImmediately": True}}, A2A_Version="1.0"
        )
        answer = await front.http.get("/metrics")
        samples = _samples(answer.text)
        assert answer.headers["Content-Type"].startswith("text/plain")
        assert samples["perdure_tasks", "", "submitted"] == 1
        assert samples["perdure_tasks", "", "working"] == 0
        assert samples["perdure_oldest_waiting_seconds",] >= 0
        assert samples["perdure_workers", "false"] == 1
        assert samples["perdure_worker_slots", "true"] == 1
        assert samples["perdure_worker_slots", "false"] == 3
        assert samples["perdure_storage_up",] == 1
        assert samples["perdure_queue_up",] == 1


async def test_open_tasks_are_told_by_agent() -> None:
    async with opened_front(agents=("weather", "travel")) as front:
        for owner in (ME, owner_at("weather", ME)):
            await submit(front.storage, "hi", owner=owner)
        samples = _samples((await front.http.get("/metrics")).text)
        assert [samples["perdure_tasks", "submitted", name] for name in ("travel", "weather")] == [0, 1]
        assert samples["perdure_tasks", "", "submitted"] == 1


async def test_a_worker_that_keeps_its_task_and_gives_no_sign_is_counted() -> None:
    async with opened_front(worker=WorkerSettings(beat_interval=1e-9)) as front:
        await front.storage.beat(WorkerBeat(worker_id="worker-1", slots=4, running=1, version="1"))
        await started(front.storage)
        samples = _samples((await front.http.get("/metrics")).text)
        assert samples["perdure_blocked_workers",] == 1
        assert samples["perdure_workers", "false"] == 0


async def test_only_operators_may_read_it() -> None:
    async with opened_front(auth=AuthSettings(bootstrap_key=SecretStr(KEY))) as front:
        assert (await front.http.get("/metrics")).status_code == 401
        assert (
            await front.http.get("/metrics", headers={"Authorization": f"Bearer {KEY}"})
        ).status_code == 200
