"""Limits of what a message may hold, how often a caller may ask, and how much it may have under way."""

from __future__ import annotations

import asyncio
import time
from base64 import b64encode
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import pytest

from api.auth import Caller
from api.places import Places
from api.quotas import JUST_NOW, Quotas, Tally
from api.rates import MANY, Rates
from perdure.errors import Overloaded, TooMuch
from perdure.ids import new_token
from perdure.settings import ServerSettings
from perdure.storage import TaskCounts
from perdure.storage.memory import MemoryStorage
from perdure.tasks import TaskState
from tests.api.front import Front, Json, answer, at_once, message, message03, opened_front, question

OpenFront = Callable[..., AbstractAsyncContextManager[Front]]

# ---------------------------------------------------------------------- what a message may hold


def nested(levels: int) -> Any:
    return {"a": nested(levels - 1)} if levels else 1


SMALL: Json = {
    "max_parts": 3,
    "max_references": 2,
    "max_text_bytes": 100,
    "max_message_text_bytes": 150,
    "max_file_bytes": 50,
    "max_metadata_bytes": 60,
    "max_metadata_depth": 3,
}
FITS: dict[str, Json] = {
    "parts": {"parts": [{"text": "a"}] * 3},
    "references": {"referenceTaskIds": ["t", "u"]},
    "extensions": {"extensions": ["https://a.test", "https://b.test"]},
    "a text": {"parts": [{"text": "x" * 100}]},
    "a text beyond ASCII": {"parts": [{"text": "\u20ac" * 33}]},
    "texts": {"parts": [{"text": "x" * 75}, {"text": "x" * 75}]},
    "a file": {"parts": [{"raw": b64encode(b"x" * 50).decode()}]},
    "data": {"parts": [{"data": "x" * 1000}]},
    "deep metadata": {"metadata": nested(3)},
    "metadata": {"metadata": {"a": "x" * 52}},
    "metadata of a part": {"parts": [{"text": "a", "metadata": {"a": "x" * 52}}]},
}
TOO_MUCH: dict[str, tuple[Json, str]] = {
    "parts": ({"parts": [{"text": "a"}] * 4}, "message.parts"),
    "references": ({"referenceTaskIds": ["t", "u", "v"]}, "message.referenceTaskIds"),
    "extensions": ({"extensions": ["https://a.test"] * 3}, "message.extensions"),
    "a text": ({"parts": [{"text": "b"}, {"text": "x" * 101}]}, "message.parts[1].text"),
    "a text beyond ASCII": ({"parts": [{"text": "\u20ac" * 34}]}, "message.parts[0].text"),
    "texts": ({"parts": [{"text": "x" * 75}, {"text": "x" * 76}]}, "message.parts"),
    "a file": ({"parts": [{"raw": b64encode(b"x" * 51).decode()}]}, "message.parts[0].raw"),
    "deep metadata": ({"metadata": nested(4)}, "message.metadata"),
    "deep lists": ({"metadata": {"a": [[[]]]}}, "message.metadata"),
    "metadata": ({"metadata": {"a": "x" * 53}}, "message.metadata"),
    "metadata of a part": (
        {"parts": [{"text": "a", "metadata": {"a": "x" * 53}}]},
        "message.parts[0].metadata",
    ),
    "deep metadata of a part": ({"parts": [{"text": "a", "metadata": nested(4)}]}, "message.parts[0]"),
}


@pytest.mark.parametrize("case", FITS)
async def test_what_is_just_within_a_limit_is_taken(case: str) -> None:
    async with opened_front(**SMALL) as front:
        assert (await front.call("SendMessage", at_once() | {"message": message() | FITS[case]}))["task"]


@pytest.mark.parametrize("case", TOO_MUCH)
async def test_what_is_too_much_of_a_message_names_the_field_and_nothing_is_stored(case: str) -> None:
    members, where = TOO_MUCH[case]
    async with opened_front(**SMALL) as front:
        error = await front.error("SendMessage", {"message": message() | members})
        assert error["code"] == -32602
        violation = error["data"][1]["fieldViolations"][0]
        assert violation["field"].startswith(where)
        assert "at most" in violation["description"]
        response = await front.http.post("/message:send", json={"message": message() | members})
        assert response.status_code == 400
        assert await front.stored() == 0


