"""The official SDK's client against the front door: 1.0 over JSON-RPC and REST, and its 0.3 mode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import (
    A2AError,
    InvalidParamsError,
    PushNotificationNotSupportedError,
    TaskNotCancelableError,
    TaskNotFoundError,
    UnsupportedOperationError,
)
from a2a.utils.proto_utils import parse_lenient

from perdure.tasks import TaskState
from tests.api.front import URL, Front, LiveTransport, answer, chunk, echo, opened_front

BINDINGS = ["JSONRPC", "HTTP+JSON", "0.3", "0.3 HTTP+JSON"]


@pytest.fixture(params=BINDINGS)
def binding(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def client(front: Front, binding: str) -> AsyncIterator[Client]:
    """A client that found the agent by its card, and speaks the binding."""
    async with client_of(front, binding) as client:
        yield client


def client_of(front: Front, binding: str, *, streaming: bool = False) -> Any:
    return _Connected(front, binding, streaming)


class _Connected:
    """`async with`: a client with its own HTTP client."""

    def __init__(self, front: Front, binding: str, streaming: bool) -> None:
        self._front, self._binding, self._streaming = front, binding, streaming

    async def __aenter__(self) -> Client:
        self._http = httpx.AsyncClient(transport=LiveTransport(self._front.app), base_url=URL)
        old = self._binding.startswith("0.3")
        spoken = self._binding.removeprefix("0.3").strip() or "JSONRPC"
        config = ClientConfig(
            streaming=self._streaming,
            httpx_client=self._http,
            supported_protocol_bindings=[spoken],
        )
        factory = ClientFactory(config)
        if not old:
            return await factory.create_from_url(URL)
        card = await _card(self._http)
        kept = [each for each in card.supported_interfaces if each.protocol_version == "0.3"]
        del card.supported_interfaces[:]
        card.supported_interfaces.extend(kept)
        return factory.create(card)

    async def __aexit__(self, *raised: object) -> None:
        await self._http.aclose()


async def _card(http: httpx.AsyncClient) -> pb.AgentCard:
    return await A2ACardResolver(http, URL).get_agent_card()


def request(words: str = "hello", *, wait: bool = True, **members: Any) -> pb.SendMessageRequest:
    said = pb.Message(message_id=str(uuid4()), role=pb.Role.ROLE_USER, parts=[pb.Part(text=words)], **members)
    configuration = pb.SendMessageConfiguration(return_immediately=not wait)
    return pb.SendMessageRequest(message=said, configuration=configuration)


async def sent(client: Client, asked: pb.SendMessageRequest) -> pb.Task:
    """The task that a send without streaming returns."""
    (response,) = [response async for response in client.send_message(asked)]
    assert response.HasField("task")
    task: pb.Task = response.task
    return task


async def test_send_and_get(front: Front, client: Client) -> None:
    front.plays(echo)
    task = await sent(client, request("hi"))
    assert task.status.state == pb.TaskState.TASK_STATE_COMPLETED
    assert task.artifacts[0].parts[0].text == "hi"
    found = await client.get_task(pb.GetTaskRequest(id=task.id))
    assert found == task
    short = await client.get_task(pb.GetTaskRequest(id=task.id, history_length=0))
    assert not short.history


async def test_a_question_and_its_answer(front: Front, client: Client) -> None:
    front.plays(echo)
    asked = await sent(client, request("so?", context_id="talk"))
    assert asked.status.state == pb.TaskState.TASK_STATE_INPUT_REQUIRED
    assert asked.status.message.parts[0].text == "why so?"
    done = await sent(client, request("because", task_id=asked.id))
    assert (done.id, done.context_id) == (asked.id, "talk")
    assert done.status.state == pb.TaskState.TASK_STATE_COMPLETED


async def test_cancel(front: Front, client: Client) -> None:
    task = await sent(client, request(wait=False))
    assert task.status.state == pb.TaskState.TASK_STATE_SUBMITTED
    canceled = await client.cancel_task(pb.CancelTaskRequest(id=task.id))
    assert canceled.status.state == pb.TaskState.TASK_STATE_CANCELED
    with pytest.raises(TaskNotCancelableError):
        await client.cancel_task(pb.CancelTaskRequest(id=task.id))


async def test_errors_arrive_as_what_they_are(front: Front, client: Client) -> None:
    with pytest.raises(TaskNotFoundError):
        await client.get_task(pb.GetTaskRequest(id="0198f7a5-7d3c-7000-8000-000000000000"))
    with pytest.raises(TaskNotFoundError):
        await sent(client, request(task_id="unknown"))
    task = await sent(client, request(wait=False))
    await client.cancel_task(pb.CancelTaskRequest(id=task.id))
    with pytest.raises(UnsupportedOperationError):
        await sent(client, request(task_id=task.id))
    with pytest.raises(InvalidParamsError):
        await sent(client, pb.SendMessageRequest(message=pb.Message(message_id="m", role=pb.Role.ROLE_USER)))
    with pytest.raises(PushNotificationNotSupportedError):
        await client.create_task_push_notification_config(
            pb.TaskPushNotificationConfig(task_id=task.id, url="https://hook.test")
        )


async def test_a_busy_conversation_and_a_reused_key_are_errors_to_it(binding: str) -> None:
    # Over REST it knows the reasons of A2A only, and gives no more than the status for others.
    reused, busy = ("409", "409") if binding == "HTTP+JSON" else ("was used before", "has a task under way")
    async with opened_front({"conversation_policy": "reject"}) as front:
        connected = client_of(front, binding)
        async with connected as client:
            connected._http.headers["Idempotency-Key"] = "k"
            asked = request("one", wait=False, context_id="talk")
            task = await sent(client, asked)
            assert await sent(client, asked) == task
            with pytest.raises(A2AError, match=reused):
                await sent(client, request("two", wait=False, context_id="talk"))
            connected._http.headers["Idempotency-Key"] = "k2"
            with pytest.raises(A2AError, match=busy):
                await sent(client, request("two", wait=False, context_id="talk"))


@pytest.mark.parametrize("binding", ["JSONRPC", "HTTP+JSON"])
async def test_list_in_pages(front: Front, client: Client) -> None:
    made = [(await sent(client, request(str(number), wait=False))).id for number in range(3)]
    first = await client.list_tasks(pb.ListTasksRequest(page_size=2))
    assert (first.total_size, first.page_size) == (3, 2)
    rest = await client.list_tasks(pb.ListTasksRequest(page_size=2, page_token=first.next_page_token))
    assert [task.id for task in (*first.tasks, *rest.tasks)] == made[::-1]
    assert rest.next_page_token == ""
    none = await client.list_tasks(pb.ListTasksRequest(status=pb.TaskState.TASK_STATE_FAILED))
    assert (len(none.tasks), none.total_size) == (0, 0)
    with pytest.raises(InvalidParamsError):
        await client.list_tasks(pb.ListTasksRequest(page_size=101))


async def test_stream(front: Front, binding: str) -> None:
    pieces = [chunk("one ", append=False), chunk("two\u2028", append=True), chunk("three", last=True)]
    front.plays(lambda turn: {"state": TaskState.COMPLETED, "new_artifacts": pieces})
    async with client_of(front, binding, streaming=True) as client:
        heard = [response async for response in client.send_message(request())]
    assert heard[0].task.status.state == pb.TaskState.TASK_STATE_SUBMITTED
    states = [each.status_update.status.state for each in heard if each.HasField("status_update")]
    assert states == [pb.TaskState.TASK_STATE_WORKING, pb.TaskState.TASK_STATE_COMPLETED]
    chunks = [each.artifact_update for each in heard if each.HasField("artifact_update")]
    assert "".join(each.artifact.parts[0].text for each in chunks) == "one two\u2028three"
    assert [each.append for each in chunks] == [False, True, True]
    assert [each.last_chunk for each in chunks] == [False, False, True]


async def test_subscribe(front: Front, binding: str) -> None:
    async with client_of(front, binding) as sender:
        task_id = (await sent(sender, request("hi", wait=False))).id
    turn = await front.takes()
    heard = []
    async with client_of(front, binding, streaming=True) as client:
        async for response in client.subscribe(pb.SubscribeToTaskRequest(id=task_id)):
            heard.append(response)
            if len(heard) == 1:
                await front.ends(turn, **answer("hi"))
    assert heard[0].task.status.state == pb.TaskState.TASK_STATE_WORKING
    assert heard[1].artifact_update.artifact.parts[0].text == "hi"
    assert heard[2].status_update.status.state == pb.TaskState.TASK_STATE_COMPLETED
    assert len(heard) == 3


async def test_subscribing_to_an_ended_task(front: Front, binding: str) -> None:
    front.plays(echo)
    async with client_of(front, binding, streaming=True) as client:
        heard = [each async for each in client.send_message(request())]
        with pytest.raises(UnsupportedOperationError):
            [each async for each in client.subscribe(pb.SubscribeToTaskRequest(id=heard[0].task.id))]


async def test_push_configs(binding: str) -> None:
    async with (
        opened_front({"capabilities": {"push_notifications": True}}) as front,
        client_of(front, binding) as client,
    ):
        task = await sent(client, request(wait=False))
        config = pb.TaskPushNotificationConfig(
            task_id=task.id,
            id="mine",
            url="https://hook.test",
            token="t",
            authentication=pb.AuthenticationInfo(scheme="Bearer", credentials="c"),
        )
        shown = pb.TaskPushNotificationConfig()
        shown.CopyFrom(config)
        shown.ClearField("token")
        shown.authentication.ClearField("credentials")
        assert await client.create_task_push_notification_config(config) == shown
        name = {"task_id": task.id, "id": "mine"}
        get = pb.GetTaskPushNotificationConfigRequest(**name)
        assert await client.get_task_push_notification_config(get) == shown
        if binding == "0.3 HTTP+JSON":  # the client has no more of it: tests/api/test_rest_03.py
            return
        listed = await client.list_task_push_notification_configs(
            pb.ListTaskPushNotificationConfigsRequest(task_id=task.id)
        )
        assert list(listed.configs) == [shown]
        delete = pb.DeleteTaskPushNotificationConfigRequest(**name)
        await client.delete_task_push_notification_config(delete)
        with pytest.raises(TaskNotFoundError):
            await client.get_task_push_notification_config(get)


async def test_files_and_data_arrive_as_they_were_sent(binding: str) -> None:
    asked = request(wait=False)
    asked.message.parts.append(pb.Part(raw=b"\x00\xff", filename="f", media_type="image/png"))
    asked.message.parts.append(pb.Part(url="https://a.test/f"))
    for value in ({"a": [1.0, None]}, [True], "text", None):
        asked.message.parts.append(parse_lenient({"data": value}, pb.Part()))
    async with (
        opened_front({"default_input_modes": ["*/*"]}) as front,
        client_of(front, binding) as client,
    ):
        task = await sent(client, asked)
    assert list(task.history[0].parts) == list(asked.message.parts)
