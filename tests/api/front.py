"""A front door with an agent that is played by the test: turns are claimed and settled through the Storage port. In memory unless
another storage is given."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from uuid import UUID, uuid4

import httpx
import orjson
from starlette.applications import Starlette

from api.app import create_app
from api.task_manager import TaskManager
from perdure.agent import Agent
from perdure.agent.callables import Handler
from perdure.ids import new_token
from perdure.owners import ONLY
from perdure.queue.inline import InlineQueue
from perdure.settings import (
    AuthSettings,
    CardSettings,
    ServerSettings,
    Settings,
    WebhookSettings,
    WorkerSettings,
)
from perdure.storage import ClaimedTurn, Storage, TaskQuery
from perdure.storage.memory import MemoryStorage
from perdure.storage.operators import TaskLine
from perdure.tasks import (
    ANONYMOUS,
    Artifact,
    ArtifactChunk,
    Event,
    Message,
    Notice,
    Role,
    Task,
    TaskState,
    TextPart,
)
from perdure.watch import Watch
from tests.api.documented import check
from worker.embedded import embedded

URL = "http://agent.test"
Json = dict[str, Any]
End = Mapping[str, Any]
"""The arguments of `Storage.update_task` that end a turn."""


def text(words: str, artifact_id: str = "answer") -> Artifact:
    """An artifact of one text."""
    return Artifact(artifact_id=artifact_id, parts=(TextPart(words),))


def chunk(words: str, *, append: bool = True, last: bool = False) -> ArtifactChunk:
    """A piece of the answer."""
    return ArtifactChunk(text(words), append=append, last_chunk=last)


def says(words: str) -> Message:
    """The agent's words."""
    return Message(message_id=str(uuid4()), role=Role.AGENT, parts=(TextPart(words),))


def answer(words: str) -> End:
    """The turn ends well."""
    return {"state": TaskState.COMPLETED, "new_artifacts": [text(words)]}


def question(words: str) -> End:
    """The turn ends with a question."""
    return {"state": TaskState.INPUT_REQUIRED, "status_message": says(words)}


def echo(turn: ClaimedTurn) -> End:
    """Repeats the newest message; asks back when it ends with a question mark."""
    heard = turn.conversation[-1].text
    return question(f"why {heard}") if heard.endswith("?") else answer(heard)


@dataclass
class Front:
    """The front door, what is behind it, and the hands of the agent."""

    storage: Storage
    queue: InlineQueue
    watch: Watch
    app: Starlette
    manager: TaskManager
    agent: Agent
    settings: Settings
    http: httpx.AsyncClient
    several: Mapping[str, Agent] = field(default_factory=dict)
    turns: set[asyncio.Task[None]] = field(default_factory=set)
    bell: asyncio.Queue[None] = field(default_factory=asyncio.Queue)
    """Has an item for every ring."""

    # ------------------------------------------------------------------ as a client

    async def post(self, method: str, params: Any = None, **headers: str) -> httpx.Response:
        """A JSON-RPC request."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.post("/", json=body, headers=names)

    async def call(self, method: str, params: Any = None, **headers: str) -> Any:
        """The result of a JSON-RPC request."""
        response = await self.post(method, params, **headers)
        assert response.status_code == 200, response.text
        reply = response.json()
        assert reply["jsonrpc"] == "2.0"
        assert reply["id"] == 7
        assert "error" not in reply, reply
        return reply["result"]

    async def error(self, method: str, params: Any = None, **headers: str) -> Json:
        """The error of a JSON-RPC request."""
        reply = (await self.post(method, params, **headers)).json()
        assert "result" not in reply, reply
        error: Json = reply["error"]
        return error

    def live(self, method: str, params: Any = None, **headers: str) -> Live:
        """A JSON-RPC request whose answer is read while it is made."""
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": params}
        return Live(self.app, "POST", "/", body, headers)

    # ------------------------------------------------------------------ as the agent

    def plays(self, play: Callable[[ClaimedTurn], End]) -> None:
        """From now on every ring runs a turn."""

        async def run() -> None:
            turn = await self.storage.claim_task("worker", new_token(), lease=60)
            if turn is not None:
                await self.tell(turn, TaskState.WORKING)
                await self.ends(turn, **play(turn))

        def rung() -> None:
            task = asyncio.create_task(run())
            self.turns.add(task)
            task.add_done_callback(self.turns.discard)

        self.queue.attach(rung)

    async def takes_next(self) -> ClaimedTurn:
        """The agent waits for the bell, and starts the turn that is due."""
        await self.bell.get()
        return await self.takes()

    async def takes(self, agent: str = ONLY) -> ClaimedTurn:
        """The agent starts the turn that is due."""
        turn = await self.storage.claim_task("worker", new_token(), lease=60, agent=agent)
        assert turn is not None, "nothing is due"
        await self.tell(turn, TaskState.WORKING)
        return turn

    async def writes(self, turn: ClaimedTurn, number: int, *chunks: ArtifactChunk, **write: Any) -> None:
        """The agent says something in mid-turn."""
        written = await self.storage.update_task(turn.claim, number, new_artifacts=chunks, **write)
        await self.queue.announce([Notice(turn.claim.task_id, written.seq, written.state)])

    async def ends(self, turn: ClaimedTurn, *, number: int = 1, **end: Any) -> None:
        """The agent ends a turn."""
        written = await self.storage.update_task(turn.claim, number, **end)
        await self.queue.announce([Notice(turn.claim.task_id, written.seq, written.state)])
        await self.queue.ring(written.rings)

    async def tell(self, turn: ClaimedTurn, state: TaskState) -> None:
        await self.queue.announce([Notice(turn.claim.task_id, turn.task.last_seq, state)])

    # ------------------------------------------------------------------ as someone who looks into the storage

    async def stored(self) -> int:
        """How many tasks there are."""
        return (await self.storage.list_tasks(TaskQuery(owner=ANONYMOUS))).total

    async def line(self, task_id: str) -> TaskLine:
        """A task as operators see it."""
        return await self.storage.task_line(UUID(task_id))

    async def rests(self, task_id: str) -> Task:
        """A task, once it rests."""
        with self.watch.waiter(UUID(task_id)) as waiter:
            task = await self.storage.load_task(ANONYMOUS, UUID(task_id))
            while not task.state.rests:
                await waiter.beyond(task.last_seq)
                task = await self.storage.load_task(ANONYMOUS, UUID(task_id))
            return task

    async def log(self, task_id: str) -> Sequence[Event]:
        """A task's events."""
        return await self.storage.events_since(ANONYMOUS, UUID(task_id), 0)


