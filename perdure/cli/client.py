"""A client of A2A 1.0 over JSON-RPC that does not lose its place: what `perdure send` and `perdure tasks tail` are made of.

A stream that is cut, by the network or by a front door that stops, is gone on with after the last event that arrived
(`Last-Event-ID`), on whatever front door answers then. A send that was cut before its task's id came is sent again under the same
`Idempotency-Key`, so that it stays one task.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import uuid4

import httpx
from httpx_sse import EventSource, aconnect_sse

from perdure.errors import ServerRefused, ServerUnreachable

Json = dict[str, Any]

RESTING = frozenset(
    f"TASK_STATE_{state}"
    for state in ("COMPLETED", "FAILED", "CANCELED", "REJECTED", "INPUT_REQUIRED", "AUTH_REQUIRED")
)
"""States in which nothing more comes until the caller does something."""

_UNSUPPORTED = -32004
_PASSING = frozenset({429, 502, 503, 504})
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0


class _Passing(Exception):
    """The server says to come back later."""

    def __init__(self, text: str, after: float) -> None:
        super().__init__(text)
        self.after = after


@dataclass
class Place:
    """Where a client is in a task's stream. Empty until the first event."""

    task_id: str = ""
    context_id: str = ""
    state: str = ""
    last_event_id: str = ""

    def take(self, update: Json, number: str) -> None:
        """Move on past a StreamResponse."""
        self.last_event_id = number or self.last_event_id
        body: Json = next(iter(update.values()), {})
        self.task_id = body.get("id", body.get("taskId", "")) or self.task_id
        self.context_id = body.get("contextId", "") or self.context_id
        self.state = body.get("status", {}).get("state", "") or self.state


