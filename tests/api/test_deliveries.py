"""Webhooks at the front door: addresses that are refused, secrets that are not told again, the log of deliveries and replays."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from perdure.ids import new_token
from perdure.storage.webhooks import Breaker, Delivered, DeliveryAttempt, Disabled, Later, Verdict
from tests.api.front import Front, Json, answer, at_once, message, message03

HOOK = "https://hook.test/a"


async def hooked(front: Front, **config: Any) -> str:
    """A task with a webhook that came with its message."""
    hook = {"url": HOOK, "id": "mine", **config}
    params = {
        "message": message(),
        "configuration": {"returnImmediately": True, "taskPushNotificationConfig": hook},
    }
    return str((await front.call("SendMessage", params))["task"]["id"])


async def delivered(front: Front, verdict: Verdict | None = None, status: int = 200) -> list[str]:
    """What is due is delivered, or whatever else; its ids."""
    breaker = Breaker()
    claimed = await front.storage.claim_deliveries(
        new_token(), lease=60, limit=10, per_endpoint=10, breaker=breaker
    )
    for one in claimed:
        attempt = DeliveryAttempt(
            attempt=one.attempt, started_at=datetime.now(UTC), seconds=0.25, status=status, answer="thanks"
        )
        await front.storage.settle_delivery(
            one, attempt, verdict or Delivered(), breaker=breaker, blame=False
        )
    return [str(one.delivery_id) for one in claimed]


# ---------------------------------------------------------------------- addresses


@pytest.mark.parametrize(
    "url",
    [
        "http://hook.test/a",
        "https://127.0.0.1/",
        "https://0x7f.1/",
        "https://[::ffff:10.0.0.1]/",
        "https://169.254.169.254/latest/meta-data",
        "https://user:pass@hook.test/",
        "https://hook.test:22/",
        "https://localhost/",
        "https://hook.test\\@127.0.0.1/",
    ],
)
async def test_an_address_that_may_not_be_asked_is_refused_at_once(pushing: Front, url: str) -> None:
    """By the name of its member, in each place that it can have, and nothing is stored."""
    task_id = (await pushing.call("SendMessage", at_once()))["task"]["id"]
    old = {"url": url}
    asked: list[tuple[str, Json, str]] = [
        ("CreateTaskPushNotificationConfig", {"taskId": task_id, "url": url}, "url"),
        (
            "tasks/pushNotificationConfig/set",
            {"taskId": task_id, "pushNotificationConfig": old},
            "pushNotificationConfig.url",
        ),
        (
            "SendMessage",
            {"message": message(), "configuration": {"taskPushNotificationConfig": {"url": url}}},
            "configuration.taskPushNotificationConfig.url",
        ),
        (
            "message/send",
            {"message": message03(), "configuration": {"pushNotificationConfig": old}},
            "configuration.pushNotificationConfig.url",
        ),
    ]
    for method, params, place in asked:
        error = await pushing.error(method, params)
        assert error["code"] == -32602
        assert place in str(error["data"])
        assert "must" in str(error["data"])
    assert await pushing.stored() == 1
    assert (await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id}))["configs"] == []


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://hook.test/services/T0/secret", "https://hook.test/***"),
        ("https://hook.test/a?key=secret", "https://hook.test/***"),
        ("https://hook.test:8443?key=secret", "https://hook.test:8443/***"),
        ("https://hook.test/#secret", "https://hook.test/***"),
        ("https://hook.test/", "https://hook.test/"),
        ("https://hook.test", "https://hook.test"),
    ],
)
async def test_of_an_address_only_its_origin_is_told_again(pushing: Front, url: str, shown: str) -> None:
    """Services such as Slack's put the key into the path."""
    task_id = await hooked(pushing, url=url, token="secret")
    name = {"taskId": task_id, "id": "mine"}
    found = await pushing.call("GetTaskPushNotificationConfig", name)
    assert found == name | {"url": shown}
    listed = await pushing.call("ListTaskPushNotificationConfigs", {"taskId": task_id})
    made = await pushing.call("CreateTaskPushNotificationConfig", name | {"url": url})
    assert [made] == listed["configs"] == [found]
    old = await pushing.call("tasks/pushNotificationConfig/get", {"id": task_id})
    assert old["pushNotificationConfig"] == {"id": "mine", "url": shown}
    stored = await pushing.storage.load_webhook_config("anonymous", UUID(task_id), "mine")
    assert stored.url == url
    assert "secret" not in repr(stored)


