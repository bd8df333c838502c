"""What is not yours does not exist: every operation of every dialect, asked by a second caller for the first one's ids; and by
the same caller at another agent for those of the first agent.

The answer has to be, to the letter, the one for ids that nobody has; and nothing of the first caller's may have changed. The
cases are driven by the tables of methods and paths: an operation that is added without a case fails here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson
import pytest

from api.jsonrpc import METHODS
from api.rest import BINDINGS
from api.wire.writing import write_token
from perdure.ids import new_task_id, new_token
from perdure.owners import ONLY, owner_at
from perdure.settings import AuthSettings
from perdure.storage import Cursor, TaskQuery
from perdure.storage.webhooks import Breaker, Delivered, DeliveryAttempt
from tests.api.front import Front, Json, Live, answer, question
from tests.api.test_authentication import key_for

Opens = Callable[..., AbstractAsyncContextManager[Front]]
HOOK = "https://hook.test/a"
CONFIG = {
    "capabilities": {"push_notifications": True, "extended_agent_card": True},
    "extended_card": {"description": "more"},
}


@dataclass(frozen=True)
class Ids:
    """What there is to ask for."""

    done: str
    """A task that has ended."""
    asking: str
    """One that waits for its caller."""
    open: str
    """One that waits for its turn."""
    context: str
    config: str
    key: str
    page: str
    """A token of a page of tasks."""
    delivery: str
    """To a webhook."""

    @property
    def tasks(self) -> tuple[str, str, str]:
        return self.done, self.asking, self.open


@dataclass(frozen=True)
class Probe:
    """A request."""

    body: Any = None
    headers: Mapping[str, str] | None = None
    query: str = ""


Cases = Callable[[Ids], Iterator[Probe]]


# ---------------------------------------------------------------------- what is asked, by operation


def no_ids(ids: Ids) -> Iterator[Probe]:
    """The operation takes none."""
    yield Probe({})


def sends(shape: str) -> Cases:
    """Messages that name what there is."""

    def cases(ids: Ids) -> Iterator[Probe]:
        for task in ids.tasks:
            yield Probe(sent(shape, taskId=task))
            yield Probe(sent(shape, taskId=task, contextId=ids.context))
            yield Probe(sent(shape, referenceTaskIds=[task]))
        yield Probe(sent(shape, contextId=ids.context))
        yield Probe(sent(shape), {"Idempotency-Key": ids.key})

    return cases


def sent(shape: str, **members: Any) -> Json:
    match shape:
        case "v1":
            message = {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": "hello"}]}
            configuration: Json = {"returnImmediately": True}
        case "v03":
            message = {"messageId": "m", "role": "user", "parts": [{"kind": "text", "text": "hello"}]}
            configuration = {"blocking": False}
        case _:
            message = {"messageId": "m", "role": "ROLE_USER", "content": [{"text": "hello"}]}
            configuration = {"blocking": False}
    return {"message": {**message, **members}, "configuration": configuration}


def with_task(member: str = "id", **members: Any) -> Cases:
    """Each task, by the member that names it."""

    def cases(ids: Ids) -> Iterator[Probe]:
        for task in ids.tasks:
            yield Probe({member: task, **members})

    return cases


def with_config(member: str, config_member: str) -> Cases:
    """Each task with a config of the first one."""

    def cases(ids: Ids) -> Iterator[Probe]:
        for task in ids.tasks:
            yield Probe({member: task, config_member: ids.config})

    return cases


def subscribes(ids: Ids) -> Iterator[Probe]:
    for task in ids.tasks:
        yield Probe({"id": task})
        for last in ("0", "1", "99"):
            yield Probe({"id": task}, {"Last-Event-ID": last})


def lists(ids: Ids) -> Iterator[Probe]:
    yield Probe({})
    yield Probe({"contextId": ids.context})
    yield Probe({"pageToken": ids.page})


def with_context(ids: Ids) -> Iterator[Probe]:
    yield Probe({"contextId": ids.context})


def deliveries(ids: Ids) -> Iterator[Probe]:
    yield Probe({})
    yield from with_config("taskId", "configId")(ids)


def replays(ids: Ids) -> Iterator[Probe]:
    yield Probe({"deliveryId": ids.delivery})
    yield Probe({"since": "2000-01-01T00:00:00Z"})
    yield from deliveries(ids)


def with_delivery(ids: Ids) -> Iterator[Probe]:
    yield Probe({"deliveryId": ids.delivery})


BY_METHOD: Mapping[str, Cases] = {
    "SendMessage": sends("v1"),
    "SendStreamingMessage": sends("v1"),
    "GetTask": with_task(),
    "ListTasks": lists,
    "CancelTask": with_task(),
    "SubscribeToTask": subscribes,
    "CreateTaskPushNotificationConfig": with_task("taskId", id="theirs", url=HOOK),
    "GetTaskPushNotificationConfig": with_config("taskId", "id"),
    "ListTaskPushNotificationConfigs": with_task("taskId"),
    "DeleteTaskPushNotificationConfig": with_config("taskId", "id"),
    "GetExtendedAgentCard": no_ids,
    "message/send": sends("v03"),
    "message/stream": sends("v03"),
    "tasks/get": with_task(),
    "tasks/cancel": with_task(),
    "tasks/resubscribe": subscribes,
    "tasks/pushNotificationConfig/set": with_task(
        "taskId", pushNotificationConfig={"id": "theirs", "url": HOOK}
    ),
    "tasks/pushNotificationConfig/get": with_config("id", "pushNotificationConfigId"),
    "tasks/pushNotificationConfig/list": with_task(),
    "tasks/pushNotificationConfig/delete": with_config("id", "pushNotificationConfigId"),
    "agent/getAuthenticatedExtendedCard": no_ids,
    "tasks/list": lists,
    "tasks/feedback": with_task("taskId", feedback="eve was here", rating=1),
    "contexts/list": no_ids,
    "contexts/get": with_context,
    "contexts/clear": with_context,
    "webhooks/deliveries": deliveries,
    "webhooks/attempts": with_delivery,
    "webhooks/replay": replays,
    "webhooks/enable": with_config("taskId", "configId"),
}


def nothing_more(ids: Ids) -> Iterator[Probe]:
    """The ids stand in the path."""
    yield Probe()


def rest_lists(ids: Ids) -> Iterator[Probe]:
    yield Probe(query="")
    yield Probe(query=f"?contextId={ids.context}")
    yield Probe(query=f"?pageToken={ids.page}")


def rest_subscribes(ids: Ids) -> Iterator[Probe]:
    yield Probe()
    for last in ("0", "1", "99"):
        yield Probe(headers={"Last-Event-ID": last})


def hooks(dialect: str) -> Cases:
    config: Json = {"id": "theirs", "url": HOOK}

    def cases(ids: Ids) -> Iterator[Probe]:
        yield Probe({"pushNotificationConfig": config} if dialect == "v03_rest" else config)

    return cases


def by_path(dialect: str) -> Mapping[tuple[str, str], Cases]:
    return {
        ("POST", "/message:send"): sends(dialect),
        ("POST", "/message:stream"): sends(dialect),
        ("GET", "/tasks"): rest_lists,
        ("POST", "/tasks/{id}:cancel"): nothing_more,
        ("GET", "/tasks/{id}:subscribe"): rest_subscribes,
        ("POST", "/tasks/{id}:subscribe"): rest_subscribes,
        ("GET", "/tasks/{id}"): nothing_more,
        ("POST", "/tasks/{taskId}/pushNotificationConfigs"): hooks(dialect),
        ("GET", "/tasks/{taskId}/pushNotificationConfigs"): nothing_more,
        ("GET", "/tasks/{taskId}/pushNotificationConfigs/{id}"): nothing_more,
        ("DELETE", "/tasks/{taskId}/pushNotificationConfigs/{id}"): nothing_more,
        ("GET", "/card" if dialect == "v03_rest" else "/extendedAgentCard"): nothing_more,
    }


BY_PATH = {"/v1": by_path("v03_rest"), "": by_path("v1"), "/{tenant}": by_path("v1")}
PATHS = [
    (prefix, method, path)
    for prefix, _, paths in BINDINGS
    for path, methods, _, _ in paths
    for method in methods
]


def test_every_operation_has_its_cases() -> None:
    assert set(BY_METHOD) == set(METHODS)
    assert {(prefix, *each) for prefix, cases in BY_PATH.items() for each in cases} == set(PATHS)


# ---------------------------------------------------------------------- asking


class Asker:
    """Asks as one caller, at one of several agents if it is given."""

    def __init__(self, front: Front, key: str, agent: str = ONLY) -> None:
        self._front, self._key = front, key
        self._below = f"/agents/{agent}" if agent else ""

    async def rpc(self, method: str, probe: Probe) -> str:
        body = {"jsonrpc": "2.0", "id": 7, "method": method, "params": probe.body}
        return await self.ask("POST", "/", Probe(body, probe.headers))

    async def ask(self, method: str, path: str, probe: Probe) -> str:
        """The answer as text: its status, the headers that say something, its body or the first event of a stream."""
        headers = {**(probe.headers or {}), "X-API-Key": self._key}
        async with Live(
            self._front.app, method, self._below + path + probe.query, probe.body, headers
        ) as live:
            await live.starts()
            if live.headers["content-type"].startswith("text/event-stream"):
                frame = await live.frame()
                body = repr(frame)
            else:
                body = b"".join([piece async for piece in _pieces(live)]).decode()
        said = {
            name: live.headers.get(name)
            for name in ("content-type", "idempotency-replayed", "www-authenticate")
        }
        return f"{live.status} {said} {body}"


async def _pieces(live: Live) -> Any:
    while piece := await live.piece():
        yield piece


def leveled(text: str, ids: Ids) -> str:
    """Without what is bound to differ: the ids that were asked for, others that were made for the answer, times; and whose card
    it is."""
    text = re.sub(r"\bagent-\d+\b", "<agent>", text)
    for field in fields(ids):
        text = text.replace(getattr(ids, field.name), f"<{field.name}>")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "<made>", text)
    return re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|\+00:00)", "<time>", text)


async def ada_works(front: Front, ada: Asker, agent: str) -> Ids:
    """The first caller leaves something of everything."""

    async def send(**members: Any) -> str:
        body = sent("v1", contextId="talk", **members)
        answered = await ada.rpc("SendMessage", Probe(body))
        return str(orjson.loads(answered[answered.index('{"') :])["result"]["task"]["id"])

    done = await send()
    await ada.rpc("CreateTaskPushNotificationConfig", Probe({"taskId": done, "id": "hers", "url": HOOK}))
    await front.ends(await front.takes(agent), **answer("a secret"))
    asking = await send()
    await front.ends(await front.takes(agent), **question("which secret?"))
    waiting = await send()
    for task in (done, asking, waiting):
        hook = {"taskId": task, "id": "hers", "url": HOOK, "token": "secret"}
        await ada.rpc("CreateTaskPushNotificationConfig", Probe(hook))
        await ada.rpc("tasks/feedback", Probe({"taskId": task, "feedback": "a secret", "rating": 5}))
    await ada.rpc("SendMessage", Probe(sent("v1"), {"Idempotency-Key": "hers-too"}))
    page = await front.storage.list_tasks(TaskQuery(owner=owner_at(agent, "ada"), page_size=1))
    breaker = Breaker()
    [told] = await front.storage.claim_deliveries(
        new_token(), lease=60, limit=1, per_endpoint=1, breaker=breaker
    )
    attempt = DeliveryAttempt(attempt=1, started_at=datetime.now(UTC), seconds=0.1, answer="a secret")
    await front.storage.settle_delivery(told, attempt, Delivered(), breaker=breaker, blame=False)
    delivery = str(told.delivery_id)
    return Ids(done, asking, waiting, "talk", "hers", "hers-too", write_token(page.next), delivery)


def of_nobody(ids: Ids) -> Ids:
    """The same shapes, and nothing behind them."""
    done, asking, waiting = (str(new_task_id()) for _ in ids.tasks)
    page = write_token(Cursor(_time_of(ids.page), str(new_task_id())))
    return Ids(done, asking, waiting, "tale", "none", "nobodys!", page, str(new_task_id()))


def _time_of(token: str) -> Any:
    from api.wire.reading import read_token

    cursor = read_token(token)
    assert cursor is not None
    return cursor.time


async def everything(front: Front, owner: str, ids: Ids) -> Sequence[Any]:
    """All that the first caller has."""
    storage = front.storage
    found: list[Any] = [await storage.list_tasks(TaskQuery(owner=owner)), await storage.list_contexts(owner)]
    for task in map(UUID, ids.tasks):
        found += [await storage.load_task(owner, task), await storage.events_since(owner, task, 0)]
        found += [await storage.load_feedback(owner, task), await storage.list_webhook_configs(owner, task)]
    return [*found, await storage.load_context(owner, ids.context)]


@dataclass
class Situation:
    """The first caller's things, and second callers: each one new, so that none has anything. Among several agents it is the
    first caller, each time at another agent."""

    front: Front
    key: str
    agents: Iterator[str]
    ada: Asker
    owner: str
    ids: Ids

    async def eve(self) -> Asker:
        if (agent := next(self.agents, None)) is not None:
            return Asker(self.front, self.key, agent)
        return Asker(self.front, await key_for(self.front.storage, f"eve-{new_task_id()}"))

    async def compare(self, asks: Callable[[Asker, Ids, int], Any], count: int, *, takes_ids: bool) -> None:
        """Ask each of `count` cases for her ids and for nobody's."""
        before = await everything(self.front, self.owner, self.ids)
        nobodys = of_nobody(self.ids)
        answers = []
        for number in range(count):
            theirs = leveled(await asks(await self.eve(), self.ids, number), self.ids)
            nothings = leveled(await asks(await self.eve(), nobodys, number), nobodys)
            assert theirs == nothings
            assert "secret" not in theirs
            assert "500 " not in theirs[:4]
            answers.append(theirs)
        assert await everything(self.front, self.owner, self.ids) == before
        if takes_ids:  # the cases would have found something: for her one of them does
            for number, theirs in enumerate(answers):
                if leveled(await asks(self.ada, self.ids, number), self.ids) != theirs:
                    return
            raise AssertionError("no case asks for what there is")


