"""A client for each binding, with one set of verbs: a test of the protocol is written once and runs in all of them.

Nothing here uses the converters of `api.wire`: what is sent and expected is written from the specification.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.api.front import Front, Live, message, message03

from .errors import Refused, refused_by_rest, refused_by_rpc
from .marks import OLD, OLD_REST, REST, RPC

Json = dict[str, Any]
SOMEBODY_ELSE = "somebody else"
"""The owner of what nobody here may see."""


@dataclass(frozen=True, slots=True)
class Said:
    """What one event of a stream says: `task`, `message`, `statusUpdate` or `artifactUpdate`, in the words of its version."""

    kind: str
    body: Json

    @property
    def short(self) -> str:
        """The state, or the text of the artifact."""
        if self.kind == "artifactUpdate":
            return "".join(part["text"] for part in self.body["artifact"]["parts"])
        return state(self.body)


class Events:
    """A stream that is read while it is made."""

    def __init__(self, live: Live, speaker: Speaker) -> None:
        self.live, self._speaker = live, speaker

    async def __aenter__(self) -> Events:
        await self.live.__aenter__()
        return self

    async def __aexit__(self, *raised: object) -> None:
        await self.live.leave()

    async def next(self) -> Said | None:
        """The next event, None at the end. `Refused` if the answer is an error."""
        if not self.live.status:
            await self.live.starts()
            if not self.live.headers["content-type"].startswith("text/event-stream"):
                self._speaker.raises(self.live.status, orjson.loads(await self._body()))
                raise AssertionError("neither a stream nor an error")
        frame = await self.live.frame()
        return None if frame is None else self._speaker.said(frame.data)

    async def _body(self) -> bytes:
        body = b""
        while piece := await self.live.piece():
            body += piece
        return body

    async def first(self) -> Said:
        """The next event; there has to be one."""
        found = await self.next()
        assert found is not None, "the stream has ended"
        return found

    async def opened(self) -> Said:
        """The first event of a stream that is left then."""
        async with self:
            return await self.first()

    async def rest(self) -> list[Said]:
        """All events until the end."""
        found = []
        while (said := await self.next()) is not None:
            found.append(said)
        return found


METHODS = {
    "send": "SendMessage",
    "stream": "SendStreamingMessage",
    "get": "GetTask",
    "list": "ListTasks",
    "cancel": "CancelTask",
    "subscribe": "SubscribeToTask",
    "create_config": "CreateTaskPushNotificationConfig",
    "get_config": "GetTaskPushNotificationConfig",
    "list_configs": "ListTaskPushNotificationConfigs",
    "delete_config": "DeleteTaskPushNotificationConfig",
    "extended_card": "GetExtendedAgentCard",
}
OLD_METHODS = {
    "send": "message/send",
    "stream": "message/stream",
    "get": "tasks/get",
    "cancel": "tasks/cancel",
    "subscribe": "tasks/resubscribe",
    "create_config": "tasks/pushNotificationConfig/set",
    "get_config": "tasks/pushNotificationConfig/get",
    "list_configs": "tasks/pushNotificationConfig/list",
    "delete_config": "tasks/pushNotificationConfig/delete",
    "extended_card": "agent/getAuthenticatedExtendedCard",
}


class Speaker:
    """A client of 1.0 over JSON-RPC."""

    binding = RPC
    version = "1.0"
    methods = METHODS
    old = False
    """Whether it speaks 0.3."""
    over_http = False
    """Whether it speaks HTTP+JSON."""
    parts = "parts"
    """What it calls the parts of a message."""

    def __init__(self, front: Front) -> None:
        self.front = front

    # ------------------------------------------------------------------ operations

    async def send(self, words: str = "hello", **more: Any) -> Json:
        """The task that a message makes or continues; without `wait` it returns at once. See `sending` for the rest."""
        result = await self.answer("send", self.sending(words, **more))
        assert set(result) == {"task"}
        task: Json = result["task"]
        return task

    def stream(self, words: str = "hello", **more: Any) -> Events:
        return Events(self._live("stream", self.sending(words, **more)), self)

    async def get(self, task_id: str, **more: Any) -> Json:
        return dict(await self.answer("get", {"id": task_id, **more}))

    async def tasks(self, **filters: Any) -> Json:
        return dict(await self.answer("list", filters))

    async def cancel(self, task_id: str) -> Json:
        return dict(await self.answer("cancel", {"id": task_id}))

    def subscribe(self, task_id: str, **more: Any) -> Events:
        return Events(self._live("subscribe", {"id": task_id, **more}), self)

    async def create_config(self, task_id: str, **config: Any) -> Json:
        return dict(await self.answer("create_config", {"taskId": task_id, **config}))

    async def get_config(self, task_id: str, config_id: str) -> Json:
        return dict(await self.answer("get_config", {"taskId": task_id, "id": config_id}))

    async def configs(self, task_id: str) -> list[Json]:
        page = await self.answer("list_configs", {"taskId": task_id})
        assert set(page) <= {"configs", "nextPageToken"}
        return list(page["configs"])

    async def delete_config(self, task_id: str, config_id: str) -> None:
        assert await self.answer("delete_config", {"taskId": task_id, "id": config_id}) == {}

    async def extended_card(self) -> Json:
        return dict(await self.answer("extended_card", {}))

    # ------------------------------------------------------------------ how it is said

    def message(self, words: str = "hello", **members: Any) -> Json:
        return message(words, **members)

    def sending(
        self,
        words: str = "hello",
        *,
        wait: bool = False,
        history: int | None = None,
        metadata: Json | None = None,
        callback: Json | None = None,
        **members: Any,
    ) -> Json:
        """The params of a send; `members` are those of the message."""
        configuration = {
            "returnImmediately": not wait,
            "historyLength": history,
            "taskPushNotificationConfig": callback,
        }
        return _given(
            message=self.message(words, **members), configuration=_given(**configuration), metadata=metadata
        )

    async def answer(self, operation: str, params: Json, **headers: str) -> Any:
        """The result of an operation. `Refused` if it is an error."""
        response = await self.front.post(self.methods[operation], params, **self._headers(headers))
        assert response.headers["content-type"] == "application/json"
        reply = response.json()
        self.raises(response.status_code, reply)
        return self._result(reply)

    def _headers(self, given: Mapping[str, str]) -> Mapping[str, str]:
        if self.version and not any(name.lower().replace("_", "-") == "a2a-version" for name in given):
            return {"A2A_Version": self.version, **given}
        return given

    def raises(self, status: int, reply: Json) -> None:
        """`Refused` if the answer is an error."""
        if "error" in reply:
            assert status == 200
            assert (set(reply), reply["jsonrpc"], reply["id"]) == ({"jsonrpc", "id", "error"}, "2.0", 7)
            raise refused_by_rpc(reply["error"], new=self.version == "1.0")

    def _result(self, reply: Json) -> Any:
        assert (set(reply), reply["jsonrpc"], reply["id"]) == ({"jsonrpc", "id", "result"}, "2.0", 7)
        return reply["result"]

    def _live(self, operation: str, params: Json) -> Live:
        return self.front.live(self.methods[operation], params, **self._headers({}))

    def said(self, data: Json) -> Said:
        """What an event says."""
        self.raises(200, data)
        ((kind, body),) = self._result(data).items()
        return Said(kind, body)


class RestSpeaker(Speaker):
    """A client of 1.0 over HTTP+JSON."""

    binding = REST
    over_http = True

    paths: Mapping[str, tuple[str, str]] = {
        "send": ("POST", "/message:send"),
        "stream": ("POST", "/message:stream"),
        "get": ("GET", "/tasks/{id}"),
        "list": ("GET", "/tasks"),
        "cancel": ("POST", "/tasks/{id}:cancel"),
        "subscribe": ("GET", "/tasks/{id}:subscribe"),
        "create_config": ("POST", "/tasks/{taskId}/pushNotificationConfigs"),
        "get_config": ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
        "list_configs": ("GET", "/tasks/{taskId}/pushNotificationConfigs"),
        "delete_config": ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"),
        "extended_card": ("GET", "/extendedAgentCard"),
    }

    async def answer(self, operation: str, params: Json, **headers: str) -> Any:
        method, path, rest = self._address(operation, params)
        names = {name.replace("_", "-"): value for name, value in self._headers(headers).items()}
        how: Json = {"json": rest} if method == "POST" else {"params": _query(rest)}
        response = await self.front.http.request(method, path, headers=names, **how)
        self.raises(response.status_code, response.json())
        assert response.status_code == 200
        return response.json()

    def raises(self, status: int, reply: Json) -> None:
        if status >= 400 or "error" in reply:
            raise refused_by_rest(status, reply)

    def _address(self, operation: str, params: Json) -> tuple[str, str, Json]:
        method, path = self.paths[operation]
        inside = {name for name in params if f"{{{name}}}" in path}
        return method, path.format(**params), {k: v for k, v in params.items() if k not in inside}

    def _live(self, operation: str, params: Json) -> Live:
        method, path, rest = self._address(operation, params)
        headers = self._headers({})
        if method == "POST":
            return Live(self.front.app, method, path, rest, headers)
        query = "&".join(f"{name}={value}" for name, value in _query(rest).items())
        return Live(self.front.app, method, f"{path}?{query}", headers=headers)

    def said(self, data: Json) -> Said:
        ((kind, body),) = data.items()
        return Said(kind, body)


class OldSpeaker(Speaker):
    """A client of 0.3 over JSON-RPC. It names no version, as those clients do."""

    binding = OLD
    version = ""
    methods = OLD_METHODS
    old = True

    async def send(self, words: str = "hello", **more: Any) -> Json:
        task = dict(await self.answer("send", self.sending(words, **more)))
        assert task["kind"] == "task"
        return task

    def message(self, words: str = "hello", **members: Any) -> Json:
        return message03(words, **members)

    def sending(
        self,
        words: str = "hello",
        *,
        wait: bool = False,
        history: int | None = None,
        metadata: Json | None = None,
        callback: Json | None = None,
        **members: Any,
    ) -> Json:
        configuration = {
            "blocking": wait,
            "historyLength": history,
            "pushNotificationConfig": callback and _nested(callback),
        }
        return _given(
            message=self.message(words, **members), configuration=_given(**configuration), metadata=metadata
        )

    async def create_config(self, task_id: str, **config: Any) -> Json:
        params = {"taskId": task_id, "pushNotificationConfig": _nested(config)}
        return _flat(await self.answer("create_config", params))

    async def get_config(self, task_id: str, config_id: str) -> Json:
        return _flat(await self.answer("get_config", {"id": task_id, "pushNotificationConfigId": config_id}))

    async def configs(self, task_id: str) -> list[Json]:
        return [_flat(config) for config in await self.answer("list_configs", {"id": task_id})]

    async def delete_config(self, task_id: str, config_id: str) -> None:
        params = {"id": task_id, "pushNotificationConfigId": config_id}
        assert await self.answer("delete_config", params) is None

    def said(self, data: Json) -> Said:
        self.raises(200, data)
        body = self._result(data)
        names = {"status-update": "statusUpdate", "artifact-update": "artifactUpdate"}
        return Said(names.get(body["kind"], body["kind"]), body)


class OldRestSpeaker(RestSpeaker):
    """A client of 0.3 over HTTP+JSON, as the proto of 0.3 has it. Tests see the `content` of its messages as `parts`; that the
    shapes are those of the proto is shown by tests/api/test_rest_03.py."""

    binding = OLD_REST
    version = ""
    old = True
    parts = "content"

    paths: Mapping[str, tuple[str, str]] = {
        **{name: (method, f"/v1{path}") for name, (method, path) in RestSpeaker.paths.items()},
        "extended_card": ("GET", "/v1/card"),
    }

    def message(self, words: str = "hello", **members: Any) -> Json:
        said = message(words, **members)
        return {self.parts if name == "parts" else name: value for name, value in said.items()}

    def sending(
        self,
        words: str = "hello",
        *,
        wait: bool = False,
        history: int | None = None,
        metadata: Json | None = None,
        callback: Json | None = None,
        **members: Any,
    ) -> Json:
        configuration = {
            "blocking": wait,
            "historyLength": history,
            "pushNotification": callback and _nested(callback),
        }
        return _given(
            message=self.message(words, **members), configuration=_given(**configuration), metadata=metadata
        )

    async def answer(self, operation: str, params: Json, **headers: str) -> Any:
        return _with_parts(await super().answer(operation, params, **headers))

    async def create_config(self, task_id: str, **config: Any) -> Json:
        named = {"pushNotificationConfig": _nested(config)}
        return _flat_named(await self.answer("create_config", {"taskId": task_id, **named}))

    async def get_config(self, task_id: str, config_id: str) -> Json:
        return _flat_named(await super().get_config(task_id, config_id))

    async def configs(self, task_id: str) -> list[Json]:
        return [_flat_named(config) for config in await super().configs(task_id)]

    def said(self, data: Json) -> Said:
        return super().said(_with_parts(data))


SPEAKERS: Mapping[str, type[Speaker]] = {
    speaker.binding: speaker for speaker in (Speaker, RestSpeaker, OldSpeaker, OldRestSpeaker)
}


async def refused(asked: Awaitable[Any]) -> Refused:
    """The error that it is answered with."""
    with pytest.raises(Refused) as caught:
        await asked
    return caught.value


def state(said: Json) -> str:
    """`INPUT_REQUIRED`, of a task or an update of any version."""
    name: str = said["status"]["state"]
    name = name.removeprefix("TASK_STATE_").upper().replace("-", "_")
    return "CANCELED" if name == "CANCELLED" else name


def role(said: Json) -> str:
    """`user` or `agent`, of a message of either version."""
    name: str = said["role"]
    return name.removeprefix("ROLE_").lower()


def _given(**members: Any) -> Json:
    return {name: value for name, value in members.items() if value is not None}


def _query(params: Json) -> dict[str, str]:
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value) for name, value in params.items()
    }


def _nested(flat: Json) -> Json:
    """A 1.0 config without its task as 0.3 has it."""
    authentication = flat.get("authentication")
    if authentication is None:
        return flat
    schemes = {"schemes": [authentication["scheme"]], "credentials": authentication["credentials"]}
    return {**flat, "authentication": schemes}


def _flat(config: Json) -> Json:
    """A 0.3 config as 1.0 has it."""
    assert set(config) == {"taskId", "pushNotificationConfig"}
    inner = dict(config["pushNotificationConfig"])
    if "authentication" in inner:
        (scheme,) = inner["authentication"]["schemes"]
        inner["authentication"] = {**inner["authentication"], "scheme": scheme}
        del inner["authentication"]["schemes"]
    return {"taskId": config["taskId"], **inner}


def _flat_named(config: Json) -> Json:
    """A config of 0.3's proto as 1.0 has it."""
    assert set(config) == {"name", "pushNotificationConfig"}
    _, task_id, _, config_id = config["name"].split("/")
    flat = _flat({"taskId": task_id, "pushNotificationConfig": config["pushNotificationConfig"]})
    assert flat["id"] == config_id
    return flat


def _with_parts(value: Any) -> Any:
    """With the `content` of every message as its `parts`."""
    if isinstance(value, list):
        return [_with_parts(each) for each in value]
    if not isinstance(value, dict):
        return value
    renamed = {
        "parts" if name == "content" and "messageId" in value else name: each for name, each in value.items()
    }
    return {name: each if name == "metadata" else _with_parts(each) for name, each in renamed.items()}
