"""The front door and the bell: it says what is to be said, and never waits for Redis to hear it."""

from __future__ import annotations

from api.auth import ANYBODY
from api.task_manager import TaskManager
from api.wire.asked import Send
from perdure.queue.arq import ArqQueue
from perdure.tasks import Message, Ring, Role, TaskState, TextPart
from tests.api.front import Front
from tests.support.proxy import proxied


async def test_neither_a_send_nor_a_cancel_waits_for_a_redis_that_hangs(front: Front, redis_url: str) -> None:
    """Once it answers again it hears of them."""
    with proxied(redis_url) as network:
        queue = ArqQueue(network.url(redis_url), "test", patience=3600)
        manager = TaskManager(front.storage, queue, front.watch, front.settings.server, front.agent.config)
        network.hold()
        tasks = [await manager.send_message(ANYBODY, told(f"{number}")) for number in range(3)]
        canceled = await manager.cancel_task(ANYBODY, str(tasks[0].task_id))
        assert canceled.state is TaskState.CANCELED
        network.heal()
        await queue.ring([Ring(tasks[0].task_id, 2)])  # goes out after them
        assert await queue.missing([Ring(task.task_id, 1) for task in tasks]) == []
        await queue.close()


def told(text: str) -> Send:
    """A message that nobody waits for."""
    message = Message(role=Role.USER, parts=(TextPart(text),), message_id=text)
    return Send(message=message, return_immediately=True)
