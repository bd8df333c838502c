"""One trace from the request through the turn to the webhook, over both storages; and what stands in its spans."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import httpx
import pytest

from api.app import create_app
from perdure.agent import Agent, Turn
from perdure.agent.callables import Handler
from perdure.errors import InputRequired, Retry
from perdure.queue.inline import InlineQueue
from perdure.settings import Settings, WebhookSettings
from perdure.storage import Storage
from perdure.storage.memory import MemoryStorage
from perdure.storage.webhooks import DeliveryQuery, DeliveryState
from perdure.watch import Watch
from tests.api.front import URL, Front, at_once, at_work, message, opened_front
from tests.support.logged import logged_as_json
from tests.support.receiver import Receiver, receiving, status
from tests.support.storages import opened_memory, opened_postgres
from tests.support.traces import OTHER_PARENT, OTHER_TRACE, PARENT, TRACE, Traces, tracing_here
from worker.embedded import embedded

SECRET = "do-not-tell"


@pytest.fixture
def traces() -> Iterator[Traces]:
    with tracing_here() as traces:
        yield traces


@pytest.fixture(params=["memory", "postgres"])
async def storage(request: pytest.FixtureRequest) -> AsyncIterator[Storage]:
    url = request.getfixturevalue("module_database_url") if request.param == "postgres" else None
    async with opened_postgres(url) if url else opened_memory() as opened:
        yield opened.storage


@asynccontextmanager
async def served(
    storage: Storage | None, handler: Handler, receiver: Receiver | None = None, **config: Any
) -> AsyncIterator[Front]:
    """A front door with a worker."""
    hooks = (
        WebhookSettings(http=True, ports=str(receiver.port), allow="127.0.0.1/32", interval=0.05)
        if receiver
        else None
    )
    config = {"capabilities": {"push_notifications": True}, **config} if receiver else config
    async with AsyncExitStack() as stack:
        front = await stack.enter_async_context(
            opened_front(config, storage=storage, handler=handler, webhooks=hooks)
        )
        await stack.enter_async_context(at_work(front))
        yield front


def hook(receiver: Receiver) -> dict[str, Any]:
    return {"configuration": {"taskPushNotificationConfig": {"url": f"{receiver.url}/{SECRET}"}}}


async def test_one_trace_from_the_request_to_the_webhook(storage: Storage, traces: Traces) -> None:
    async with receiving() as receiver, served(storage, lambda messages: "done", receiver) as front:
        asked = {"message": message(), **hook(receiver)}
        reply = await front.call("SendMessage", asked, traceparent=PARENT, tracestate="vendor=a,other=b")
        heard = await receiver.hears(3)
    request, send, turn, agent = (traces.one(name) for name in ("POST /", "send", "process", "invoke_agent"))
    posts = [span for span in traces.named("POST") if span.kind == "CLIENT"]
    assert {span.trace for span in (request, send, turn, agent, *posts)} == {TRACE}
    assert request.parent == PARENT.split("-")[2]
    assert [send.parent, turn.parent, agent.parent] == [request.span, send.span, turn.span]
    assert {post.parent for post in posts} == {send.span}
    assert [span.kind for span in (request, send, turn, agent)] == [
        *("SERVER", "PRODUCER", "CONSUMER", "INTERNAL")
    ]
    assert {each.headers["traceparent"] for each in heard} == {f"00-{TRACE}-{post.span}-01" for post in posts}
    assert {each.headers["tracestate"] for each in heard} == {"vendor=a,other=b"}
    task_id, context_id = reply["task"]["id"], reply["task"]["contextId"]
    assert turn.attributes["messaging.message.id"] == agent.attributes["perdure.task.id"] == task_id
    assert turn.attributes["messaging.message.conversation_id"] == context_id
    assert agent.attributes["gen_ai.conversation.id"] == context_id


async def test_what_spans_say_follows_the_conventions(traces: Traces) -> None:
    async with receiving() as receiver, served(None, lambda messages: "done", receiver) as front:
        await front.call("SendMessage", {"message": message(), **hook(receiver)})
        await receiver.hears(3)
    request, send, turn, agent = (traces.one(name) for name in ("POST /", "send", "process", "invoke_agent"))
    assert (request.name, request.parent) == ("POST /", "")
    assert request.attributes == {
        "http.request.method": "POST",
        "http.response.status_code": 200,
        "http.route": "/",
        "rpc.method": "SendMessage",
        "rpc.system.name": "jsonrpc",
        "url.path": "/",
        "url.scheme": "http",
    }
    assert [send.name, turn.name, agent.name] == ["send echo", "process echo", "invoke_agent echo"]
    assert send.attributes.items() >= {
        ("messaging.system", "perdure"),
        ("messaging.operation.name", "send"),
        ("messaging.operation.type", "send"),
        ("messaging.destination.name", "echo"),
    }
    assert turn.attributes.items() >= {
        ("messaging.system", "perdure"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "echo"),
        ("perdure.attempt", 1),
        ("perdure.outcome", "completed"),
    }
    assert turn.attributes["messaging.client.id"]
    assert agent.attributes.items() >= {
        ("gen_ai.operation.name", "invoke_agent"),
        ("gen_ai.agent.name", "echo"),
        ("perdure.attempt", 1),
    }
    post = next(span for span in traces.named("POST") if span.kind == "CLIENT")
    assert post.attributes.items() >= {
        ("http.request.method", "POST"),
        ("http.response.status_code", 200),
        ("server.address", "127.0.0.1"),
        ("server.port", receiver.port),
        ("url.scheme", "http"),
    }
    assert not any(span.failed for span in traces.all())


MALFORMED = [
    "",
    "nonsense",
    f"00-{'0' * 32}-b7ad6b7169203331-01",
    f"00-{TRACE}-{'0' * 16}-01",
    f"ff-{TRACE}-b7ad6b7169203331-01",
    f"00-{TRACE.upper()}-b7ad6b7169203331-01",
    f"{PARENT}-more",
    f"{PARENT} {OTHER_PARENT}",
    f"00-{TRACE}",
    "0" * 10_000,
]


@pytest.mark.parametrize("traceparent", MALFORMED, ids=range(len(MALFORMED)))
async def test_a_malformed_traceparent_is_ignored(traces: Traces, traceparent: str) -> None:
    async with served(None, lambda messages: "done") as front:
        await front.call("SendMessage", {"message": message()}, traceparent=traceparent)
    assert traces.one("POST /").parent == ""
    assert {span.trace for span in traces.all()} == {traces.one("process").trace}
    assert traces.one("process").trace != TRACE


async def test_two_traceparents_are_none(traces: Traces) -> None:
    async with served(None, lambda messages: "done") as front:
        await front.http.get("/tasks", headers=[("traceparent", PARENT), ("traceparent", OTHER_PARENT)])
    assert traces.one("GET /tasks").parent == ""


@pytest.mark.parametrize("tracestate", ["vendor=" + "x" * 600, "no state at all", "=,=,="])
async def test_a_tracestate_that_cannot_be_kept_is_dropped(traces: Traces, tracestate: str) -> None:
    async with receiving() as receiver, served(None, lambda messages: "done", receiver) as front:
        asked = {"message": message(), **hook(receiver)}
        await front.call("SendMessage", asked, traceparent=PARENT, tracestate=tracestate)
        heard = await receiver.hears(3)
    assert {each.headers["traceparent"][3:35] for each in heard} == {TRACE}
    assert not any("tracestate" in each.headers for each in heard)


async def test_what_is_not_sampled_stays_so(traces: Traces) -> None:
    async with receiving() as receiver, served(None, lambda messages: "done", receiver) as front:
        asked = {"message": message(), **hook(receiver)}
        await front.call("SendMessage", asked, traceparent=f"{PARENT[:-2]}00")
        heard = await receiver.hears(3)
    assert traces.all() == []
    assert {each.headers["traceparent"][:36] for each in heard} == {f"00-{TRACE}-"}
    assert {each.headers["traceparent"][-2:] for each in heard} == {"00"}


async def test_a_follow_up_belongs_to_its_own_request(storage: Storage, traces: Traces) -> None:
    def handler(messages: list[dict[str, str]]) -> Any:
        if len(messages) == 1:
            raise InputRequired("which one?")
        return "done"

    async with served(storage, handler) as front:
        task = (await front.call("SendMessage", {"message": message()}, traceparent=PARENT))["task"]
        more = message("this one", taskId=task["id"])
        await front.call("SendMessage", {"message": more}, traceparent=OTHER_PARENT)
    first, second = traces.named("process")
    first_send, second_send = traces.named("send")
    assert (first.trace, first.parent, list(first.links)) == (TRACE, first_send.span, [])
    assert (second.trace, second.parent) == (OTHER_TRACE, second_send.span)
    assert list(second.links) == [f"{TRACE}-{first_send.span}"]
    assert [span.attributes["perdure.outcome"] for span in (first, second)] == ["input-required", "completed"]
    assert not any(span.failed for span in traces.all())


async def test_attempts_are_spans_of_their_own_in_one_trace(storage: Storage, traces: Traces) -> None:
    def handler(messages: list[dict[str, str]], turn: Turn) -> str:
        if turn.attempt == 1:
            raise Retry(after=0)
        return "done"

    async with served(storage, handler) as front:
        await front.call("SendMessage", {"message": message()}, traceparent=PARENT)
    send, turns = traces.one("send"), traces.named("process")
    assert [(turn.trace, turn.parent) for turn in turns] == [(TRACE, send.span)] * 2
    assert [turn.attributes["perdure.attempt"] for turn in turns] == [1, 2]
    assert [turn.attributes.get("error.type") for turn in turns] == ["retry", None]
    assert [agent.parent for agent in traces.named("invoke_agent")] == [turn.span for turn in turns]


def instrumented(traces: Traces, kind: str) -> Handler:
    """A handler of each kind, whose own work is traced, in a step as well where it can be awaited."""
    tracer = traces.provider.get_tracer("author")

    def work() -> str:
        with tracer.start_as_current_span("the author's own"):
            return "done"

    def function(messages: list[dict[str, str]]) -> str:
        return work()

    async def coroutine(messages: list[dict[str, str]]) -> str:
        await asyncio.sleep(0)
        return work()

    async def in_a_step(messages: list[dict[str, str]], turn: Turn) -> str:
        return await turn.step("work", work)

    async def in_a_task(messages: list[dict[str, str]]) -> str:
        return await asyncio.to_thread(work)

    def generator(messages: list[dict[str, str]]) -> Iterator[str]:
        yield "first "
        yield work()

    async def async_generator(messages: list[dict[str, str]]) -> AsyncIterator[str]:
        yield "first "
        await asyncio.sleep(0)
        yield work()

    kinds: dict[str, Callable[..., Any]] = {
        each.__name__: each
        for each in (function, coroutine, in_a_step, in_a_task, generator, async_generator)
    }
    return kinds[kind]


@pytest.mark.parametrize(
    "kind", ["function", "coroutine", "in_a_step", "in_a_task", "generator", "async_generator"]
)
async def test_the_authors_own_spans_are_inside_of_the_turn(traces: Traces, kind: str) -> None:
    async with served(None, instrumented(traces, kind)) as front:
        await front.call("SendMessage", {"message": message()}, traceparent=PARENT)
    own = traces.one("the author's own")
    assert (own.trace, own.parent) == (TRACE, traces.one("invoke_agent").span)


async def recorded(front: Front) -> None:
    """Wait until an attempt that failed stands in the log."""
    query = DeliveryQuery(owner=None, state=DeliveryState.WAITING)
    while True:
        if any(delivery.last for delivery in (await front.storage.list_deliveries(query)).deliveries):
            return
        await asyncio.sleep(0.01)  # nothing tells when a delivery was recorded


def fails(messages: list[dict[str, str]]) -> str:
    raise ValueError(SECRET)


async def test_nothing_that_was_said_is_in_a_trace(storage: Storage, traces: Traces) -> None:
    """Neither a message nor what an error says, nor the path of a webhook."""
    async with receiving(status(500)) as receiver, served(storage, fails, receiver) as front:
        asked = {
            "message": message(SECRET, metadata={"m": SECRET}),
            "metadata": {"n": SECRET},
            **hook(receiver),
        }
        reply = await front.call("SendMessage", asked)
        await recorded(front)
        await front.http.get("/tasks", params={"contextId": SECRET})
    assert reply["task"]["status"]["state"] == "TASK_STATE_FAILED"
    agent, turn = traces.one("invoke_agent"), traces.one("process")
    assert (agent.failed, agent.attributes["error.type"]) == (True, "ValueError")
    assert (turn.failed, turn.attributes["error.type"]) == (True, "failed")
    post = next(span for span in traces.named("POST") if span.kind == "CLIENT")
    assert (post.failed, post.attributes["error.type"]) == (True, "500")
    assert [span.name for span in traces.all() if SECRET in span.whole] == []


async def test_paths_are_told_by_their_routes(traces: Traces) -> None:
    async with served(None, lambda messages: "done") as front:
        found = (await front.call("SendMessage", {"message": message()}))["task"]["id"]
        await front.http.get(f"/tasks/{found}")
        await front.http.post(f"/tasks/{found}:cancel", json={})
        await front.http.get("/nowhere/at/all")
    for span, route, code in zip(
        traces.named("GET") + traces.named("POST /tasks"),
        ("/tasks/{id}", "", "/tasks/{id}:cancel"),
        (200, 404, 400),
        strict=True,
    ):
        assert span.attributes.get("http.route", "") == route
        assert span.attributes["http.response.status_code"] == code
        assert not span.failed  # its caller was wrong


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics", "/ops"])
async def test_probes_are_not_traced(traces: Traces, path: str) -> None:
    async with served(None, lambda messages: "done") as front:
        await front.http.get(path)
    assert traces.all() == []


async def test_a_refused_call_says_its_code(traces: Traces) -> None:
    async with served(None, lambda messages: "done") as front:
        await front.error("GetTask", {"id": "nobody's"})
    request = traces.one("POST /")
    assert (request.attributes["rpc.method"], request.attributes["rpc.response.status_code"]) == (
        *("GetTask", "-32001"),
    )
    assert not request.failed


async def test_a_stream_is_a_request_until_its_end(traces: Traces) -> None:
    async with (
        served(None, instrumented(traces, "generator")) as front,
        front.live("SendStreamingMessage", {"message": message()}, traceparent=PARENT) as live,
    ):
        await live.rest()
    request = traces.one("POST /")
    assert (request.trace, request.attributes["http.response.status_code"]) == (TRACE, 200)
    assert traces.one("process").trace == TRACE


async def test_a_repeated_send_adds_nothing(storage: Storage, traces: Traces) -> None:
    async with served(storage, lambda messages: "done") as front:
        asked = {"message": message()}
        for traceparent in (PARENT, OTHER_PARENT):
            await front.call("SendMessage", asked, traceparent=traceparent, Idempotency_Key="once")
    assert [span.trace for span in traces.named("process")] == [TRACE]


async def test_without_tracing_nothing_is_kept_or_sent(storage: Storage) -> None:
    async with receiving() as receiver, served(storage, lambda messages: "done", receiver) as front:
        asked = {"message": message(), **hook(receiver)}
        task = (await front.call("SendMessage", asked, traceparent=PARENT))["task"]
        heard = await receiver.hears(3)
        assert list((await front.line(task["id"])).trace_contexts) == []
    assert not any("traceparent" in each.headers for each in heard)


async def test_log_lines_name_the_trace(traces: Traces, capsys: pytest.CaptureFixture[str]) -> None:
    with logged_as_json():
        async with served(None, fails) as front:
            await front.call("SendMessage", {"message": message()}, traceparent=PARENT)
    lines = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    turn, agent = traces.one("process"), traces.one("invoke_agent")
    for event, span in (("turn.started", turn), ("handler.failed", agent), ("turn.settled", turn)):
        assert (lines[event]["trace_id"], lines[event]["span_id"]) == (TRACE, span.span)
    assert "trace_id" not in lines["worker.started"]


async def test_a_message_that_waits_for_a_turn_feeds_the_next(storage: Storage, traces: Traces) -> None:
    """Two requests while a turn runs: the next turn belongs to the newer one and is linked to the others."""
    running, go_on = asyncio.Event(), asyncio.Event()

    async def handler(messages: list[dict[str, str]], turn: Turn) -> str:
        running.set()
        await go_on.wait()
        return "done"

    third = f"00-{'c' * 32}-{'d' * 16}-01"
    async with served(storage, handler) as front:
        task = (await front.call("SendMessage", at_once(), traceparent=PARENT))["task"]
        await running.wait()
        for traceparent in (OTHER_PARENT, third):
            await front.call("SendMessage", at_once("more", taskId=task["id"]), traceparent=traceparent)
        last = asyncio.create_task(front.rests(task["id"]))
        go_on.set()
        await last
    second = traces.named("process")[1]
    assert second.trace == "c" * 32
    assert [link[:32] for link in second.links] == [TRACE, OTHER_TRACE]


async def test_each_of_several_agents_is_told_by_its_name(traces: Traces) -> None:
    agents = {
        name: Agent.of({"name": name.upper(), "deployment": {"url": URL}}, lambda messages: "done")
        for name in ("one", "two")
    }
    storage, queue, settings = MemoryStorage(), InlineQueue(), Settings()
    watch = Watch(storage, queue, refresh=60)
    app = create_app(agents, storage, queue, watch, settings)
    async with (
        watch.running(),
        embedded(agents, storage, queue, watch, settings),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=URL) as http,
    ):
        body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": {"message": message()}}
        answer = await http.post("/agents/two/", json=body, headers={"traceparent": PARENT})
        assert "result" in answer.json()
    assert traces.one("POST").name == "POST /agents/two/"
    names = ["send TWO", "process TWO", "invoke_agent TWO"]
    assert [traces.one(name).trace for name in names] == [TRACE] * 3
