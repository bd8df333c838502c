"""An echo agent on fasta2a, in memory: it loses all tasks when it ends. PORT says where."""

import os
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from fasta2a import FastA2A, Worker
from fasta2a.broker import InMemoryBroker
from fasta2a.storage import InMemoryStorage

storage: Any = InMemoryStorage()
broker = InMemoryBroker()


class Echo(Worker):
    async def run_task(self, params: Any) -> None:
        task = await self.storage.load_task(params["id"])
        await self.storage.update_task(task["id"], state="working")
        artifact = {"artifact_id": str(uuid.uuid4()), "parts": params["message"]["parts"]}
        await self.storage.update_task(task["id"], state="completed", new_artifacts=[artifact])

    async def cancel_task(self, params: Any) -> None: ...

    def build_message_history(self, history: Any) -> Any:
        return history

    def build_artifacts(self, result: Any) -> Any:
        return result


@asynccontextmanager
async def lifespan(app: FastA2A) -> AsyncIterator[None]:
    async with app.task_manager, Echo(storage=storage, broker=broker).run():
        yield


app = FastA2A(storage=storage, broker=broker, lifespan=lifespan)
uvicorn.run(app, host="127.0.0.1", port=int(os.environ["PORT"]), access_log=False)
