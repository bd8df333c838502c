"""An AgentExecutor of the official a2a-sdk, as it is, made durable. Needs `pip install 'perdure[a2a]'`.

perdure serve examples/with_a2a_sdk.py
perdure send "one two three"
"""

from a2a.helpers import new_text_part
from a2a.server.agent_execution import AgentExecutor
from a2a.server.tasks import TaskUpdater

from perdure import bindufy
from perdure.adapters import a2a


class Repeater(AgentExecutor):
    async def execute(self, context, event_queue):
        updater = TaskUpdater(event_queue, context.task_id, context.context_id)
        await updater.start_work()
        for number, word in enumerate(context.get_user_input().split()):
            await updater.add_artifact([new_text_part(word + " ")], artifact_id="words", append=number > 0)
        await updater.complete()

    async def cancel(self, context, event_queue):
        await TaskUpdater(event_queue, context.task_id, context.context_id).cancel()


bindufy({"name": "repeater", "description": "Repeats what it is told"}, a2a.handler(Repeater()))
