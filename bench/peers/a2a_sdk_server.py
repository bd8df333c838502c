"""An echo agent on the a2a-sdk, with its DatabaseTaskStore. DATABASE and PORT say where."""

import os
from typing import Any

import uvicorn
from a2a.helpers import get_message_text, new_task_from_user_message, new_text_part
from a2a.server.agent_execution import AgentExecutor, RequestContext
from a2a.server.request_handlers import DefaultRequestHandler
from a2a.server.routes import create_jsonrpc_routes
from a2a.server.tasks import DatabaseTaskStore, TaskUpdater
from a2a.types import AgentCapabilities, AgentCard, AgentInterface
from sqlalchemy.ext.asyncio import create_async_engine
from starlette.applications import Starlette


class Echo(AgentExecutor):
    async def execute(self, context: RequestContext, event_queue: Any) -> None:
        assert context.message
        task = context.current_task or new_task_from_user_message(context.message)
        await event_queue.enqueue_event(task)
        updater = TaskUpdater(event_queue, task.id, task.context_id)
        await updater.start_work()
        await updater.add_artifact([new_text_part(get_message_text(context.message))])
        await updater.complete()

    async def cancel(self, context: RequestContext, event_queue: Any) -> None:
        raise NotImplementedError


port = int(os.environ["PORT"])
card = AgentCard(
    name="echo",
    description="echo",
    version="1",
    capabilities=AgentCapabilities(streaming=True),
    default_input_modes=["text/plain"],
    default_output_modes=["text/plain"],
    supported_interfaces=[
        AgentInterface(protocol_binding="JSONRPC", protocol_version="1.0", url=f"http://127.0.0.1:{port}/")
    ],
)
store = DatabaseTaskStore(create_async_engine(os.environ["DATABASE"], pool_size=20, max_overflow=0))
handler = DefaultRequestHandler(agent_executor=Echo(), task_store=store, agent_card=card)
app = Starlette(routes=create_jsonrpc_routes(handler, rpc_url="/"))
uvicorn.run(app, host="127.0.0.1", port=port, log_level="info", access_log=False)
