"""Feedback, webhook configs, workers' signs of life."""

from __future__ import annotations

from dataclasses import replace

import pytest

from perdure.errors import InvalidParams, TaskNotFound, WebhookConfigNotFound
from perdure.ids import new_task_id
from perdure.storage import Storage, WebhookConfig
from perdure.storage.operators import WorkerBeat
from tests.support.stories import ME, id_of, load, submit


@pytest.mark.parametrize("rating", [None, 1, 3, 5])
async def test_feedback_is_read_back(storage: Storage, rating: int | None) -> None:
    accepted = await submit(storage)
    stored = await storage.store_feedback(
        ME, id_of(accepted), text="good 👍", rating=rating, metadata={"by": {"name": "x"}}
    )
    assert (stored.task_id, stored.text, stored.rating) == (id_of(accepted), "good 👍", rating)
    assert stored.metadata == {"by": {"name": "x"}}
    assert list(await storage.load_feedback(ME, id_of(accepted))) == [stored]


async def test_feedback_comes_oldest_first_and_changes_no_task(storage: Storage) -> None:
    accepted = await submit(storage)
    for text in ("one", "two", "two"):
        await storage.store_feedback(ME, id_of(accepted), text=text)
    found = await storage.load_feedback(ME, id_of(accepted))
    assert [feedback.text for feedback in found] == ["one", "two", "two"]
    assert len({feedback.feedback_id for feedback in found}) == 3
    assert (await load(storage, accepted)).last_seq == 1


@pytest.mark.parametrize("rating", [0, 6, -1, 10**6])
async def test_a_rating_is_from_1_to_5(storage: Storage, rating: int) -> None:
    accepted = await submit(storage)
    with pytest.raises(InvalidParams) as refused:
        await storage.store_feedback(ME, id_of(accepted), text="x", rating=rating)
    assert "rating" in refused.value.field
    assert list(await storage.load_feedback(ME, id_of(accepted))) == []


async def test_feedback_on_no_task(storage: Storage) -> None:
    with pytest.raises(TaskNotFound):
        await storage.store_feedback(ME, new_task_id(), text="x")
    with pytest.raises(TaskNotFound):
        await storage.load_feedback(ME, new_task_id())


async def test_a_webhook_config_is_added_replaced_and_deleted(storage: Storage) -> None:
    task_id = id_of(await submit(storage))
    config = WebhookConfig(
        config_id="c-1",
        task_id=task_id,
        url="https://example.com/hook?a=b",
        token="t",
        scheme="Bearer",
        credentials="secret",
    )
    assert await storage.save_webhook_config(ME, config) == config
    assert await storage.load_webhook_config(ME, task_id, "c-1") == config
    changed = replace(config, url="https://example.com/other", token="")
    await storage.save_webhook_config(ME, changed)
    assert list((await storage.list_webhook_configs(ME, task_id)).configs) == [changed]
    for _ in range(2):
        await storage.delete_webhook_config(ME, task_id, "c-1")
    with pytest.raises(WebhookConfigNotFound, match="c-1"):
        await storage.load_webhook_config(ME, task_id, "c-1")


async def test_webhook_configs_are_paged_by_their_ids(storage: Storage) -> None:
    task_id, other = id_of(await submit(storage)), id_of(await submit(storage))
    for name in "ecadb":
        await storage.save_webhook_config(
            ME, WebhookConfig(config_id=name, task_id=task_id, url=f"https://{name}")
        )
    await storage.save_webhook_config(ME, WebhookConfig(config_id="a", task_id=other, url="https://other"))
    pages = []
    after = None
    while True:
        page = await storage.list_webhook_configs(ME, task_id, page_size=2, after=after)
        pages.append("".join(config.config_id for config in page.configs))
        if page.next is None:
            break
        after = page.next
    assert pages == ["ab", "cd", "e"]
    (theirs,) = (await storage.list_webhook_configs(ME, other)).configs
    assert theirs.url == "https://other"


async def test_webhook_configs_of_no_task(storage: Storage) -> None:
    config = WebhookConfig(config_id="c", task_id=new_task_id(), url="https://x")
    with pytest.raises(TaskNotFound):
        await storage.save_webhook_config(ME, config)
    with pytest.raises(TaskNotFound):
        await storage.load_webhook_config(ME, config.task_id, "c")
    with pytest.raises(TaskNotFound):
        await storage.list_webhook_configs(ME, config.task_id)
    with pytest.raises(TaskNotFound):
        await storage.delete_webhook_config(ME, config.task_id, "c")


async def test_a_live_task_without_configs(storage: Storage) -> None:
    page = await storage.list_webhook_configs(ME, id_of(await submit(storage)))
    assert (list(page.configs), page.next) == ([], None)


async def test_workers_that_live_and_take_work_are_counted(storage: Storage) -> None:
    beat = WorkerBeat(worker_id="w-1", slots=4, running=0, version="1")
    assert await storage.workers_alive(60.0) == 0
    await storage.beat(beat)
    await storage.beat(replace(beat, running=2))
    await storage.beat(replace(beat, worker_id="w-2"))
    assert await storage.workers_alive(60.0) == 2
    assert await storage.workers_alive(0.0) == 0
    await storage.beat(replace(beat, draining=True))
    assert await storage.workers_alive(60.0) == 1
    await storage.forget_worker("w-2")
    await storage.forget_worker("never heard of")
    assert await storage.workers_alive(60.0) == 0


async def test_a_storage_that_works_says_so(storage: Storage) -> None:
    await storage.check()