@pytest.mark.parametrize("metadata", [nested(4), {"a": "x" * 53}])
async def test_metadata_of_a_request_and_of_feedback_has_the_same_limits(metadata: Json) -> None:
    async with opened_front(**SMALL) as front:
        error = await front.error("message/send", {"message": message03(), "metadata": metadata})
        assert error["data"]["field"] == "metadata"
        task = (await front.call("SendMessage", at_once()))["task"]
        feedback = {"taskId": task["id"], "rating": 1, "metadata": metadata}
        assert (await front.error("tasks/feedback", feedback))["code"] == -32602
        assert await front.stored() == 1


# ---------------------------------------------------------------------- what an answer brings


async def test_an_answer_brings_no_more_history_than_the_limit() -> None:
    async with opened_front(max_history=3) as front:
        task = (await front.call("SendMessage", at_once("1")))["task"]
        for number in range(2, 6):
            await front.call("SendMessage", at_once(f"{number}", taskId=task["id"]))

        def words(messages: list[Json]) -> str:
            return "".join(said["parts"][0]["text"] for said in messages)

        for params in ({}, {"historyLength": 4}, {"historyLength": 1000}):
            found = await front.call("GetTask", {"id": task["id"], **params})
            assert words(found["history"]) == "345"
            (listed,) = (await front.call("ListTasks", params))["tasks"]
            assert words(listed["history"]) == "345"
            talk = await front.call("contexts/get", {"contextId": task["contextId"], **params})
            assert words(talk["messages"]) == "345"
        assert words((await front.call("GetTask", {"id": task["id"], "historyLength": 2}))["history"]) == "45"
        async with front.live("SubscribeToTask", {"id": task["id"]}) as live:
            _, first = await live.result()
        assert words(first["task"]["history"]) == "345"


async def test_a_task_has_no_more_push_configs_than_the_limit() -> None:
    async with opened_front({"capabilities": {"push_notifications": True}}, max_push_configs=2) as front:
        inline = {"taskPushNotificationConfig": {"url": "https://hook.test", "id": "first"}}
        params = {"message": message(), "configuration": {"returnImmediately": True, **inline}}
        task_id = (await front.call("SendMessage", params))["task"]["id"]
        config = {"taskId": task_id, "url": "https://hook.test"}
        await front.call("CreateTaskPushNotificationConfig", config | {"id": "second"})
        await front.call(
            "CreateTaskPushNotificationConfig", config | {"id": "second"}
        )  # again is not another
        response = await front.post("CreateTaskPushNotificationConfig", config | {"id": "third"})
        assert response.status_code == 429
        assert "Retry-After" not in response.headers
        follow_up = {
            "message": message(taskId=task_id),
            "configuration": {"taskPushNotificationConfig": config | {"id": "third"}},
        }
        assert "at most 2" in (await front.error("SendMessage", follow_up))["message"]
        assert len(await front.log(task_id)) == 1  # the message was not kept
        await front.call("DeleteTaskPushNotificationConfig", {"taskId": task_id, "id": "first"})
        await front.call("CreateTaskPushNotificationConfig", config | {"id": "third"})


# ---------------------------------------------------------------------- how often


ME, OTHER = Caller("me", authenticated=True), Caller("other", authenticated=True)