async def _documented(response: httpx.Response) -> None:
    await response.aread()
    check(response)


@asynccontextmanager
async def opened_front(
    config: Json | None = None,
    *,
    storage: Storage | None = None,
    handler: Handler | Sequence[Handler] = lambda messages: messages,
    auth: AuthSettings | None = None,
    webhooks: WebhookSettings | None = None,
    card: CardSettings | None = None,
    worker: WorkerSettings | None = None,
    agents: Sequence[str] = (),
    **server: Any,
) -> AsyncIterator[Front]:
    """A front door for an agent with the given config and server settings, or for several with these names. The handler runs
    only inside of `at_work`, that of the first agent for all of them."""
    storage, queue = storage or MemoryStorage(), InlineQueue()
    settings = Settings(
        server=ServerSettings(**server),
        auth=auth or AuthSettings(),
        webhooks=webhooks or WebhookSettings(),
        card=card or CardSettings(),
        worker=worker or WorkerSettings(),
    )
    watch = Watch(storage, queue, refresh=settings.server.refresh)
    agent = Agent.of({"name": "echo", "deployment": {"url": URL}} | (config or {}), handler)
    several = {name: replace(agent, config=agent.config.model_copy(update={"name": name})) for name in agents}
    app = create_app(several or agent, storage, queue, watch, settings)
    manager = app.state.manager
    transport = httpx.ASGITransport(app)
    async with (
        watch.running(),
        httpx.AsyncClient(transport=transport, base_url=URL, event_hooks={"response": [_documented]}) as http,
    ):
        front = Front(storage, queue, watch, app, manager, agent, settings, http, several)
        for name in several or {ONLY: agent}:
            queue.attach(lambda: front.bell.put_nowait(None), name)
        yield front
        for task in front.turns:
            task.cancel()
        await asyncio.gather(*front.turns, return_exceptions=True)


@asynccontextmanager
async def at_work(front: Front) -> AsyncIterator[None]:
    """A worker runs the handler while inside. It hears of changes by notices only, not by its renewals."""
    settings = front.settings.model_copy(update={"worker": WorkerSettings(lease=3600, grace=0)})
    async with embedded(front.several or front.agent, front.storage, front.queue, front.watch, settings):
        yield


# ---------------------------------------------------------------------- messages, as JSON


def message(words: str = "hello", **members: Any) -> Json:
    """A 1.0 Message of a user."""
    return {"messageId": str(uuid4()), "role": "ROLE_USER", "parts": [{"text": words}], **members}


