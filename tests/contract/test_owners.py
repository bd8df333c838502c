"""What belongs to somebody else does not exist."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from perdure.errors import ContextNotFound, TaskNotFound
from perdure.owners import agent_of, owner_at
from perdure.storage import Storage, TaskQuery, WebhookConfig
from tests.support.stories import ME, SOMEONE_ELSE, claim, id_of, load, log, says, started, submit, texts

Ask = Callable[[Storage, str, UUID], Awaitable[Any]]


def _config(task_id: UUID) -> WebhookConfig:
    return WebhookConfig(config_id="c", task_id=task_id, url="https://x")


TASK_QUESTIONS: dict[str, Ask] = {
    "continue_task": lambda storage, owner, task: storage.continue_task(owner, task, says("hi")),
    "cancel_task": lambda storage, owner, task: storage.cancel_task(owner, task),
    "cancel_task with a message": lambda storage, owner, task: storage.cancel_task(owner, task, says("stop")),
    "load_task": lambda storage, owner, task: storage.load_task(owner, task),
    "store_feedback": lambda storage, owner, task: storage.store_feedback(owner, task, text="x", rating=5),
    "load_feedback": lambda storage, owner, task: storage.load_feedback(owner, task),
    "save_webhook_config": lambda storage, owner, task: storage.save_webhook_config(owner, _config(task)),
    "load_webhook_config": lambda storage, owner, task: storage.load_webhook_config(owner, task, "c"),
    "list_webhook_configs": lambda storage, owner, task: storage.list_webhook_configs(owner, task),
    "delete_webhook_config": lambda storage, owner, task: storage.delete_webhook_config(owner, task, "c"),
}
CONTEXT_QUESTIONS: dict[str, Ask] = {
    "load_context": lambda storage, owner, _: storage.load_context(owner, "talk"),
    "update_context": lambda storage, owner, _: storage.update_context(owner, "talk", {"k": 1}),
    "clear_context": lambda storage, owner, _: storage.clear_context(owner, "talk"),
}


@pytest.fixture(
    params=[SOMEONE_ELSE, owner_at("a", ME)], ids=["somebody else", "the same caller at an agent"]
)
def other(request: pytest.FixtureRequest) -> str:
    """Another owner."""
    found: str = request.param
    return found


@pytest.mark.parametrize("question", TASK_QUESTIONS)
async def test_somebody_elses_task_is_not_found(storage: Storage, question: str, other: str) -> None:
    turn = await started(storage)
    await storage.save_webhook_config(ME, _config(id_of(turn)))
    before = (await load(storage, turn), await log(storage, turn))
    with pytest.raises(TaskNotFound):
        await TASK_QUESTIONS[question](storage, other, id_of(turn))
    assert (await load(storage, turn), await log(storage, turn)) == before
    assert list(await storage.load_feedback(ME, id_of(turn))) == []
    assert (await storage.load_webhook_config(ME, id_of(turn), "c")).url == "https://x"


@pytest.mark.parametrize("question", CONTEXT_QUESTIONS)
async def test_somebody_elses_context_is_not_found(storage: Storage, question: str, other: str) -> None:
    turn = await started(storage)
    before = await storage.load_context(ME, "talk")
    with pytest.raises(ContextNotFound):
        await CONTEXT_QUESTIONS[question](storage, other, id_of(turn))
    assert await storage.load_context(ME, "talk") == before


async def test_somebody_elses_lists_are_empty(storage: Storage, other: str) -> None:
    turn = await started(storage)
    tasks = await storage.list_tasks(TaskQuery(owner=other))
    assert (list(tasks.tasks), tasks.total) == ([], 0)
    assert list((await storage.list_tasks(TaskQuery(owner=other, context_id="talk"))).tasks) == []
    assert list((await storage.list_contexts(other)).contexts) == []
    assert list(await storage.events_since(other, id_of(turn), 0)) == []


async def test_a_context_of_the_same_name_is_another_context(storage: Storage, other: str) -> None:
    await started(storage, "mine")
    await storage.append_messages(other, "talk", [says("theirs")])
    await submit(storage, "their task", owner=other)
    theirs = await claim(storage, agent=agent_of(other))
    assert texts(theirs.conversation) == ["theirs", "their task"]
    await storage.clear_context(other, "talk")
    assert texts((await storage.load_context(ME, "talk")).messages) == ["mine"]