class Clock:
    """Time that the test makes."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def rates(clock: Clock, **settings: Any) -> Rates:
    return Rates(ServerSettings(**settings), clock=clock)


def taken(rates: Rates, caller: Caller, most: int = 100) -> int:
    """How many requests are let through at once."""
    for number in range(most):
        try:
            rates.take(caller)
        except TooMuch:
            return number
    return most


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    limited = rates(clock, rate=10, burst=5)
    assert taken(limited, ME) == 5
    assert taken(limited, OTHER) == 5
    clock.now += 0.1
    assert taken(limited, ME) == 1
    clock.now += 0.35
    assert taken(limited, ME) == 3
    clock.now += 100
    assert taken(limited, ME) == 5


def test_who_is_refused_is_told_when_to_come_back_and_then_let_in() -> None:
    clock = Clock()
    limited = rates(clock, rate=0.25, burst=2)
    assert taken(limited, ME) == 2
    with pytest.raises(TooMuch) as refused:
        limited.take(ME)
    assert refused.value.retry_after == pytest.approx(4)
    clock.now += 3.9
    assert taken(limited, ME) == 0
    clock.now += 0.1
    assert taken(limited, ME) == 1


def test_a_refused_request_costs_nothing() -> None:
    clock = Clock()
    limited = rates(clock, rate=1, burst=1)
    assert taken(limited, ME) == 1
    for _ in range(50):
        assert taken(limited, ME) == 0
    clock.now += 1
    assert taken(limited, ME) == 1


def test_by_default_only_who_has_authenticated_is_limited() -> None:
    limited = rates(Clock(), burst=10)
    assert taken(limited, ME) == 10
    assert taken(limited, Caller("anonymous")) == 100
    assert taken(rates(Clock(), rate=0, burst=10), ME) == 100
    assert taken(rates(Clock(), rate=1, burst=10), Caller("anonymous")) == 10


def test_callers_who_went_are_forgotten() -> None:
    clock = Clock()
    limited = rates(clock, rate=10, burst=5)
    for number in range(MANY):
        limited.take(Caller(f"{number}"))
    clock.now += 10
    assert taken(limited, ME) == 5
    assert len(limited._full_at) < 5


@pytest.mark.parametrize(
    "method", ["GetTask", "tasks/list", "SendMessage", "SubscribeToTask", "message/stream"]
)
async def test_every_operation_over_the_rate_is_429_with_retry_after(method: str) -> None:
    async with opened_front(rate=0.001, burst=1) as front:
        await front.call("ListTasks")
        response = await front.post(method, {"id": "x"})
        assert (response.status_code, response.headers["Retry-After"]) == (429, "1000")
        error = response.json()["error"]
        assert error["code"] == -32603
        assert "requests per second" in error["message"]
        assert response.json()["id"] == 7
        assert await front.stored() == 0
        for verb, path in (("GET", "/tasks"), ("POST", "/message:send"), ("GET", "/v1/tasks/x")):
            rest = await front.http.request(verb, path)
            assert (rest.status_code, rest.headers["Retry-After"]) == (429, "1000")
            assert rest.json()["error"]["status"] == "RESOURCE_EXHAUSTED"
            assert rest.json()["error"]["details"][0]["reason"] == "RATE_LIMITED"
        for path in ("/healthz", "/readyz", "/.well-known/agent-card.json"):
            assert (await front.http.get(path)).status_code == 200


async def test_what_cannot_be_understood_counts_as_well() -> None:
    async with opened_front(rate=0.001, burst=2) as front:
        json = {"Content-Type": "application/json"}
        answers = [await front.http.post("/", content=b"{", headers=json) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]


# ---------------------------------------------------------------------- how many tasks


async def refused(front: Front, status: int, reason: str) -> None:
    """A new task is, and nothing of it is stored."""
    before = await front.stored()
    response = await front.http.post("/message:send", json=at_once())
    assert response.status_code == status, response.text
    assert response.json()["error"]["details"][0]["reason"] == reason
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert (await front.post("SendMessage", at_once())).status_code == status
    assert (await front.post("message/stream", {"message": message03()})).status_code == status
    assert await front.stored() == before


async def sent(front: Front, number: int) -> list[str]:
    """The ids of so many new tasks."""
    return [(await front.call("SendMessage", at_once()))["task"]["id"] for _ in range(number)]


async def test_a_caller_has_no_more_open_tasks_than_its_quota(open_front: OpenFront) -> None:
    async with open_front(max_open_tasks=3) as front:
        tasks = await sent(front, 3)
        await refused(front, 429, "RATE_LIMITED")
        await front.call("CancelTask", {"id": tasks[0]})
        await afterwards(front)
        await sent(front, 1)
        await refused(front, 429, "RATE_LIMITED")


async def afterwards(front: Front) -> None:
    """What was counted is counted again by the next send."""
    for tally in (*front.manager._quotas._own.values(), front.manager._quotas._all):
        if tally is not None:
            tally._counted_at = 0.0


async def test_no_more_tasks_of_a_caller_wait_than_its_quota(open_front: OpenFront) -> None:
    async with open_front(max_waiting_per_caller=2) as front:
        await sent(front, 2)
        await refused(front, 429, "RATE_LIMITED")
        turn = await front.takes()
        await afterwards(front)
        await sent(front, 1)
        await refused(front, 429, "RATE_LIMITED")
        await front.ends(turn, **question("why"))


async def test_no_more_tasks_wait_in_all_than_the_limit(open_front: OpenFront) -> None:
    async with open_front(max_waiting=2) as front:
        await sent(front, 2)
        await refused(front, 503, "OVERLOADED")
        await front.takes()
        await afterwards(front)
        await sent(front, 1)


async def test_messages_to_a_task_that_is_there_are_never_refused_for_a_quota(open_front: OpenFront) -> None:
    async with open_front(max_open_tasks=2, max_waiting_per_caller=2, max_waiting=2) as front:
        asking, _ = await sent(front, 2)
        turn = await front.takes()
        await front.ends(turn, **question("which one"))
        await afterwards(front)
        await refused(front, 429, "RATE_LIMITED")
        told = await front.call("SendMessage", at_once("that one", taskId=asking))
        assert told["task"]["status"]["state"] == "TASK_STATE_SUBMITTED"


async def test_a_send_that_is_repeated_gets_its_task_also_when_the_quota_is_full(
    open_front: OpenFront,
) -> None:
    async with open_front(max_open_tasks=1) as front:
        first = at_once()
        task = (await front.call("SendMessage", first, Idempotency_Key="k"))["task"]
        await refused(front, 429, "RATE_LIMITED")
        again = await front.post("SendMessage", first, Idempotency_Key="k")
        assert again.headers["Idempotency-Replayed"] == "true"
        assert again.json()["result"]["task"]["id"] == task["id"]
        assert (await front.post("SendMessage", at_once(), Idempotency_Key="l")).status_code == 429
        assert (await front.post("SendMessage", at_once(), Idempotency_Key="k")).status_code == 200  # reused


async def test_what_is_refused_for_another_reason_takes_no_place(open_front: OpenFront) -> None:
    async with open_front({"conversation_policy": "reject"}, max_open_tasks=2) as front:
        context = (await front.call("SendMessage", at_once()))["task"]["contextId"]
        for _ in range(5):
            assert "under way" in (await front.error("SendMessage", at_once(contextId=context)))["message"]
        await sent(front, 1)


async def test_of_many_at_once_no_more_get_in_than_there_are_places(open_front: OpenFront) -> None:
    async with open_front(max_open_tasks=10) as front:
        statuses = [
            response.status_code
            for response in await asyncio.gather(*(front.post("SendMessage", at_once()) for _ in range(40)))
        ]
        assert (statuses.count(200), statuses.count(429)) == (10, 30)
        assert await front.stored() == 10


async def test_a_quota_holds_over_front_doors(open_front: OpenFront) -> None:
    """Each knows what it took in itself, and what the others had taken in when it counted."""
    async with open_front(max_open_tasks=4) as one, open_front(max_open_tasks=4) as other:
        await sent(one, 3)
        await sent(other, 1)  # which counts for the first time
        await refused(other, 429, "RATE_LIMITED")
        await afterwards(one)
        await refused(one, 429, "RATE_LIMITED")
        assert await one.stored() == 4


async def test_the_overshoot_is_what_others_took_in_since_the_count(open_front: OpenFront) -> None:
    async with open_front(max_open_tasks=4) as one, open_front(max_open_tasks=4) as other:
        await sent(one, 1)
        await sent(other, 3)
        await sent(one, 3)  # its count is fresh and does not know of them: no more than its own limit
        await refused(one, 429, "RATE_LIMITED")
        await refused(other, 429, "RATE_LIMITED")
        assert await one.stored() == 7


class Counting(MemoryStorage):
    """Counts how often it is asked to count."""

    looks = 0

    async def count_tasks(self, owner: str, *, up_to: int) -> TaskCounts:
        self.looks += 1
        return await super().count_tasks(owner, up_to=up_to)


async def test_a_busy_caller_is_counted_at_most_once_a_second() -> None:
    storage = Counting()
    async with opened_front(storage=storage) as front:
        began = asyncio.get_running_loop().time()
        await sent(front, 100)
        assert storage.looks <= 1 + (asyncio.get_running_loop().time() - began)


async def test_before_anybody_is_refused_it_is_counted_again(open_front: OpenFront) -> None:
    """Also while the count is fresh: what it was reckoned from may have ended."""
    async with open_front(max_open_tasks=2) as front:
        first, _ = await sent(front, 2)
        await front.call("CancelTask", {"id": first})
        (tally,) = front.manager._quotas._own.values()
        tally._counted_at = time.monotonic() - 2 * JUST_NOW
        await sent(front, 1)


async def test_what_is_stored_while_it_is_counted_is_not_forgotten() -> None:
    counted = asyncio.Event()

    async def look() -> list[int]:
        await counted.wait()
        return [1]

    tally = Tally([10], look)
    tally.take()
    tally.give(stored=True)
    refreshing = asyncio.create_task(tally.refresh())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    tally.take()
    tally.give(stored=True)
    tally.take()
    tally.give(stored=False)
    tally.take()
    counted.set()
    await refreshing
    assert [*tally._counts, tally._since, tally._under_way] == [1, 1, 1]


async def test_without_quotas_nothing_is_counted() -> None:
    storage = Counting()
    settings: Json = {"max_open_tasks": 0, "max_waiting_per_caller": 0, "max_waiting": 0}
    async with opened_front(storage=storage, **settings) as front:
        await sent(front, 3)
    assert storage.looks == 0


async def test_callers_who_send_nothing_are_forgotten() -> None:
    quotas = Quotas(MemoryStorage(), ServerSettings())
    for number in range(2500):
        async with quotas.place(f"caller {number}"):
            pass
        for tally in quotas._own.values():
            tally._counted_at = 1.0
    assert len(quotas._own) < 1000


# ---------------------------------------------------------------------- how many streams and waiting sends


def test_a_place_is_given_back_however_its_holder_ends() -> None:
    places = Places("seats", most=3, each=2)
    with places.taken("me"), places.taken("me"):
        with pytest.raises(TooMuch, match="2 seats"), places.taken("me"):
            pass
        with places.taken("other"), pytest.raises(Overloaded), places.taken("third"):
            pass
    with pytest.raises(ValueError, match="oh"), places.taken("me"):
        raise ValueError("oh")
    assert not places._taken
    assert places._all == 0


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"max_streams_per_caller": 2}, 429), ({"max_streams": 2}, 503)],
)
async def test_a_stream_too_many_is_refused_until_a_client_has_gone(limits: Json, status: int) -> None:
    async with opened_front(**limits) as front:
        async with front.live("SendStreamingMessage", {"message": message()}) as first:
            _, said = await first.result()
            task_id = said["task"]["id"]
            async with front.live("SubscribeToTask", {"id": task_id}) as second:
                await second.starts()
                for method, params in (
                    ("SendStreamingMessage", {"message": message()}),
                    ("message/stream", {"message": message03()}),
                    ("SubscribeToTask", {"id": task_id}),
                ):
                    response = await front.post(method, params)
                    assert response.status_code == status
                    assert int(response.headers["Retry-After"]) >= 1
                assert await front.stored() == 1
                await sent(front, 1)  # what is no stream goes on
            async with front.live("SubscribeToTask", {"id": task_id}) as third:
                assert (await third.starts()).status == 200
        assert not front.manager._streams._taken


@pytest.mark.parametrize(
    ("limits", "status"),
    [({"max_blocking_per_caller": 1}, 429), ({"max_blocking": 1}, 503)],
)
async def test_a_blocking_send_too_many_is_refused_until_a_client_has_gone(limits: Json, status: int) -> None:
    async with opened_front(**limits) as front:
        async with front.live("SendMessage", {"message": message("go on")}):
            turn = await front.takes_next()
            for method, said in (("SendMessage", message()), ("message/send", message03())):
                response = await front.post(method, {"message": said})
                assert response.status_code == status
                assert int(response.headers["Retry-After"]) >= 1
            assert await front.stored() == 1
            await sent(front, 1)  # who does not wait takes no place
        assert not front.manager._blocking._taken
        assert not front.watch._followers
        await front.ends(turn, **answer("done"))
        assert (await front.call("GetTask", {"id": str(turn.claim.task_id)}))["status"][
            "state"
        ] == "TASK_STATE_COMPLETED"


async def test_who_has_an_answer_gives_its_place_back(echoing: Front) -> None:
    await echoing.call("SendMessage", {"message": message()})
    assert not echoing.manager._blocking._taken
    async with echoing.live("SendStreamingMessage", {"message": message()}) as live:
        await live.rest()
    assert not echoing.manager._streams._taken


async def test_a_client_that_leaves_before_its_stream_stands_gives_its_place_back(front: Front) -> None:
    async with front.live("SendStreamingMessage", {"message": message()}) as live:
        await live.leave()
    assert not front.manager._streams._taken
    assert not front.watch._followers
    turn = await front.storage.claim_task("worker", new_token(), lease=60)
    assert turn is not None
    assert turn.task.state is TaskState.WORKING
