"""The clients: each sends, waits, streams, answers, cancels and tries again, and notes what it was told.

An operation ends `ok` (it was done), `fail` (it was refused, and nothing is left of it) or `unknown`: no answer, half of one, or
an error of the server's. Only a send with an idempotency key is sent again after that, word for word. Every other one is not, and
there may be a task of it or not.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict, dataclass, field
from typing import Any
from uuid import uuid4

import httpx

from tests.chaos.history import TERMINAL, Frame, Recorder

TRIES = 30
PATIENCE = 20.0
"""Seconds that a client waits for an answer: longer than a front door waits for a task."""
IMPATIENCE = 0.3
"""Of one that sends again while the first send is under way."""


@dataclass
class Budget:
    """How many tasks all clients together make, evenly over `seconds` where the fleet keeps up. `keys`: whether idempotency keys
    are sent."""

    tasks: int
    seconds: float
    keys: bool
    begun: float = field(default_factory=time.monotonic)
    tags: set[str] = field(default_factory=set)
    """Of the messages that are known to have made a task."""

    @property
    def spent(self) -> bool:
        """Enough, or far too late."""
        return len(self.tags) >= self.tasks or time.monotonic() - self.begun > 2 * self.seconds

    @property
    def ahead(self) -> bool:
        """There is time for a pause."""
        return len(self.tags) / self.tasks > (time.monotonic() - self.begun) / self.seconds


@dataclass(frozen=True)
class Answer:
    """What one operation came to."""

    outcome: str
    task: str = ""
    state: str = ""
    context: str = ""
    frames: list[Frame] = field(default_factory=list)
    error: str = ""
    nobody: bool = False  # was at the door

    @property
    def known(self) -> bool:
        return self.outcome != "unknown"

    @property
    def ended(self) -> bool:
        return self.state in TERMINAL


@dataclass(frozen=True)
class Order:
    """A message to the agent, see `agent.py`."""

    tag: str
    context: str
    pause: float
    chunks: int
    ask: bool = False
    fail: bool = False

    def message(self) -> dict[str, Any]:
        order = {name: value for name, value in asdict(self).items() if name != "context"}
        return {
            "messageId": self.tag,
            "role": "ROLE_USER",
            "parts": [{"text": json.dumps(order)}],
            "contextId": self.context,
        }


class Client:
    """One caller. It picks a front door anew for each request, as a load balancer would."""

    def __init__(self, number: int, urls: list[str], budget: Budget, recorder: Recorder, seed: str) -> None:
        self.number = number
        self._urls, self._budget, self._recorder = urls, budget, recorder
        self._rng = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self._http = httpx.AsyncClient(timeout=PATIENCE)
        self._tags = 0

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self._http.aclose()

    async def run(self) -> None:
        """One story after the other until enough tasks were made."""
        stories, weights = zip(*STORIES, strict=True)
        while not self._budget.spent:
            await asyncio.sleep(self._rng.uniform(0.0, 0.3))
            if not self._budget.ahead:
                [story] = self._rng.choices(stories, weights)
                await story(self)

    # ------------------------------------------------------------------ stories

    async def blocking(self) -> None:
        """Send and wait; look at it again."""
        sent = await self.send(self.order())
        if sent.task:
            await self.get(sent.task)

    async def immediate(self) -> None:
        """Send and go."""
        await self.send(self.order(), wait=False)

    async def failing(self) -> None:
        """Ask for a failure."""
        await self.send(self.order(fail=True))

    async def repeated(self) -> None:
        """The same send several times at once, by all front doors, and then again; and something else under its key."""
        if not self._budget.keys:
            return
        order, key = self.order(), uuid4().hex
        await asyncio.gather(*(self.send(order, wait=False, key=key, url=url) for url in self._urls))
        await self.send(order, wait=False, key=key)
        await self.send(self.order(), wait=False, key=key)

    async def streaming(self) -> None:
        """Send and listen; whenever the stream breaks, take it up again behind the last event."""
        heard = await self.stream(self.order(chunks=self._rng.randint(3, 12)))
        for _ in range(TRIES):
            if not heard.task or heard.state in (*TERMINAL, "input-required"):
                return
            await asyncio.sleep(self._rng.uniform(0.0, 0.5))
            heard = await self.resubscribe(heard)

    async def conversation(self) -> None:
        """Several messages to one conversation, some at once: they are worked on one at a time."""
        context = f"talk-{uuid4().hex}"
        for _ in range(self._rng.randint(1, 2)):
            orders = [self.order(context=context) for _ in range(self._rng.randint(2, 3))]
            await asyncio.gather(*(self.send(order, wait=self._rng.random() < 0.5) for order in orders))

    async def question(self) -> None:
        """The agent asks back, once."""
        sent = await self.send(self.order(ask=True))
        task, state, tried = sent.task, sent.state, 0
        while task and state not in TERMINAL and tried < TRIES:
            if state == "input-required":
                answered = await self.answer(task)
                state = answered.state
            if state not in TERMINAL:
                await asyncio.sleep(self._rng.uniform(0.1, 0.6))
                state = (await self.get(task)).state
            tried += 1

    async def canceling(self) -> None:
        """Cancel it in the middle, with another message of the conversation behind it."""
        context = f"talk-{uuid4().hex}"
        sent = await self.send(self.order(context=context, chunks=20), wait=False)
        behind = await self.send(self.order(context=context), wait=False)
        await asyncio.sleep(self._rng.uniform(0.0, 1.5))
        for task in (sent.task, behind.task if self._rng.random() < 0.2 else ""):
            if task and not (await self.cancel(task)).known:
                await self.cancel(task)
        if sent.task:
            await self.get(sent.task)

    # ------------------------------------------------------------------ operations

    def order(self, *, context: str = "", **members: Any) -> Order:
        """A message with a tag of its own."""
        self._tags += 1
        given = {
            "pause": round(self._rng.uniform(0.01, 0.3), 3),
            "chunks": self._rng.randint(1, 8),
            **members,
        }
        return Order(f"t{self.number}.{self._tags}", context or f"talk-{uuid4().hex}", **given)

    async def send(self, order: Order, *, wait: bool = True, key: str = "", url: str = "") -> Answer:
        """Until it is known what came of it, where it has a key (and then some do not wait long); else once."""
        if self._budget.keys and not key and self._rng.random() < 0.5:
            key = uuid4().hex
        params = {"message": order.message(), "configuration": {"returnImmediately": not wait}}
        patience = self._rng.choice([PATIENCE, IMPATIENCE]) if key else PATIENCE
        for _ in range(TRIES):
            number = self._recorder.invoke(self.number, "send", tag=order.tag, key=key)
            call = self._call("SendMessage", params, key=key, url=url, patience=patience)
            answer = await self._noted(number, call, order.tag)
            if not key or (answer.known and not answer.nobody):
                return answer
            await asyncio.sleep(self._rng.uniform(0.1, 1.0))
            patience, url = PATIENCE, ""
        return answer

    async def answer(self, task: str) -> Answer:
        """Tell the agent what it asked for."""
        self._tags += 1
        tag = f"t{self.number}.{self._tags}"
        message = {"messageId": tag, "role": "ROLE_USER", "parts": [{"text": tag}], "taskId": task}
        number = self._recorder.invoke(self.number, "answer", tag=tag, asked=task)
        return await self._noted(number, self._call("SendMessage", {"message": message}))

    async def get(self, task: str) -> Answer:
        """How it stands."""
        number = self._recorder.invoke(self.number, "get", asked=task)
        return await self._noted(number, self._call("GetTask", {"id": task}))

    async def cancel(self, task: str) -> Answer:
        """Let it be."""
        number = self._recorder.invoke(self.number, "cancel", asked=task)
        return await self._noted(number, self._call("CancelTask", {"id": task}))

    async def stream(self, order: Order) -> Answer:
        """Send, and listen to the end or until it breaks."""
        number = self._recorder.invoke(self.number, "stream", tag=order.tag)
        params = {"message": order.message()}
        return await self._noted(number, self._listen("SendStreamingMessage", params), order.tag)

    async def resubscribe(self, heard: Answer) -> Answer:
        """Listen on behind the last event that was heard; `heard` with what came."""
        number = self._recorder.invoke(self.number, "resubscribe", asked=heard.task)
        after = heard.frames[-1].seq
        more = await self._noted(
            number, self._listen("SubscribeToTask", {"id": heard.task}, after=after, task=heard.task)
        )
        state = more.state or heard.state
        return Answer(more.outcome, heard.task, state, heard.context, more.frames or heard.frames[-1:])

    async def _noted(self, number: int, work: Awaitable[Answer], tag: str = "") -> Answer:
        answer = await work
        if tag and answer.outcome == "ok":
            self._budget.tags.add(tag)
        frames = {"frames": [asdict(frame) for frame in answer.frames]} if answer.frames else {}
        self._recorder.end(
            number, answer.outcome, task=answer.task, state=answer.state, error=answer.error, **frames
        )
        if answer.nobody:
            await asyncio.sleep(self._rng.uniform(0.2, 1.0))
        return answer

    # ------------------------------------------------------------------ the wire

    async def _call(
        self,
        method: str,
        params: dict[str, Any],
        *,
        key: str = "",
        url: str = "",
        patience: float = PATIENCE,
    ) -> Answer:
        headers = {"Idempotency-Key": key} if key else {}
        try:
            response = await self._http.post(
                url or self._rng.choice(self._urls),
                json=_request(method, params),
                headers=headers,
                timeout=patience,
            )
        except httpx.ConnectError as error:
            return Answer("fail", error=repr(error), nobody=True)  # it was never sent
        except httpx.HTTPError as error:
            return Answer("unknown", error=repr(error))
        if response.status_code >= 500:
            return Answer("unknown", error=f"{response.status_code}: {response.text[:200]}")
        body = response.json()
        if "error" in body or response.status_code >= 400:
            return _refused(body.get("error", body))
        return _told(body["result"].get("task", body["result"]))

    async def _listen(self, method: str, params: dict[str, Any], *, after: int = 0, task: str = "") -> Answer:
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": str(after)} if after else {})
        frames: list[Frame] = []
        context = error = ""
        try:
            async with self._http.stream(
                "POST", self._rng.choice(self._urls), json=_request(method, params), headers=headers
            ) as response:
                if response.status_code != 200:
                    return Answer("unknown", task, error=f"{response.status_code}")
                async for number, body in _frames(response):
                    if "error" in body:
                        error = json.dumps(body["error"])
                        break
                    frames.append(_frame(number, body["result"]))
                    task = task or body["result"]["task"]["id"]
        except httpx.ConnectError as refused:
            return Answer("fail", task, error=repr(refused), nobody=True)
        except httpx.HTTPError as broken:
            error = repr(broken)
        states = [frame.said for frame in frames if frame.kind in ("status", "snapshot")]
        state = states[-1] if states else ""
        ended = state in (*TERMINAL, "input-required")
        return Answer(
            "ok" if task and (ended or not error) else "unknown", task, state, context, frames, error
        )


def _request(method: str, params: dict[str, Any]) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _refused(error: dict[str, Any]) -> Answer:
    # An internal error may come after the deed.
    outcome = "unknown" if error.get("code") == -32603 else "fail"
    return Answer(outcome, error=json.dumps(error))


def _told(task: dict[str, Any]) -> Answer:
    return Answer("ok", task["id"], state_of(task["status"]), task["contextId"])


def state_of(status: dict[str, Any]) -> str:
    """`TASK_STATE_INPUT_REQUIRED` is `input-required`."""
    return str(status["state"]).removeprefix("TASK_STATE_").lower().replace("_", "-")


async def _frames(response: httpx.Response) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    number = 0
    async for line in response.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            yield number, json.loads(value)


def _frame(seq: int, result: dict[str, Any]) -> Frame:
    match result:
        case {"task": task}:
            return Frame(seq=seq, kind="snapshot", said=state_of(task["status"]))
        case {"statusUpdate": update}:
            return Frame(seq=seq, kind="status", said=state_of(update["status"]))
        case {"artifactUpdate": update}:
            return Frame(
                seq=seq, kind="artifact", said="".join(part["text"] for part in update["artifact"]["parts"])
            )
    raise ValueError(f"a frame of an unknown kind: {result}")


Story = Callable[[Client], Awaitable[None]]

STORIES: list[tuple[Story, int]] = [
    (Client.blocking, 4),
    (Client.immediate, 4),
    (Client.failing, 1),
    (Client.repeated, 2),
    (Client.streaming, 4),
    (Client.conversation, 3),
    (Client.question, 3),
    (Client.canceling, 3),
]
"""What clients do, and how often."""