async def test_an_address_as_it_was_shown_is_not_taken_for_one(pushing: Front) -> None:
    """Else who reads a config to write it back would lose what stood there."""
    task_id = await hooked(pushing)
    name = {"taskId": task_id, "id": "mine"}
    found = await pushing.call("GetTaskPushNotificationConfig", name)
    error = await pushing.error("CreateTaskPushNotificationConfig", found)
    assert error["code"] == -32602
    assert "must be the whole address" in str(error["data"])
    stored = await pushing.storage.load_webhook_config("anonymous", UUID(task_id), "mine")
    assert stored.url == HOOK


# ---------------------------------------------------------------------- the log


async def test_deliveries_are_listed_with_their_last_attempt(pushing: Front) -> None:
    task_id = await hooked(pushing)
    await pushing.ends(await pushing.takes(), **answer("hi"))
    [first] = await delivered(pushing)
    page = await pushing.call("webhooks/deliveries", {"taskId": task_id})
    assert page["pageSize"] == 3
    by_event = sorted(page["deliveries"], key=lambda each: each["event"])
    assert [(each["kind"], each["state"], each["attempts"]) for each in by_event] == [
        ("status", "delivered", 1),
        ("artifact", "waiting", 0),
        ("status", "waiting", 0),
    ]
    assert by_event[0]["deliveryId"] == first
    assert by_event[0]["lastAttempt"]["answer"] == "thanks"
    assert "dueAt" in by_event[1]
    assert "dueAt" not in by_event[2]  # behind the one before
    done = await pushing.call("webhooks/deliveries", {"taskId": task_id, "state": "delivered"})
    assert [each["deliveryId"] for each in done["deliveries"]] == [first]
    attempts = (await pushing.call("webhooks/attempts", {"deliveryId": first}))["attempts"]
    assert [(each["attempt"], each["status"], each["seconds"]) for each in attempts] == [(1, 200, 0.25)]


@pytest.mark.parametrize(
    ("logged", "told"),
    [
        ("[Errno -2] Name or service not known", "the receiver could not be reached"),
        ("ledger.corp.example has no address", "the receiver could not be reached"),
        ("the address must name a host with a public address", "the receiver could not be reached"),
        ("ConnectError: All connection attempts failed", "the receiver could not be reached"),
        ("something that nobody has thought of", "the receiver could not be reached"),
        ("no answer within 15 s", "no answer in time"),
        ("ReadError: ", "the answer broke off"),
        ("RemoteProtocolError: Server disconnected", "the answer broke off"),
        ("the address must begin with https://", "the address is not allowed"),
    ],
)
async def test_a_caller_is_not_told_what_stands_inside_of_the_network(
    pushing: Front, logged: str, told: str
) -> None:
    """Neither by what the log says, nor by how long it took; an operator reads both."""
    task_id = await hooked(pushing)
    await pushing.takes()
    breaker = Breaker()
    [one] = await pushing.storage.claim_deliveries(
        new_token(), lease=60, limit=10, per_endpoint=10, breaker=breaker
    )
    attempt = DeliveryAttempt(attempt=1, started_at=datetime.now(UTC), seconds=0.25, error=logged)
    await pushing.storage.settle_delivery(one, attempt, Later(60), breaker=breaker, blame=True)
    [found] = (await pushing.call("webhooks/deliveries", {"taskId": task_id}))["deliveries"]
    attempts = await pushing.call("webhooks/attempts", {"deliveryId": str(one.delivery_id)})
    assert [found["lastAttempt"]] == attempts["attempts"]
    assert found["lastAttempt"] == {
        "attempt": 1,
        "startedAt": found["lastAttempt"]["startedAt"],
        "seconds": 0,
        "error": told,
    }
    [kept] = await pushing.storage.delivery_attempts(None, one.delivery_id)
    assert (kept.error, kept.seconds) == (logged, 0.25)


