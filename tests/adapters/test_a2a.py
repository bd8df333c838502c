"""Executors of the official SDK, unchanged, as handlers."""

from __future__ import annotations

import asyncio
from typing import Any

from a2a.helpers.proto_helpers import new_task_from_user_message, new_text_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentExtension, AgentSkill, TaskState

from perdure.adapters import a2a
from perdure.agent import Agent
from perdure.tasks import Message, Role, TextPart
from perdure.testing import run

UNITS = "https://example.com/extensions/units"


class Speaker(AgentExecutor):
    """What the SDK's guide writes: a task, work, artifacts, an end; a question before that."""

    canceled = asyncio.Event()

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        task = context.current_task
        if task is None:
            assert context.message is not None
            task = new_task_from_user_message(context.message)
            await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work(new_text_message("thinking"))
        match context.get_user_input():
            case "stream":
                for number, word in enumerate(("one ", "two ", "three")):
                    await updater.add_artifact(
                        [new_text_part(word)], artifact_id="words", append=number > 0, last_chunk=number == 2
                    )
                await updater.complete()
            case "ask" if context.current_task is None:
                await updater.requires_input(new_text_message("Which city?"))
            case "wait":
                await asyncio.Event().wait()
            case "refuse":
                await updater.reject(new_text_message("no"))
            case "break":
                raise RuntimeError("broken")
            case text:
                await updater.add_artifact([new_text_part(text)], name="answer")
                await updater.complete(new_text_message("done"))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()
        self.canceled.set()


class Greeter(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        await event_queue.enqueue_event(new_text_message("hello"))

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


async def test_artifacts_messages_and_the_last_status_are_the_turns() -> None:
    result = await run(a2a.handler(Speaker()), "Lisbon")
    assert (result.state, result.text, result.status) == ("completed", "Lisbon", "done")
    assert result.artifacts[0].name == "answer"
    assert [message.text for message in result.messages] == ["thinking"]


async def test_chunks_are_streamed_into_one_artifact() -> None:
    result = await run(a2a.handler(Speaker()), "stream")
    assert result.chunks == ("one ", "two ", "three")
    [artifact] = result.artifacts
    assert (artifact.artifact_id, artifact.text) == ("words", "one two three")


async def test_a_question_interrupts_and_its_answer_has_the_task() -> None:
    handler = a2a.handler(Speaker())
    asked = await run(handler, "ask")
    assert (asked.state, asked.status) == ("input-required", "Which city?")

    class Resumed(AgentExecutor):
        async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
            assert context.current_task is not None
            assert context.current_task.status.state == TaskState.TASK_STATE_INPUT_REQUIRED
            said = [message.parts[0].text for message in context.current_task.history]
            await event_queue.enqueue_event(new_text_message(" ".join([*said, context.get_user_input()])))

        async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None: ...

    seen: list[Any] = []

    async def with_own_task(messages: Any, turn: Any) -> Any:
        seen.append(turn)
        mine = [
            Message(parts=(TextPart(text),), role=role, message_id=text, task_id=turn.task_id)
            for role, text in ((Role.USER, "ask"), (Role.AGENT, "Which city?"), (Role.USER, "Lisbon"))
        ]
        turn.messages = mine
        return await a2a.handler(Resumed())(messages, turn)

    result = await run(with_own_task, "Lisbon")
    assert result.status == "ask Which city? Lisbon"


async def test_a_lone_message_is_a_reply() -> None:
    result = await run(a2a.handler(Greeter()), "hi")
    assert (result.state, result.status, result.artifacts) == ("completed", "hello", ())


async def test_other_ends() -> None:
    refused = await run(a2a.handler(Speaker()), "refuse")
    assert (refused.state, refused.status) == ("rejected", "no")
    broken = await run(a2a.handler(Speaker()), "break")
    assert broken.state == "failed"
    assert isinstance(broken.error, RuntimeError)


async def test_a_turn_that_is_stopped_calls_cancel() -> None:
    executor = Speaker()
    running = asyncio.create_task(run(a2a.handler(executor), "wait"))
    while not running.done() and not executor.canceled.is_set():
        await asyncio.sleep(0)
        running.cancel()
    assert executor.canceled.is_set()


def test_a_card_becomes_a_config() -> None:
    card = AgentCard(
        name="speaker",
        description="speaks",
        version="2.1",
        capabilities=AgentCapabilities(streaming=True, extensions=[AgentExtension(uri=UNITS, required=True)]),
        default_input_modes=["text/plain"],
        skills=[
            AgentSkill(
                id="talk",
                name="Talk",
                description="talks",
                tags=["talk"],
                input_modes=["image/png"],
                output_modes=["text/csv"],
            )
        ],
    )
    agent = Agent.of(a2a.config(card, priority=3), a2a.handler(Speaker()))
    assert (agent.config.name, agent.config.version, agent.config.priority) == ("speaker", "2.1", 3)
    assert agent.config.default_input_modes == ["text/plain"]
    [skill] = agent.skills
    assert (skill.id, skill.input_modes, skill.output_modes) == ("talk", ("image/png",), ("text/csv",))
    [extension] = agent.config.capabilities.extensions
    assert (extension.uri, extension.required) == (UNITS, True)


class Teller(AgentExecutor):
    """Says what its request context knows of the request."""

    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        await event_queue.enqueue_event(
            new_text_message(f"{context.tenant} {' '.join(context.requested_extensions)}")
        )

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        raise NotImplementedError


async def test_the_context_knows_the_tenant_and_the_active_extensions() -> None:
    result = await run(a2a.handler(Teller()), "hi", tenant="acme", extensions=[UNITS])
    assert result.status == f"acme {UNITS}"