@pytest.fixture(params=["another caller", "another agent"])
async def situation(open_front: Opens, request: pytest.FixtureRequest) -> Any:
    agents = [f"agent-{number}" for number in range(40)] if request.param == "another agent" else []
    async with open_front(CONFIG, auth=AuthSettings(api_keys=True), agents=agents) as front:
        agent, *others = agents or [ONLY]
        key = await key_for(front.storage, "ada")
        ada = Asker(front, key, agent)
        ids = await ada_works(front, ada, agent)
        yield Situation(front, key, iter(others), ada, owner_at(agent, "ada"), ids)


@pytest.mark.parametrize("method", METHODS)
async def test_over_json_rpc(situation: Situation, method: str) -> None:
    cases = BY_METHOD[method]

    async def asks(who: Asker, ids: Ids, number: int) -> str:
        return await who.rpc(method, list(cases(ids))[number])

    takes_ids = "card" not in method.lower()
    await situation.compare(asks, len(list(cases(situation.ids))), takes_ids=takes_ids)


@pytest.mark.parametrize(("prefix", "method", "path"), PATHS)
async def test_over_http_json(situation: Situation, prefix: str, method: str, path: str) -> None:
    cases = BY_PATH[prefix][method, path]

    def probes(ids: Ids) -> list[tuple[str, Probe]]:
        places = [prefix.replace("{tenant}", "acme") + path]
        if "{" in path:
            task = "{taskId}" if "{taskId}" in path else "{id}"
            places = [places[0].replace(task, each).replace("{id}", ids.config) for each in ids.tasks]
        return [(place, probe) for place in places for probe in cases(ids)]

    async def asks(who: Asker, ids: Ids, number: int) -> str:
        place, probe = probes(ids)[number]
        return await who.ask(method, place, probe)

    takes_ids = "card" not in path.lower()
    await situation.compare(asks, len(probes(situation.ids)), takes_ids=takes_ids)