async def test_deliveries_come_in_pages(pushing: Front) -> None:
    await hooked(pushing)
    await pushing.ends(await pushing.takes(), **answer("hi"))
    seen, token = [], ""
    while True:
        page = await pushing.call("webhooks/deliveries", {"pageSize": 2, "pageToken": token})
        seen += [each["deliveryId"] for each in page["deliveries"]]
        token = page["nextPageToken"]
        if not token:
            break
    assert len(set(seen)) == len(seen) == 3
    assert (await pushing.error("webhooks/deliveries", {"pageToken": "x"}))["code"] == -32602


async def test_one_delivery_or_a_range_is_sent_again(pushing: Front) -> None:
    task_id = await hooked(pushing)
    await pushing.ends(await pushing.takes(), **answer("hi"))
    ids = [one for _ in range(3) for one in await delivered(pushing)]
    assert len(ids) == 3
    rung: list[None] = []
    pushing.queue.attach_deliveries(lambda: rung.append(None))
    assert await pushing.call("webhooks/replay", {"deliveryId": ids[2]}) == {"deliveries": 1}
    assert await delivered(pushing) == [ids[2]]
    assert await pushing.call("webhooks/replay", {"taskId": task_id}) == {"deliveries": 3}
    assert await delivered(pushing) == [ids[0]]
    later = {"taskId": task_id, "since": "2200-01-01T00:00:00Z"}
    assert await pushing.call("webhooks/replay", later) == {"deliveries": 0}
    assert len(rung) == 3


async def test_what_waits_for_its_next_try_is_sent_now(pushing: Front) -> None:
    await hooked(pushing)
    await pushing.takes()
    [first] = await delivered(pushing, Later(36_000), 503)
    assert await delivered(pushing) == []
    assert await pushing.call("webhooks/replay", {"deliveryId": first}) == {"deliveries": 1}
    assert await delivered(pushing) == [first]


async def test_a_disabled_config_is_enabled(pushing: Front) -> None:
    task_id = await hooked(pushing)
    await pushing.takes()
    [first] = await delivered(pushing, Disabled("it answered 410 Gone"), 410)
    [found] = (await pushing.call("webhooks/deliveries", {"taskId": task_id}))["deliveries"]
    assert found["disabled"] == "it answered 410 Gone"
    assert await delivered(pushing) == []
    name = {"taskId": task_id, "configId": "mine"}
    assert await pushing.call("webhooks/enable", name) == {}
    assert await delivered(pushing) == [first]
    assert (await pushing.error("webhooks/enable", name | {"configId": "other"}))["code"] == -32001


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("webhooks/attempts", {}),
        ("webhooks/attempts", {"deliveryId": "x"}),
        ("webhooks/replay", {"deliveryId": "x"}),
        ("webhooks/replay", {}),
        ("webhooks/replay", {"configId": "mine"}),
        ("webhooks/replay", {"state": "lost"}),
        ("webhooks/deliveries", {"state": 1}),
        ("webhooks/deliveries", {"since": "yesterday"}),
        ("webhooks/deliveries", {"pageSize": 0}),
        ("webhooks/enable", {"taskId": "x"}),
    ],
)
async def test_what_makes_no_sense_is_refused(pushing: Front, method: str, params: Json) -> None:
    assert (await pushing.error(method, params))["code"] == -32602
