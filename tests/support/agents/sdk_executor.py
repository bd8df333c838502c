"""An AgentExecutor of the a2a-sdk that says a word, waits for the file named in the message, and says another."""

import asyncio
import os
from pathlib import Path

from a2a.helpers import new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.events import EventQueue
from a2a.server.tasks import TaskUpdater

from perdure import bindufy
from perdure.adapters import a2a


class Gated(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
        updater = TaskUpdater(event_queue, context.task_id or "", context.context_id or "")
        gate = context.get_user_input()
        await updater.add_artifact([new_text_part("before ")], artifact_id="answer")
        with Path(f"{gate}.log").open("a") as log:  # noqa: ASYNC230
            print(os.getpid(), context.call_context.state["attempt"], file=log)
        while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 -- another process opens it
            await asyncio.sleep(0.01)
        await updater.add_artifact(
            [new_text_part("after")], artifact_id="answer", append=True, last_chunk=True
        )
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
        await TaskUpdater(event_queue, context.task_id or "", context.context_id or "").cancel()


bindufy({"name": "gated"}, a2a.handler(Gated()))
