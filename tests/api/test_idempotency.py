"""A send that is repeated is one send: by its `Idempotency-Key` or, where that is switched on, by its message's id."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import uuid4

import httpx
import pytest
from starlette.requests import Request

from api.auth import Caller, known
from api.idempotency import LONGEST, fingerprint
from api.wire import v1
from perdure.security.schemes import SCOPES
from perdure.tasks import ANONYMOUS, Message, Role
from tests.api.front import (
    Front,
    Json,
    Live,
    answer,
    at_once,
    chunk,
    message,
    message03,
    opened_front,
    question,
    texts,
)

Opens = Callable[..., AbstractAsyncContextManager[Front]]
BINDINGS = ["1.0", "0.3", "REST"]


@pytest.fixture
async def stored_front(open_front: Opens) -> AsyncIterator[Front]:
    """A front door over either storage."""
    async with open_front() as front:
        yield front


def request_of(binding: str, words: str, *, wait: bool, **members: Any) -> tuple[str, Json]:
    """Path and body of a send. The id of the JSON-RPC request is another each time, as clients have it."""
    members = {"messageId": "m1", **members}
    if binding == "0.3":
        params = {"message": message03(words, **members), "configuration": {"blocking": wait}}
        return "/", {"jsonrpc": "2.0", "id": str(uuid4()), "method": "message/send", "params": params}
    params = {"message": message(words, **members), "configuration": {"returnImmediately": not wait}}
    if binding == "REST":
        return "/message:send", params
    return "/", {"jsonrpc": "2.0", "id": str(uuid4()), "method": "SendMessage", "params": params}


async def posted(
    front: Front, words: str, key: str | None, *, binding: str = "1.0", wait: bool = False, **members: Any
) -> httpx.Response:
    """The answer to a send with a key."""
    path, body = request_of(binding, words, wait=wait, **members)
    return await front.http.post(path, json=body, headers={"Idempotency-Key": key} if key else {})


async def sent(front: Front, words: str, key: str | None, **more: Any) -> tuple[Json, bool]:
    """The task of a send with a key, and whether the answer says that the send was a repeated one."""
    response = await posted(front, words, key, **more)
    assert response.status_code == 200, response.text
    body = response.json()
    result = body.get("result", body)
    replayed = response.headers.get("Idempotency-Replayed")
    assert replayed in (None, "true")
    return result.get("task", result), replayed == "true"


def said_by_callers(log: Any) -> list[str]:
    return [
        event.body.text for event in log if isinstance(event.body, Message) and event.body.role is Role.USER
    ]


# ---------------------------------------------------------------------- the same again


@pytest.mark.parametrize("binding", BINDINGS)
async def test_the_same_key_and_body_is_the_same_task(stored_front: Front, binding: str) -> None:
    front = stored_front
    first, replayed = await sent(front, "hi", "k1", binding=binding)
    assert not replayed
    again, replayed = await sent(front, "hi", "k1", binding=binding)
    assert replayed
    assert again == first
    assert (await sent(front, "hi", "k2", binding=binding))[0]["id"] != first["id"]
    assert (await sent(front, "hi", None, binding=binding))[1] is False
    assert await front.stored() == 3
    assert front.bell.qsize() == 3  # it does not ring again


@pytest.mark.parametrize("binding", BINDINGS)
async def test_after_the_end_it_is_answered_with_the_finished_task(stored_front: Front, binding: str) -> None:
    front = stored_front
    first, _ = await sent(front, "hi", "k", binding=binding)
    await front.ends(await front.takes(), **answer("there"))
    for wait in (True, False):
        again, replayed = await sent(front, "hi", "k", binding=binding, wait=wait)
        assert (again["id"], replayed) == (first["id"], True)
        assert texts(again["artifacts"]) == ["there"]


async def test_what_counts_is_what_was_asked_not_how_it_was_spelled(stored_front: Front) -> None:
    """Another version, another binding, other names of members, another way to be answered."""
    front = stored_front
    first, _ = await sent(front, "hi", "k", binding="1.0", wait=False)
    await front.ends(await front.takes(), **answer("there"))
    for binding in BINDINGS:
        again, replayed = await sent(front, "hi", "k", binding=binding, wait=True)
        assert (again["id"], replayed) == (first["id"], True)
    snake = {"message_id": "m1", "role": 1, "parts": [{"text": "hi"}]}
    response = await front.post(
        "SendMessage", {"message": snake, "configuration": {"historyLength": 0}}, Idempotency_Key="k"
    )
    assert response.json()["result"]["task"]["id"] == first["id"]
    assert await front.stored() == 1


@pytest.mark.parametrize("stored_first", [True, False])
async def test_a_repeated_blocking_send_waits_for_the_same_end(
    stored_front: Front, monkeypatch: pytest.MonkeyPatch, stored_first: bool
) -> None:
    front, accepted = stored_front, asyncio.Semaphore(0)
    submit = front.storage.submit_task

    async def counted(*arguments: Any, **options: Any) -> Any:
        result = await submit(*arguments, **options)
        accepted.release()
        return result

    monkeypatch.setattr(front.storage, "submit_task", counted)
    sends = [asyncio.create_task(sent(front, "hi", "k", wait=True))]
    if stored_first:
        await accepted.acquire()
    sends += [asyncio.create_task(sent(front, "hi", "k", wait=True)) for _ in range(10)]
    for _ in range(10 + (not stored_first)):
        await accepted.acquire()
    await front.ends(await front.takes(), **answer("there"))
    answers = await asyncio.gather(*sends)
    assert len({task["id"] for task, _ in answers}) == 1
    assert [texts(task["artifacts"]) for task, _ in answers] == [["there"]] * 11
    assert sum(replayed for _, replayed in answers) == 10
    assert await front.stored() == 1


@pytest.mark.parametrize("method", ["SendStreamingMessage", "message/stream", "/message:stream"])
async def test_a_send_repeated_as_a_stream_goes_on_with_the_same_task(
    stored_front: Front, method: str
) -> None:
    front = stored_front
    first, _ = await sent(front, "hi", "k")
    turn = await front.takes()
    await front.writes(turn, 1, chunk("the", append=False))
    async with streamed(front, method, "hi", "k") as stream:
        snapshot = shown(await stream.frame())
        assert stream.headers["idempotency-replayed"] == "true"
        assert snapshot["id"] == first["id"]
        assert texts(snapshot["artifacts"]) == ["the"]
        await front.writes(turn, 2, chunk("re"))
        assert texts([shown(await stream.frame())["artifact"]]) == ["re"]
        await front.ends(turn, number=3, **answer("there"))
        assert len(await stream.rest()) == 2
    async with streamed(front, method, "hi", "k") as stream:  # and after the end
        frames = await stream.rest()
        assert stream.headers["idempotency-replayed"] == "true"
        assert [texts(shown(frame)["artifacts"]) for frame in frames] == [["there"]]
    assert await front.stored() == 1


async def test_a_stream_that_is_the_first_with_its_key_does_not_say_replayed(stored_front: Front) -> None:
    async with streamed(stored_front, "SendStreamingMessage", "hi", "k") as stream:
        await stream.starts()
        assert "idempotency-replayed" not in stream.headers
    assert (await sent(stored_front, "hi", "k"))[1]


def streamed(front: Front, method: str, words: str, key: str) -> Live:
    """A streaming send with a key."""
    said = (message03 if method == "message/stream" else message)(words, messageId="m1")
    if method.startswith("/"):
        return Live(front.app, "POST", method, {"message": said}, {"Idempotency-Key": key})
    return front.live(method, {"message": said}, Idempotency_Key=key)


def shown(frame: Any) -> Json:
    """The Task or the artifact update of a frame, in whatever binding."""
    result = frame.data.get("result", frame.data)
    found: Json = result.get("task") or result.get("artifactUpdate") or result
    return found


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_repeated_follow_up_is_stored_once(stored_front: Front, binding: str) -> None:
    front = stored_front
    asked, _ = await sent(front, "weather", "k", binding=binding)
    await front.ends(await front.takes(), **question("where?"))
    for replays in (False, True):
        task, replayed = await sent(front, "Oslo", "k2", binding=binding, taskId=asked["id"])
        assert (task["id"], replayed) == (asked["id"], replays)
    await front.ends(await front.takes(), **answer("rain"))
    task, replayed = await sent(front, "Oslo", "k2", binding=binding, taskId=asked["id"])  # it has ended
    assert replayed
    assert texts(task["artifacts"]) == ["rain"]
    assert said_by_callers(await front.log(asked["id"])) == ["weather", "Oslo"]
    refused = await posted(front, "Bergen", "k2", taskId=asked["id"])
    assert refused.json()["error"]["code"] == -32602


async def test_a_stream_repeats_a_follow_up_too(stored_front: Front) -> None:
    front = stored_front
    asked, _ = await sent(front, "weather", None)
    await front.ends(await front.takes(), **question("where?"))
    await sent(front, "Oslo", "k", taskId=asked["id"])
    turn = await front.takes()
    said = message("Oslo", messageId="m1", taskId=asked["id"])
    async with front.live("SendStreamingMessage", {"message": said}, Idempotency_Key="k") as stream:
        _, snapshot = await stream.result()
        assert texts(snapshot["task"]["history"]) == ["weather", "where?", "Oslo"]
        await front.ends(turn, **answer("rain"))
        await stream.rest()
    assert said_by_callers(await front.log(asked["id"])) == ["weather", "Oslo"]


def test_a_fingerprint_is_the_same_in_every_process_and_version() -> None:
    """A constant: a send must be known again by the front doors of the next release."""
    said = v1.read_send(
        {
            "message": {
                "messageId": "m1",
                "role": "ROLE_USER",
                "parts": [{"text": "ü"}, {"data": {"b": 1.5, "a": [None]}}, {"raw": "-_8"}],
                "metadata": {"z": 1, "a": {}},
            },
            "configuration": {"taskPushNotificationConfig": {"url": "https://hook.test"}},
        }
    )
    assert fingerprint(said) == "9df48d460e4f4e536f6dc509771b07d2fac2f4d680b00bdeee3472267cfa640a"


# ---------------------------------------------------------------------- something else


@pytest.mark.parametrize("binding", BINDINGS)
@pytest.mark.parametrize(
    "other",
    [
        {"words": "ho"},
        {"messageId": "m2"},
        {"contextId": "talk"},
        {"metadata": {"a": 1}},
        {"extensions": ["https://x.test"]},
    ],
)
async def test_the_same_key_with_something_else_is_refused(front: Front, binding: str, other: Json) -> None:
    first, _ = await sent(front, "hi", "k", binding=binding)
    members = dict(other)
    response = await posted(front, members.pop("words", "hi"), "k", binding=binding, **members)
    error = response.json()["error"]
    if binding == "REST":
        assert response.status_code == 409
        assert (error["code"], error["status"]) == (409, "ALREADY_EXISTS")
        assert error["details"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
    else:
        assert response.status_code == 200
        assert error["code"] == -32602
    if binding == "1.0":
        assert error["data"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
    assert 'the idempotency key "k" was used before' in error["message"]
    assert await front.stored() == 1
    assert (await sent(front, "hi", "k", binding=binding))[0]["id"] == first["id"]


async def test_the_requests_metadata_and_webhook_count_too(pushing: Front) -> None:
    def params(**more: Any) -> Json:
        return {"message": message("hi", messageId="m1"), "configuration": {"returnImmediately": True}} | more

    webhook = {
        "returnImmediately": True,
        "taskPushNotificationConfig": {"url": "https://hook.test", "token": "a"},
    }
    await pushing.call("SendMessage", params(), Idempotency_Key="k")
    for other in ({"metadata": {"a": 1}}, {"configuration": webhook}):
        error = await pushing.error("SendMessage", params(**other), Idempotency_Key="k")
        assert error["data"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"


async def test_a_refused_stream_is_refused_before_it_begins(front: Front) -> None:
    await sent(front, "hi", "k")
    async with streamed(front, "/message:stream", "ho", "k") as stream:
        assert (await stream.starts()).status == 409


async def test_a_key_of_a_send_that_was_refused_is_free(open_front: Opens) -> None:
    async with open_front({"conversation_policy": "reject"}) as front:
        await sent(front, "one", None, contextId="talk")
        assert "error" in (await posted(front, "two", "k", contextId="talk")).json()
        await front.ends(await front.takes(), **answer("1"))
        _, replayed = await sent(front, "two", "k", contextId="talk")
        assert not replayed
        assert (await sent(front, "two", "k", contextId="talk"))[1]


# ---------------------------------------------------------------------- whose, and how long


async def test_a_key_is_its_callers_own(stored_front: Front, monkeypatch: pytest.MonkeyPatch) -> None:
    front = stored_front
    first, _ = await sent(front, "hi", "k")

    def somebody_else(request: Request) -> Caller:
        return known("somebody else", SCOPES)

    monkeypatch.setattr("api.jsonrpc.identify", somebody_else)
    task, replayed = await sent(front, "ho", "k")
    assert task["id"] != first["id"]
    assert not replayed


async def test_a_key_that_was_forgotten_is_free(stored_front: Front) -> None:
    front = stored_front
    first, _ = await sent(front, "hi", "k")
    assert await front.storage.forget_keys(older_than=3600) == 0
    assert (await sent(front, "hi", "k"))[1]
    assert await front.storage.forget_keys(older_than=0) == 1
    task, replayed = await sent(front, "hi", "k")
    assert task["id"] != first["id"]
    assert not replayed


# ---------------------------------------------------------------------- the header


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("8e03978e-40d5-43dd-bc93-6894a57f9324", '"8e03978e-40d5-43dd-bc93-6894a57f9324"'),
        ("a/b+c==", '"a/b+c=="'),
        (r"a\b", r'"a\\b"'),
        (" k ", "k"),
        ("k" * LONGEST, f'"{"k" * LONGEST}"'),
    ],
)
async def test_a_key_may_stand_in_quotes(front: Front, one: str, other: str) -> None:
    first, _ = await sent(front, "hi", one)
    assert await sent(front, "hi", other) == (first, True)


async def test_a_quoted_key_may_hold_what_a_bare_one_may_not(front: Front) -> None:
    keys = ['"a b"', '"a,b"', r'"a\"b"', '";"', '"a"']
    tasks = [(await sent(front, "hi", key))[0]["id"] for key in keys]
    assert len(set(tasks)) == len(keys)


@pytest.mark.parametrize(
    "key",
    [
        '"',
        '""',
        '"a',
        'a"',
        '"a"b"',
        r'"a\b"',
        '"a";b=1',
        "a b",
        "a, b",
        "ü",
        "k" * (LONGEST + 1),
        '"ü"',
        "a\tb",
    ],
)
@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_malformed_key_is_refused(front: Front, key: str, binding: str) -> None:
    path, body = request_of(binding, "hi", wait=False)
    names = {b"Idempotency-Key": key.encode("latin-1")}
    response = await front.http.post(path, json=body, headers=names)
    assert response.status_code == (400 if binding == "REST" else 200)
    assert response.json()["error"]["code"] == (400 if binding == "REST" else -32602)
    assert response.json()["error"]["message"].startswith("Idempotency-Key: must ")
    assert await front.stored() == 0


async def test_two_keys_are_refused(front: Front) -> None:
    path, body = request_of("REST", "hi", wait=False)
    names = [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]
    response = await front.http.post(path, json=body, headers=names)
    assert response.status_code == 400
    assert await front.stored() == 0


# ---------------------------------------------------------------------- the message's id


async def test_a_messages_id_is_no_key_unless_that_is_switched_on(front: Front) -> None:
    first, _ = await sent(front, "hi", None)
    again, replayed = await sent(front, "hi", None)
    assert again["id"] != first["id"]
    assert not replayed


@pytest.mark.parametrize("binding", BINDINGS)
async def test_a_messages_id_is_its_key_where_that_is_switched_on(open_front: Opens, binding: str) -> None:
    async with open_front(idempotent_message_ids=True) as front:
        first, replayed = await sent(front, "hi", None, binding=binding)
        assert not replayed
        assert await sent(front, "hi", None, binding=binding) == (first, True)
        refused = await posted(front, "ho", None)
        assert "messageId m1 was used before" in refused.json()["error"]["message"]
        other, _ = await sent(front, "ho", None, binding=binding, messageId="m2")
        assert other["id"] != first["id"]
        assert await front.stored() == 2


async def test_a_key_goes_before_the_messages_id(open_front: Opens) -> None:
    async with open_front(idempotent_message_ids=True) as front:
        first, _ = await sent(front, "hi", "k")
        other, replayed = await sent(front, "hi", "k2")
        assert other["id"] != first["id"]
        assert not replayed


async def test_keys_and_message_ids_do_not_collide() -> None:
    async with opened_front(idempotent_message_ids=True) as front:
        ids = [
            (await sent(front, "hi", None, messageId="k"))[0]["id"],
            *[(await sent(front, "hi", key, messageId="k"))[0]["id"] for key in ("k", '"messageId k"')],
            (await sent(front, "hi", None, messageId='"k"'))[0]["id"],
        ]
        assert len(set(ids)) == 4


# ---------------------------------------------------------------------- webhooks


async def test_a_repeated_send_has_one_webhook(open_front: Opens) -> None:
    """It is stored together with the message: there is no moment at which only one of them is there."""
    async with open_front({"capabilities": {"push_notifications": True}}) as front:
        params = {
            "message": message("hi", messageId="m1"),
            "configuration": {
                "returnImmediately": True,
                "taskPushNotificationConfig": {"url": "https://hook.test"},
            },
        }
        for _ in range(2):
            task = (await front.call("SendMessage", params, Idempotency_Key="k"))["task"]
            page = await front.call("ListTaskPushNotificationConfigs", {"taskId": task["id"]})
            assert [config["url"] for config in page["configs"]] == ["https://hook.test"]
        assert await front.stored() == 1


async def test_two_keys_bring_two_webhooks_to_one_task(pushing: Front) -> None:
    task, _ = await sent(pushing, "weather", None)
    await pushing.ends(await pushing.takes(), **question("where?"))
    webhook = {"taskPushNotificationConfig": {"url": "https://hook.test"}, "returnImmediately": True}
    for key in ("k1", "k2"):
        params = {"message": message(key, taskId=task["id"]), "configuration": webhook}
        await pushing.call("SendMessage", params, Idempotency_Key=key)
    page = await pushing.storage.list_webhook_configs(ANONYMOUS, (await pushing.takes()).claim.task_id)
    assert len(page.configs) == 2


async def test_another_tenant_is_another_content(front: Front) -> None:
    params = at_once()
    first = await front.call("SendMessage", {"tenant": "acme", **params}, Idempotency_Key="k")
    again = await front.call("SendMessage", {"tenant": "acme", **params}, Idempotency_Key="k")
    assert again["task"]["id"] == first["task"]["id"]
    for other in ({}, {"tenant": "other"}):
        error = await front.error("SendMessage", {**other, **params}, Idempotency_Key="k")
        assert error["data"][0]["reason"] == "IDEMPOTENCY_KEY_REUSED"
