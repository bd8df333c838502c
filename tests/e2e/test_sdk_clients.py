"""Clients nobody here wrote, against two front doors and two workers: the official SDK's in 1.0 (JSON-RPC and HTTP+JSON) and in
its 0.3 mode, and the raw requests and answers of 0.3.0 as its specification has them (`tests/fixtures/a2a_0_3`).

The SDK's client (1.3) neither retries nor resumes: what these tests see is what one connection brings.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import httpx
import pytest
from a2a.client.card_resolver import A2ACardResolver
from a2a.client.client import Client, ClientConfig
from a2a.client.client_factory import ClientFactory
from a2a.compat.v0_3.types import AgentCard as AgentCard03
from a2a.types import a2a_pb2 as pb
from a2a.utils.errors import TaskNotCancelableError, TaskNotFoundError, UnsupportedOperationError

from perdure.local import local_services
from tests.support.processes import ROOT

from .conftest import AGENTS, Gate, Stack

FIXTURES = ROOT / "tests" / "fixtures" / "a2a_0_3"
Json = dict[str, Any]
State = pb.TaskState


@dataclass
class Fleet:
    """Two front doors over the same workers."""

    stack: Stack
    one: str
    other: str

    def gate(self) -> Gate:
        return self.stack.gate(f"gate-{uuid4().hex[:8]}")


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """Shared by the tests of this file, which keep to conversations and gates of their own."""
    with local_services(None, fsync=False) as services, ExitStack() as processes:
        stack = Stack(tmp_path_factory.mktemp("fleet"), services, processes)
        stack.settings |= {"AGENT": str(AGENTS / "talking.py"), "WORKER__LEASE": "15"}
        doors = [stack.front_door()[0].url for _ in range(2)]
        stack.worker()
        stack.arq_worker()
        yield Fleet(stack, *doors)
    for process in stack.processes:
        print(f"--- {process.popen.args!r} was process {process.popen.pid}", *process.log, sep="\n")


BINDINGS = [(version, name) for version in ("1.0", "0.3") for name in ("JSONRPC", "HTTP+JSON")]


@pytest.fixture(params=BINDINGS, ids=" ".join)
def binding(request: pytest.FixtureRequest) -> tuple[str, str]:
    named: tuple[str, str] = request.param
    return named


@asynccontextmanager
async def client_of(url: str, binding: tuple[str, str], *, streaming: bool = False) -> AsyncIterator[Client]:
    """A client that found the agent by the card of this front door."""
    version, name = binding
    async with httpx.AsyncClient(timeout=40) as http:
        card = await A2ACardResolver(http, url).get_agent_card()
        for each in list(card.supported_interfaces):
            if (each.protocol_version, each.protocol_binding) == binding:
                each.url = url  # the card has the public address; here each door is spoken to
            else:
                card.supported_interfaces.remove(each)
        config = ClientConfig(streaming=streaming, httpx_client=http, supported_protocol_bindings=[name])
        assert [each.protocol_version for each in card.supported_interfaces] == [version]
        yield ClientFactory(config).create(card)


def request(words: str, *, wait: bool = True, **members: Any) -> pb.SendMessageRequest:
    said = pb.Message(
        **{"message_id": str(uuid4()), "role": pb.Role.ROLE_USER, "parts": [pb.Part(text=words)], **members}
    )
    return pb.SendMessageRequest(
        message=said, configuration=pb.SendMessageConfiguration(return_immediately=not wait)
    )


async def sent(client: Client, words: str, **how: Any) -> pb.Task:
    """The task that a send without streaming returns."""
    (response,) = [response async for response in client.send_message(request(words, **how))]
    task: pb.Task = response.task
    assert task.id
    return task


def text(task: pb.Task) -> str:
    return "".join(part.text for artifact in task.artifacts for part in artifact.parts)


def told(heard: list[pb.StreamResponse]) -> list[str]:
    """A stream in short: states, and the pieces of the answer."""
    short = []
    for each in heard:
        if each.HasField("artifact_update"):
            short.append("".join(part.text for part in each.artifact_update.artifact.parts))
        else:
            status = each.task.status if each.HasField("task") else each.status_update.status
            short.append(State.Name(status.state).removeprefix("TASK_STATE_"))
    return short


async def test_send_and_get(fleet: Fleet, binding: tuple[str, str]) -> None:
    async with client_of(fleet.one, binding) as one, client_of(fleet.other, binding) as other:
        task = await sent(one, "hello world", context_id="ctx-send")
        assert (task.status.state, text(task)) == (State.TASK_STATE_COMPLETED, "HELLO WORLD ")
        assert task.context_id == "ctx-send"
        assert await other.get_task(pb.GetTaskRequest(id=task.id)) == task
        short = await other.get_task(pb.GetTaskRequest(id=task.id, history_length=0))
        assert not short.history
        with pytest.raises(TaskNotFoundError):
            await other.get_task(pb.GetTaskRequest(id=str(uuid4())))
        with pytest.raises(UnsupportedOperationError):
            await sent(other, "more", task_id=task.id)


async def test_stream(fleet: Fleet, binding: tuple[str, str]) -> None:
    async with client_of(fleet.one, binding, streaming=True) as client:
        heard = [response async for response in client.send_message(request("one two three"))]
    assert heard[0].HasField("task")
    short = told(heard)
    assert short[:2] == ["SUBMITTED", "WORKING"]
    assert short[-1] == "COMPLETED"
    assert "".join(short[2:-1]) == "ONE TWO THREE "


async def test_subscribe_at_the_other_front_door(fleet: Fleet, binding: tuple[str, str]) -> None:
    gate = fleet.gate()
    async with client_of(fleet.one, binding) as client:
        task = await sent(client, str(gate.path), wait=False)
    await asyncio.to_thread(gate.begun)
    heard = []
    async with client_of(fleet.other, binding, streaming=True) as client:
        async for response in client.subscribe(pb.SubscribeToTaskRequest(id=task.id)):
            heard.append(response)
            gate.open()  # from the first event on
        assert told(heard) == ["WORKING", "done", "COMPLETED"]
        assert heard[0].task.id == task.id
        with pytest.raises(UnsupportedOperationError):
            [each async for each in client.subscribe(pb.SubscribeToTaskRequest(id=task.id))]


async def test_cancel_at_the_other_front_door(fleet: Fleet, binding: tuple[str, str]) -> None:
    gate = fleet.gate()
    heard = []
    async with client_of(fleet.one, binding, streaming=True) as one, client_of(fleet.other, binding) as other:
        async for response in one.send_message(request(str(gate.path))):
            heard.append(response)
            if told(heard)[-1] == "WORKING":
                await asyncio.to_thread(gate.begun)
                canceled = await other.cancel_task(pb.CancelTaskRequest(id=heard[0].task.id))
                assert canceled.status.state == State.TASK_STATE_CANCELED
        assert told(heard) == ["SUBMITTED", "WORKING", "CANCELED"]
        with pytest.raises(TaskNotCancelableError):
            await one.cancel_task(pb.CancelTaskRequest(id=canceled.id))


async def test_a_question_and_its_answer(fleet: Fleet, binding: tuple[str, str]) -> None:
    async with client_of(fleet.one, binding) as one, client_of(fleet.other, binding) as other:
        asked = await sent(one, "weather")
        assert asked.status.state == State.TASK_STATE_INPUT_REQUIRED
        assert asked.status.message.parts[0].text == "Which city?"
        done = await sent(other, "Lisbon", task_id=asked.id)
    assert (done.id, done.context_id) == (asked.id, asked.context_id)
    assert (done.status.state, text(done)) == (State.TASK_STATE_COMPLETED, "LISBON")


async def test_a_file(fleet: Fleet, binding: tuple[str, str]) -> None:
    """In and out again, in the history: bytes that are neither text nor base64."""
    png = pb.Part(raw=b"\x89PNG\xff\x00", media_type="image/png", filename="a.png")
    async with client_of(fleet.one, binding) as one, client_of(fleet.other, binding) as other:
        task = await sent(one, "hello", parts=[pb.Part(text="hello"), png])
        found = await other.get_task(pb.GetTaskRequest(id=task.id))
        assert [part.raw for part in found.history[0].parts] == [b"", png.raw]
        assert found.history[0].parts[1] == png


async def test_list_in_pages(fleet: Fleet, binding: tuple[str, str]) -> None:
    if binding[0] == "0.3":
        return  # no operation of the client in 0.3
    context_id = f"pages-{uuid4()}"
    async with client_of(fleet.one, binding) as one, client_of(fleet.other, binding) as other:
        made = [(await sent(one, str(number), context_id=context_id)).id for number in range(3)]
        first = await other.list_tasks(pb.ListTasksRequest(context_id=context_id, page_size=2))
        assert (first.total_size, first.page_size) == (3, 2)
        token = first.next_page_token
        rest = await one.list_tasks(
            pb.ListTasksRequest(context_id=context_id, page_size=2, page_token=token, include_artifacts=True)
        )
    assert [task.id for task in (*first.tasks, *rest.tasks)] == made[::-1]
    assert rest.next_page_token == ""
    assert [text(task) for task in (*first.tasks, *rest.tasks)] == ["", "", "0"]


async def test_push_configs(fleet: Fleet, binding: tuple[str, str]) -> None:
    async with client_of(fleet.one, binding) as one, client_of(fleet.other, binding) as other:
        task = await sent(one, "hello")
        config = pb.TaskPushNotificationConfig(
            task_id=task.id,
            id="mine",
            url="https://hook.test/a",
            token="t",
            authentication=pb.AuthenticationInfo(scheme="Bearer", credentials="c"),
        )
        shown = pb.TaskPushNotificationConfig()  # without its secrets
        shown.CopyFrom(config)
        shown.url = "https://hook.test/***"
        shown.ClearField("token")
        shown.authentication.ClearField("credentials")
        assert await one.create_task_push_notification_config(config) == shown
        get = pb.GetTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        assert await other.get_task_push_notification_config(get) == shown
        if binding == ("0.3", "HTTP+JSON"):
            return  # what follows the client does not do there
        listed = await other.list_task_push_notification_configs(
            pb.ListTaskPushNotificationConfigsRequest(task_id=task.id)
        )
        assert list(listed.configs) == [shown]
        delete = pb.DeleteTaskPushNotificationConfigRequest(task_id=task.id, id="mine")
        await other.delete_task_push_notification_config(delete)
        with pytest.raises(TaskNotFoundError):
            await one.get_task_push_notification_config(get)


async def test_the_card_is_the_same_at_both_front_doors(fleet: Fleet) -> None:
    async with httpx.AsyncClient() as http:
        cards = [await http.get(f"{url}/.well-known/agent-card.json") for url in (fleet.one, fleet.other)]
        parsed = [await A2ACardResolver(http, url).get_agent_card() for url in (fleet.one, fleet.other)]
    assert cards[0].content == cards[1].content
    assert cards[0].headers["etag"] == cards[1].headers["etag"]
    assert parsed[0] == parsed[1]
    assert parsed[0].capabilities.push_notifications
    assert AgentCard03.model_validate(cards[0].json()).preferred_transport == "JSONRPC"


# ---------------------------------------------------------------------- 0.3.0 as its specification has it


@pytest.mark.parametrize("name", sorted(path.stem for path in FIXTURES.glob("*.json")))
async def test_the_requests_and_answers_of_0_3(fleet: Fleet, name: str) -> None:
    """Each step goes to the other front door than the one before. `$name` is bound where it is first seen; `$any` is anything."""
    names: dict[str, Any] = {}
    async with httpx.AsyncClient(timeout=40) as http:
        for number, step in enumerate(steps(name)):
            url = (fleet.one, fleet.other)[number % 2]
            response = await http.post(url, json=filled_in(step["request"], names))
            if "events" in step:
                assert response.headers["content-type"].startswith("text/event-stream")
                lines = [line for line in response.text.splitlines() if line.startswith("data: ")]
                fits(step["events"], [json.loads(line.removeprefix("data: ")) for line in lines], names)
            else:
                assert response.headers["content-type"] == "application/json"
                fits(step["answer"], response.json(), names)


def steps(name: str) -> list[Json]:
    found: list[Json] = json.loads((FIXTURES / f"{name}.json").read_text())
    return found


def filled_in(value: Any, names: dict[str, Any]) -> Any:
    """`$name` replaced by what it is bound to."""
    match value:
        case dict():
            return {key: filled_in(inner, names) for key, inner in value.items()}
        case list():
            return [filled_in(inner, names) for inner in value]
        case str() if value.startswith("$"):
            return names[value]
    return value


def fits(expected: Any, found: Any, names: dict[str, Any], place: str = "") -> None:
    """The same members and values, but for names."""
    match expected:
        case "$any":
            assert found not in (None, "", [], {}), place
        case str() if expected.startswith("$"):
            assert names.setdefault(expected, found) == found, place
        case dict():
            assert isinstance(found, dict), place
            assert set(found) == set(expected), place
            for key, inner in expected.items():
                fits(inner, found[key], names, f"{place}.{key}")
        case list():
            assert isinstance(found, list), place
            assert len(found) == len(expected), (place, found)
            for index, inner in enumerate(expected):
                fits(inner, found[index], names, f"{place}[{index}]")
        case _:
            assert found == expected, place