@dataclass
class Client:
    """Calls the agent at `url`, with `key` as a bearer token. `ServerUnreachable` after `patience` seconds
    without an answer."""

    url: str
    key: str = ""
    patience: float = 60.0
    _http: httpx.AsyncClient = field(init=False, repr=False)

    async def __aenter__(self) -> Self:
        headers = {"A2A-Version": "1.0"} | ({"Authorization": f"Bearer {self.key}"} if self.key else {})
        # A keep-alive comes every fifteen seconds: a stream that is silent for longer is dead.
        self._http = httpx.AsyncClient(headers=headers, timeout=httpx.Timeout(10, read=45))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._http.aclose()

    async def call(self, method: str, params: Json, *, wait: float | None = 60) -> Json:
        """One call; its result. `ServerRefused`; `ServerUnreachable` without another try."""
        try:
            answer = await self._http.post(self.url, json=_request(method, params), timeout=wait)
            return _result(_decoded(answer))
        except httpx.TransportError as error:
            raise ServerUnreachable(_brief(self.url, error)) from None
        except _Passing as error:
            raise ServerUnreachable(str(error)) from None

    async def lacks_worker(self) -> str:
        """That no worker is alive, in the words of `/readyz` of our own servers, which answers anybody; "" where one is, or
        nobody knows. `ServerUnreachable`."""
        server, _, agent = self.url.rstrip("/").partition("/agents/")
        try:
            reasons = (await self._http.get(f"{server}/readyz", timeout=10)).json()["reasons"]
        except httpx.TransportError as error:
            raise ServerUnreachable(_brief(self.url, error)) from None
        except (ValueError, KeyError, TypeError):
            return ""
        known = ("no worker is alive", f"no worker of the agent {agent} is alive")
        return next((name for name in known for each in reasons if str(each).startswith(f"{name}:")), "")

    async def send(
        self, message: Json, place: Place, *, cut: Callable[[str], None] = lambda why: None
    ) -> AsyncIterator[Json]:
        """Send a message; every StreamResponse until its task rests, `place` moving along. `cut` is told of each connection that
        was lost. An agent that does not stream is waited for. `ServerRefused`, `ServerUnreachable`."""
        key = {"Idempotency-Key": str(uuid4())}
        async for update in self._until_rest("SendStreamingMessage", {"message": message}, key, place, cut):
            yield update

    async def follow(
        self, place: Place, *, cut: Callable[[str], None] = lambda why: None
    ) -> AsyncIterator[Json]:
        """Everything that happens to a task after `place`, until it rests."""
        if not place.last_event_id:
            place.last_event_id = "0"  # from its first event on, also of a task that has ended
        async for update in self._until_rest("SubscribeToTask", {"id": place.task_id}, {}, place, cut):
            yield update

    async def _until_rest(
        self, method: str, params: Json, headers: Json, place: Place, cut: Callable[[str], None]
    ) -> AsyncIterator[Json]:
        pause, waited = _FIRST_PAUSE, 0.0
        while True:
            why, after = "the server ended the stream", 0.0
            try:
                async for update in self._once(method, params, headers, place):
                    pause, waited = _FIRST_PAUSE, 0.0
                    yield update
                    if "message" in update or place.state in RESTING:
                        return
            except httpx.TransportError as error:
                why = _brief(self.url, error)
            except _Passing as error:
                why, after = str(error), error.after
            if waited >= self.patience:
                raise ServerUnreachable(f"{why}; gave up after {waited:.0f} s")
            cut(why)
            pause = max(after, pause)
            await asyncio.sleep(pause * random.uniform(0.8, 1.2))  # noqa: S311 -- no secret
            waited, pause = waited + pause, min(pause * 2, _LONGEST_PAUSE)

    async def _once(self, method: str, params: Json, headers: Json, place: Place) -> AsyncIterator[Json]:
        if place.task_id and place.last_event_id:
            method, params = "SubscribeToTask", {"id": place.task_id}
            headers = {"Last-Event-ID": place.last_event_id}
        try:
            async with self._stream(method, params, headers) as events:
                async for event in events.aiter_sse():
                    if event.data:
                        update = _result(event.json())
                        place.take(update, event.id)
                        yield update
        except ServerRefused as refused:
            if refused.code != _UNSUPPORTED or method != "SendStreamingMessage":
                raise
            update = await self._waited_for(params, headers)
            place.take(update, "")
            yield update

    async def _waited_for(self, params: Json, headers: Mapping[str, str]) -> Json:
        """For agents that do not stream."""
        request = _request("SendMessage", params)
        return _result(_decoded(await self._http.post(self.url, json=request, headers=headers, timeout=None)))

    @asynccontextmanager
    async def _stream(
        self, method: str, params: Json, headers: Mapping[str, str]
    ) -> AsyncIterator[EventSource]:
        request = _request(method, params)
        async with aconnect_sse(self._http, "POST", self.url, json=request, headers=headers) as source:
            if "text/event-stream" not in source.response.headers.get("Content-Type", ""):
                await source.response.aread()
                _result(_decoded(source.response))
                raise ServerRefused("the server answers with something that is no stream")
            yield source


def _request(method: str, params: Json) -> Json:
    return {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}


def _decoded(answer: httpx.Response) -> Json:
    if answer.status_code in _PASSING:
        after = answer.headers.get("Retry-After", "")
        raise _Passing(f"the server answers {answer.status_code}", float(after) if after.isdecimal() else 0.0)
    if answer.status_code == 401:
        raise ServerRefused("the server asks who you are: give an API key or a token (--key, PERDURE_KEY)")
    try:
        decoded: Json = answer.json()
    except ValueError:
        raise ServerRefused(
            f"the server answers {answer.status_code} and no JSON: is it an A2A agent?"
        ) from None
    return decoded


def _result(answer: Json) -> Json:
    if error := answer.get("error"):
        raise ServerRefused(str(error.get("message", "the server refused")), error.get("code", 0))
    result: Json = answer["result"]
    return result


def _brief(url: str, error: Exception) -> str:
    if isinstance(error, httpx.ConnectError):
        return f"nobody answers at {url}"
    return f"the connection to {url} broke ({type(error).__name__})"
