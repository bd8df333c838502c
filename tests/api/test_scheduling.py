"""Who runs when: what callers ask for in `metadata.perdure`, and the agent's priority and limits, over HTTP."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import pytest
from starlette.requests import Request

from api.auth import Caller, known
from api.orders import limits_of
from perdure.agent import Agent
from perdure.errors import ConfigError
from perdure.ids import new_token
from perdure.security.schemes import SCOPES
from perdure.storage import ClaimedTurn
from tests.api.front import Front, Json, answer, at_once, message, message03, question
from tests.support.storages import Clock

Opens = Callable[..., AbstractAsyncContextManager[Front]]
ONE_SLOT = {"limits": [{"max_running": 1}]}
PER_TENANT = {"limits": [{"max_running": 1, "per": "metadata.tenant"}]}


@pytest.fixture
async def stored_front(open_front: Opens) -> AsyncIterator[Front]:
    """A front door over either storage."""
    async with open_front() as front:
        yield front


async def sends(front: Front, words: str, *, request: Json | None = None, **metadata: Any) -> str:
    """The id of a new task."""
    task: Json = (
        await front.call("SendMessage", at_once(words, metadata=metadata) | {"metadata": request or {}})
    )["task"]
    return str(task["id"])


async def takes_if_any(front: Front) -> ClaimedTurn | None:
    return await front.storage.claim_task("worker", new_token(), lease=60)


async def order(front: Front) -> list[str]:
    """What tasks say, in the order in which they run, one after the other."""
    said = []
    while (turn := await takes_if_any(front)) is not None:
        said.append(turn.conversation[-1].text)
        await front.ends(turn, **answer("done"))
    return said


async def begun(front: Front) -> list[ClaimedTurn]:
    """Every turn that may begin now."""
    turns = []
    while (turn := await takes_if_any(front)) is not None:
        turns.append(turn)
    return turns


def words_of(turns: list[ClaimedTurn]) -> list[str]:
    return [turn.conversation[-1].text for turn in turns]


# ---------------------------------------------------------------------- priority


async def test_higher_priorities_go_first(open_front: Opens) -> None:
    async with open_front({"priority": 3} | ONE_SLOT) as front:
        for priority in (-100, 2, 4, 100):
            await sends(front, str(priority), perdure={"priority": priority})
        await sends(front, "the agent's")
        await sends(front, "zero", perdure={"priority": 0})
        running = await begun(front)
        assert words_of(running) == ["100"]
        await front.ends(running[0], **answer("done"))
        assert await order(front) == ["4", "the agent's", "2", "zero", "-100"]


async def test_the_messages_word_goes_before_the_requests(stored_front: Front) -> None:
    front = stored_front
    await sends(front, "last", request={"perdure": {"priority": 9}}, perdure={"priority": -1})
    await sends(front, "second")
    await sends(front, "first", request={"perdure": {"priority": 9}})
    assert await order(front) == ["first", "second", "last"]


async def test_owners_take_turns(open_front: Opens, monkeypatch: pytest.MonkeyPatch) -> None:
    def by_header(request: Request) -> Caller:
        return known(request.headers["X-Caller"], SCOPES)

    monkeypatch.setattr("api.jsonrpc.identify", by_header)
    async with open_front() as front:
        for words in ("a1", "a2", "a3", "b1", "b2"):
            await front.call("SendMessage", at_once(words), X_Caller=words[0])
        assert await order(front) == ["a1", "b1", "a2", "b2", "a3"]


# ---------------------------------------------------------------------- times


@pytest.mark.parametrize(
    "not_before",
    [600, (datetime.now(UTC) + timedelta(days=1)).isoformat().replace("+00:00", "Z")],
    ids=["seconds", "time"],
)
async def test_a_delayed_task_waits(stored_front: Front, clock: Clock, not_before: Any) -> None:
    front = stored_front
    task_id = await sends(front, "later", perdure={"notBefore": not_before})
    assert front.bell.empty()
    await sends(front, "now", perdure={"notBefore": "2026-01-01T00:00:00Z"})
    assert await order(front) == ["now"]
    await clock.make_due(UUID(task_id))
    assert await order(front) == ["later"]


async def test_a_task_that_does_not_begin_in_time_fails(stored_front: Front) -> None:
    front = stored_front
    task_id = await sends(front, "too late", perdure={"expires": "2026-01-01T00:00:00Z"})
    await sends(front, "in time", perdure={"expires": 600})
    assert await order(front) == ["in time"]
    assert [str(notice.task_id) for notice in await front.storage.expire_tasks()] == [task_id]
    task = await front.call("GetTask", {"id": task_id})
    assert task["status"]["state"] == "TASK_STATE_FAILED"


async def test_a_turn_knows_the_deadline_of_its_task(stored_front: Front) -> None:
    front = stored_front
    await sends(front, "quick", perdure={"deadline": 600})
    turn = await front.takes()
    assert turn.deadline is not None
    assert 500 < turn.deadline <= 600


# ---------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("asked", "member"),
    [
        ({"priority": 101}, "priority"),
        ({"priority": "high"}, "priority"),
        ({"notBefore": "tomorrow"}, "notBefore"),
        ({"expires": -1}, "expires"),
        ({"deadline": 1e12}, "deadline"),
        ({"turnTimeout": 0}, "turnTimeout"),
        ({"prio": 1}, "prio"),
        ({"notBefore": 60, "expires": 60}, "expires"),
        ({"notBefore": 60, "deadline": 59}, "deadline"),
    ],
)
async def test_what_is_wrong_is_refused_by_its_name(front: Front, asked: Json, member: str) -> None:
    in_message = await front.error("SendMessage", {"message": message(metadata={"perdure": asked})})
    in_request = await front.error("SendMessage", {"message": message(), "metadata": {"perdure": asked}})
    for error, place in ((in_message, "message."), (in_request, "")):
        assert error["code"] == -32602
        assert error["data"][1]["fieldViolations"][0]["field"] == f"{place}metadata.perdure.{member}"
    old = await front.error("message/send", {"message": message03(metadata={"perdure": asked})})
    assert old["code"] == -32602
    assert old["message"].startswith(f"message.metadata.perdure.{member}: ")
    rest = await front.http.post("/message:send", json={"message": message(metadata={"perdure": asked})})
    assert rest.status_code == 400
    async with front.live(
        "SendStreamingMessage", {"message": message(metadata={"perdure": asked})}
    ) as stream:
        [frame] = await stream.rest()
        assert frame.data["error"]["code"] == -32602
    assert await front.stored() == 0


async def test_it_must_be_an_object(front: Front) -> None:
    error = await front.error("SendMessage", {"message": message(metadata={"perdure": "soon"})})
    assert error["message"] == "message.metadata.perdure: must be an object"


async def test_a_send_may_be_repeated_when_its_times_have_passed(front: Front) -> None:
    """Then both are "now"; as a new task it would be over its time at once."""
    past = {"notBefore": "2026-01-01T00:00:00Z", "expires": "2026-01-02T00:00:00Z"}
    params = at_once("late", messageId="m1", metadata={"perdure": past})
    first = await front.call("SendMessage", params, Idempotency_Key="k")
    again = await front.call("SendMessage", params, Idempotency_Key="k")
    assert again["task"]["id"] == first["task"]["id"]


@pytest.mark.parametrize("member", ["priority", "notBefore", "expires", "deadline"])
async def test_a_follow_up_cannot_schedule_its_task_anew(front: Front, member: str) -> None:
    task_id = await sends(front, "weather")
    await front.ends(await front.takes(), **question("where?"))
    before = await front.log(task_id)
    said = message("Oslo", taskId=task_id, metadata={"perdure": {member: 5, "turnTimeout": 5}})
    error = await front.error("SendMessage", {"message": said})
    assert error["code"] == -32602
    assert error["message"].startswith("message.metadata.perdure: may have nothing but turnTimeout")
    error = await front.error(
        "SendMessage",
        {"message": message("Oslo", taskId=task_id), "metadata": {"perdure": {member: 5}}},
    )
    assert error["message"].startswith("metadata.perdure: may have nothing but turnTimeout")
    assert await front.log(task_id) == before


@pytest.mark.parametrize("asked", [{}, {"turnTimeout": 5}, None])
async def test_a_follow_up_may_limit_its_own_turn(front: Front, asked: Any) -> None:
    task_id = await sends(front, "weather", perdure={"priority": 5, "turnTimeout": 60})
    await front.ends(await front.takes(), **question("where?"))
    said = message("Oslo", taskId=task_id, metadata={"perdure": asked})
    await front.call("SendMessage", {"message": said, "configuration": {"returnImmediately": True}})
    assert (await front.takes()).conversation[-1].metadata == {"perdure": asked}


# ---------------------------------------------------------------------- limits


async def test_an_agent_runs_no_more_turns_than_its_limit(open_front: Opens) -> None:
    async with open_front({"limits": [{"max_running": 2}]}) as front:
        for words in ("one", "two", "three"):
            await sends(front, words)
        turns = await begun(front)
        assert words_of(turns) == ["one", "two"]
        await front.ends(turns[0], **answer("done"))
        assert words_of(await begun(front)) == ["three"]


@pytest.mark.parametrize("place", ["message", "request"])
async def test_a_limit_holds_for_each_value_of_a_member(open_front: Opens, place: str) -> None:
    async with open_front(PER_TENANT) as front:
        for words, tenant in (("a1", "acme"), ("a2", "acme"), ("b1", "bolt"), ("c1", None)):
            metadata = {"tenant": tenant} if tenant else {}
            await sends(front, words, **({"request": metadata} if place == "request" else metadata))
        await sends(front, "c2")
        turns = await begun(front)
        assert words_of(turns) == ["a1", "b1", "c1", "c2"]
        await front.ends(turns[0], **answer("done"))
        assert words_of(await begun(front)) == ["a2"]


async def test_all_limits_of_an_agent_hold(open_front: Opens) -> None:
    limits = [{"max_running": 2}, *PER_TENANT["limits"]]
    async with open_front({"limits": limits}) as front:
        for words in ("a1", "a2", "b1", "c1"):
            await sends(front, words, tenant=words[0])
        turns = await begun(front)
        assert words_of(turns) == ["a1", "b1"]
        await front.ends(turns[1], **answer("done"))
        assert words_of(await begun(front)) == ["c1"]


def limits(metadata: Json, *limits: Json, name: str = "echo") -> dict[str, int]:
    """What a task with this metadata counts against."""
    return limits_of(Agent.of({"name": name, "limits": limits}, lambda messages: "").config, metadata)


def test_the_keys_of_limits_are_the_same_everywhere() -> None:
    """A constant: other processes, and those of the next version, must count in the same row."""
    both = ({"max_running": 9}, {"max_running": 4, "per": "metadata.tenant.id"})
    assert limits({"tenant": {"id": "acme"}}, *both) == {
        '["echo"]': 9,
        '["echo","metadata.tenant.id","acme"]': 4,
    }
    long = "x" * 1000
    [key] = limits({"tenant": {"id": long}}, both[1])
    text = f'["echo","metadata.tenant.id","{long}"]'
    assert key == f"sha256:{sha256(text.encode()).hexdigest()}"


def test_different_values_have_different_keys() -> None:
    values: list[Any] = [1, "1", True, "true", [1], ["1"], {"a": 1}, "", 0, False, 1.5, "x" * 300, "x" * 301]
    limit = {"max_running": 1, "per": "metadata.tenant"}
    keys = [key for value in values for key in limits({"tenant": value}, limit)]
    assert len(set(keys)) == len(values)
    assert limits({"tenant": {"a": 1, "b": 2}}, limit) == limits({"tenant": {"b": 2, "a": 1}}, limit)
    assert not limits({"tenant": 1}, limit).keys() & limits({"tenant": 1}, limit, name="other").keys()


@pytest.mark.parametrize(
    "metadata", [{}, {"tenant": None}, {"tenant": "acme"}, {"tenant": {}}, {"tenant": [1]}]
)
def test_a_limit_by_a_member_that_is_missing_does_not_apply(metadata: Json) -> None:
    assert limits(metadata, {"max_running": 1, "per": "metadata.tenant.id"}) == {}


@pytest.mark.parametrize(
    "given",
    [
        [{"max_running": 1}, {"max_running": 2}],
        [{"max_running": 1, "per": "metadata.a"}, {"max_running": 2, "per": "metadata.a"}],
        [{"max_running": 0}],
        [{"max_running": 1, "per": "tenant"}],
        [{"max_running": 1, "per": "metadata."}],
    ],
)
def test_a_limit_that_cannot_be_meant_is_refused(given: Any) -> None:
    with pytest.raises(ConfigError, match="limits"):
        Agent.of({"name": "echo", "limits": given}, lambda messages: "")