def at_once(words: str = "hello", **members: Any) -> Json:
    """A SendMessageRequest that does not wait."""
    return {"message": message(words, **members), "configuration": {"returnImmediately": True}}


def message03(words: str = "hello", **members: Any) -> Json:
    """A 0.3 Message of a user."""
    part = {"kind": "text", "text": words}
    return {"kind": "message", "messageId": str(uuid4()), "role": "user", "parts": [part], **members}


def texts(messages: Sequence[Json]) -> list[str]:
    """What messages or artifacts say."""
    return ["".join(part["text"] for part in said["parts"]) for said in messages]


# ---------------------------------------------------------------------- streams


@dataclass
class Frame:
    """One event of a stream."""

    id: int | None
    name: str
    data: Any


class Live:
    """One request to an ASGI app. The answer is read while it is made, and the client can hang up."""

    def __init__(
        self,
        app: Starlette,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        self._app = app
        self._sent: asyncio.Queue[Any] = asyncio.Queue()
        self._received: asyncio.Queue[Any] = asyncio.Queue()
        self._rest = b""
        self._ended = False
        content = body if isinstance(body, bytes) else b"" if body is None else orjson.dumps(body)
        names = {"Content-Type": "application/json"} if content else {}
        names |= {name.replace("_", "-"): value for name, value in (headers or {}).items()}
        url = httpx.URL(path)
        self._scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": url.path,
            "raw_path": url.raw_path.split(b"?")[0],
            "query_string": url.query,
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in names.items()],
            "client": ("127.0.0.1", 1),
            "server": ("agent.test", 80),
        }
        self._received.put_nowait({"type": "http.request", "body": content, "more_body": False})
        self.status = 0
        self.headers: dict[str, str] = {}

    async def __aenter__(self) -> Live:
        self._task = asyncio.create_task(self._app(self._scope, self._received.get, self._sent.put))
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.leave()

    async def leave(self) -> None:
        """Hang up, and wait until the app has noticed."""
        self._received.put_nowait({"type": "http.disconnect"})
        await self._task

    async def starts(self) -> Live:
        """Wait for the head of the answer."""
        head = await self._sent.get()
        self.status = head["status"]
        self.headers = {name.decode(): value.decode() for name, value in head["headers"]}
        return self

    async def piece(self) -> bytes:
        """The next bytes of the body; none at the end."""
        body = b""
        while not body and not self._ended:
            sent = await self._sent.get()
            body, self._ended = sent["body"], not sent.get("more_body")
        return body

    async def block(self) -> str | None:
        """The next event or comment as it is written; None at the end."""
        if not self.status:
            await self.starts()
        while b"\n\n" not in self._rest:
            if self._ended:
                return None
            sent = await self._sent.get()
            self._rest += sent["body"]
            self._ended = not sent.get("more_body")
        block, self._rest = self._rest.split(b"\n\n", 1)
        return block.decode()

    async def frame(self) -> Frame | None:
        """The next event; None at the end."""
        block = await self.block()
        while block is not None and block.startswith(":"):
            block = await self.block()
        if block is None:
            return None
        lines = dict(line.split(": ", 1) for line in block.split("\n"))
        number = int(lines["id"]) if "id" in lines else None
        return Frame(number, lines.get("event", "message"), orjson.loads(lines["data"]))

    async def result(self) -> tuple[int | None, Json]:
        """The number and the result of the next event of a JSON-RPC stream."""
        frame = await self.frame()
        assert frame is not None, "the stream has ended"
        assert frame.data["id"] == 7
        result: Json = frame.data["result"]
        return frame.id, result

    async def rest(self) -> list[Frame]:
        """Every event until the end."""
        frames = []
        while (frame := await self.frame()) is not None:
            frames.append(frame)
        return frames


class LiveTransport(httpx.AsyncBaseTransport):
    """For httpx clients that read a stream while it is made: httpx's own ASGI transport hands it out at its end."""

    def __init__(self, app: Starlette) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        names = {name: value for name, value in request.headers.items() if name != "content-type"}
        live = Live(self._app, request.method, request.url.raw_path.decode(), await request.aread(), names)
        await live.__aenter__()
        await live.starts()
        return httpx.Response(live.status, headers=live.headers, stream=_Pieces(live))


class _Pieces(httpx.AsyncByteStream):
    def __init__(self, live: Live) -> None:
        self._live = live

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await self._live.piece():
            yield piece

    async def aclose(self) -> None:
        await self._live.leave()
