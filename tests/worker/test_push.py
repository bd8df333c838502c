"""Deliveries from the outbox to a real receiver, over both storages: what it hears, in which order, and what follows."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any
from uuid import UUID

import pytest
from pydantic import SecretStr
from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from perdure.ids import new_task_id
from perdure.settings import Settings, WebhookSettings
from perdure.storage import NewTask, Storage, WebhookConfig
from perdure.storage.webhooks import (
    GLOBAL,
    Delivered,
    Delivery,
    DeliveryQuery,
    DeliveryState,
    Disabled,
    GivenUp,
    Later,
)
from tests.support.receiver import Receiver, hang_up, receiving, status
from tests.support.storages import Clock, Opened, opened_memory, opened_postgres
from tests.support.stories import ME, answers, artifact, chunk, claim, says, settle
from worker.push.client import Answer
from worker.push.deliveries import Deliveries
from worker.push.verdict import PAUSES, blamed, retry_after, verdict

SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3"
OLDER = "whsec_" + "ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4"


@dataclass
class Post:
    """Deliveries under way, and what they work on."""

    storage: Storage
    clock: Clock
    deliveries: Deliveries

    async def task(self, *configs: WebhookConfig, context: str = "talk") -> UUID:
        """A new task with webhooks; they learn its id here."""
        task_id = new_task_id()
        hooks = [
            WebhookConfig(
                config_id=config.config_id,
                task_id=task_id,
                url=config.url,
                token=config.token,
                scheme=config.scheme,
                credentials=config.credentials,
                version=config.version,
            )
            for config in configs
        ]
        new = NewTask(task_id=task_id, owner=ME, context_id=context, message=says("hello"), webhooks=hooks)
        await self.storage.submit_task(new)
        return task_id

    async def found(self, task_id: UUID, true: Callable[[list[Delivery]], bool]) -> list[Delivery]:
        """The deliveries of a task, oldest first, once it is true of them."""
        while True:
            page = await self.storage.list_deliveries(DeliveryQuery(owner=ME, task_id=task_id))
            found = sorted(page.deliveries, key=lambda delivery: delivery.seq)
            if true(found):
                return found
            await asyncio.sleep(0.01)  # nothing tells when a delivery was recorded

    async def delivered(self, task_id: UUID, number: int) -> list[Delivery]:
        return await self.found(
            task_id,
            lambda found: [one.state for one in found].count(DeliveryState.DELIVERED) == number,
        )

    async def failed_once(self, task_id: UUID, attempt: int = 1) -> Delivery:
        """Its first delivery, once that many attempts of it are recorded."""
        found = await self.found(
            task_id, lambda found: bool(found[0].last and found[0].last.attempt == attempt)
        )
        return found[0]


@pytest.fixture(params=["memory", "postgres"])
async def opened(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    if request.param == "memory":
        async with opened_memory() as opened:
            yield opened
        return
    async with opened_postgres(request.getfixturevalue("module_database_url")) as opened:
        yield opened


@asynccontextmanager
async def posting(opened: Opened, **settings: Any) -> AsyncIterator[Post]:
    hooks = {"allow": "127.0.0.1/32", "interval": 0.05, "timeout": 5.0, **settings.pop("webhooks", {})}
    deliveries = Deliveries(opened.storage, Settings(webhooks=WebhookSettings(**hooks), **settings))
    loop = asyncio.create_task(deliveries.run())
    try:
        yield Post(opened.storage, opened.clock, deliveries)
    finally:
        await deliveries.stop(5)
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)


@pytest.fixture
async def post(opened: Opened) -> AsyncIterator[Post]:
    async with posting(opened) as post:
        yield post


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as receiver:
        yield receiver


def hook(receiver: Receiver, config_id: str = "c", path: str = "", **members: Any) -> WebhookConfig:
    return WebhookConfig(config_id=config_id, task_id=new_task_id(), url=receiver.url + path, **members)


# ---------------------------------------------------------------------- what is said


async def test_a_stream_response_with_everything_a2a_asks_for(post: Post, receiver: Receiver) -> None:
    task_id = await post.task(hook(receiver, token="t", scheme="Bearer", credentials="c"))
    turn = await claim(post.storage)
    pieces = [chunk("a", append=False), chunk("b", last=True)]
    await post.storage.update_task(turn.claim, 1, new_artifacts=pieces, status_metadata={"progress": 0.5})
    await settle(post.storage, turn, status_message=answers("done"), write_no=2)
    heard = await receiver.hears(3)
    assert [each.state for each in heard] == ["working", "artifact", "completed"]
    for each in heard:
        assert each.headers["content-type"] == "application/a2a+json"
        assert each.headers["authorization"] == "Bearer c"
        assert each.headers["x-a2a-notification-token"] == "t"
        assert each.headers["a2a-version"] == "1.0"
        assert "webhook-signature" not in each.headers
        assert abs(int(each.headers["webhook-timestamp"]) - datetime.now(UTC).timestamp()) < 60
    update = heard[1].json["artifactUpdate"]
    assert update["taskId"] == str(task_id)
    assert update["artifact"]["parts"] == [{"text": "ab"}]
    assert update["lastChunk"] is True
    assert heard[2].json["statusUpdate"]["status"]["message"]["parts"] == [{"text": "done"}]
    assert len({each.id for each in heard}) == 3


async def test_0_3_is_told_the_task_as_it_stood(post: Post, receiver: Receiver) -> None:
    receiver.script = [status(500)]
    task_id = await post.task(hook(receiver, version="0.3"))
    turn = await claim(post.storage)
    await receiver.hears(1)
    await post.failed_once(task_id)
    await settle(post.storage, turn, new_artifacts=[artifact("x")])
    await post.clock.pass_webhooks(task_id, 10)
    heard = await receiver.hears(4)
    assert [each.headers["content-type"] for each in heard] == ["application/json"] * 4
    tasks = [each.json for each in heard]
    assert tasks[0] == tasks[1]  # although it is completed by then
    assert [(task["kind"], task["status"]["state"]) for task in tasks[1:]] == [
        ("task", "working"),
        ("task", "working"),
        ("task", "completed"),
    ]
    assert "artifacts" not in tasks[1]
    assert tasks[2]["artifacts"][0]["parts"] == [{"kind": "text", "text": "x"}]
    assert [said["role"] for said in tasks[3]["history"]] == ["user"]


async def test_signatures_of_every_secret_verify_and_of_no_other(opened: Opened, receiver: Receiver) -> None:
    async with posting(opened, webhook_secrets=SecretStr(f"{SECRET},{OLDER}")) as post:
        await post.task(hook(receiver, token="t"))
        await claim(post.storage)
        (heard,) = await receiver.hears(1)
    for secret in (SECRET, OLDER):
        assert Webhook(secret).verify(heard.body, heard.headers) == heard.json
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "a" * 32).verify(heard.body, heard.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(heard.body + b" ", heard.headers)


async def test_a_token_that_is_a_secret_signs_and_is_not_sent(opened: Opened, receiver: Receiver) -> None:
    async with posting(opened, webhook_secrets=SecretStr(OLDER)) as post:
        await post.task(hook(receiver, token=SECRET))
        await claim(post.storage)
        (heard,) = await receiver.hears(1)
    Webhook(SECRET).verify(heard.body, heard.headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(OLDER).verify(heard.body, heard.headers)
    assert SECRET not in str(heard.headers)


async def test_the_operators_own_webhook_is_that_of_the_settings(opened: Opened, receiver: Receiver) -> None:
    config = WebhookConfig(config_id=GLOBAL, task_id=new_task_id(), url="", endpoint="WEBHOOK_URL")
    own = {"webhook_url": SecretStr(receiver.url), "webhook_token": SecretStr("mine")}
    async with posting(opened, **own) as post:
        await post.task(config)
        await claim(post.storage)
        (heard,) = await receiver.hears(1)
    assert heard.headers["x-a2a-notification-token"] == "mine"


# ---------------------------------------------------------------------- what goes wrong


async def test_failures_are_tried_again_under_one_id_in_order(post: Post, receiver: Receiver) -> None:
    receiver.script = [status(500, "oh"), hang_up, status(302, Location="http://127.0.0.1/"), status(404)]
    task_id = await post.task(hook(receiver))
    await settle(post.storage, await claim(post.storage), new_artifacts=[artifact("x")])
    for attempt in range(1, 5):
        await post.failed_once(task_id, attempt)
        assert len(receiver.heard) == attempt
        await post.clock.pass_webhooks(task_id, 10_000)
    heard = await receiver.hears(7)
    assert [each.state for each in heard] == ["working"] * 5 + ["artifact", "completed"]
    assert len({each.id for each in heard[:5]}) == 1
    assert len({each.body for each in heard[:5]}) == 1
    first = (await post.delivered(task_id, 3))[0]
    attempts = await post.storage.delivery_attempts(ME, first.delivery_id)
    assert [attempt.status for attempt in attempts] == [500, None, 302, 404, 200]
    assert attempts[0].answer == "oh"
    assert attempts[1].error


async def test_410_disables_and_enabling_goes_on_where_it_was(post: Post, receiver: Receiver) -> None:
    receiver.script = [status(410)]
    task_id = await post.task(hook(receiver))
    await settle(post.storage, await claim(post.storage))
    delivery = await post.failed_once(task_id)
    assert delivery.disabled == "it answered 410 Gone"
    assert await post.storage.enable_webhook(ME, task_id, "c")
    heard = await receiver.hears(3)
    assert [each.state for each in heard] == ["working", "working", "completed"]
    assert heard[0].id == heard[1].id


async def test_a_config_that_fails_for_five_days_is_disabled(post: Post, receiver: Receiver) -> None:
    receiver.reply = status(500)
    task_id = await post.task(hook(receiver))
    await claim(post.storage)
    await post.failed_once(task_id)
    await post.clock.pass_webhooks(task_id, 5 * 86_400)
    delivery = await post.failed_once(task_id, 2)
    assert delivery.disabled.startswith("nothing was delivered for 5.0 days")
    assert delivery.state is DeliveryState.WAITING


async def test_an_address_inside_is_not_asked_and_that_is_told_in_the_log(
    opened: Opened, receiver: Receiver
) -> None:
    async with posting(opened, webhooks={"allow": "", "http": True, "ports": str(receiver.port)}) as post:
        task_id = await post.task(hook(receiver))
        await claim(post.storage)
        delivery = await post.failed_once(task_id)
        (endpoint,) = await post.storage.list_endpoints()
    assert endpoint.failures == 1  # as for a name that does not exist
    assert delivery.last is not None
    assert delivery.last.error == "the address must name a host with a public address"
    assert receiver.heard == []


async def test_a_slow_endpoint_delays_no_other(opened: Opened, receiver: Receiver) -> None:
    gate = asyncio.Event()

    async def slow(*_: Any) -> None:
        await gate.wait()

    async with (
        receiving() as other,
        posting(opened, webhooks={"per_endpoint": 2, "concurrency": 3, "timeout": 60.0}) as post,
    ):
        other.reply = slow
        for number in range(5):
            await post.task(hook(other), context=f"slow-{number}")
            await claim(post.storage)
        await other.hears(2)
        for number in range(5):
            await post.task(hook(receiver), context=f"quick-{number}")
            await claim(post.storage)
        await receiver.hears(5)
        assert (len(other.heard), other.most) == (2, 2)
        gate.set()


async def test_an_endpoint_that_is_away_is_left_alone_until_its_pause_is_over(opened: Opened) -> None:
    async with receiving() as receiver, posting(opened, webhooks={"breaker_failures": 2}) as post:
        url = hook(receiver)
        await receiver.stop()
        tasks = []
        for number in range(4):
            tasks.append(await post.task(url, context=f"talk-{number}"))
            await claim(post.storage)
            if number < 2:
                await post.failed_once(tasks[number])
        (endpoint,) = await post.storage.list_endpoints()
        assert endpoint.open_until is not None
        await receiver.start()
        for task_id in tasks:
            await post.clock.pass_webhooks(task_id, 1000)
        await receiver.hears(4)
        for task_id in tasks:
            await post.delivered(task_id, 1)
        assert list(await post.storage.list_endpoints()) == []


async def test_whoever_stops_leaves_nothing_behind(opened: Opened, receiver: Receiver) -> None:
    """What was under way is sent again by the next one, under the same id."""

    async def never(*_: Any) -> None:
        await asyncio.Event().wait()

    receiver.script = [never]
    async with posting(opened) as post:
        task_id = await post.task(hook(receiver))
        await claim(post.storage)
        await receiver.hears(1)
        await post.deliveries.stop(0)
    async with posting(opened) as post:
        first, second = await receiver.hears(2)
        assert first.id == second.id
        (delivery,) = await post.delivered(task_id, 1)
        assert delivery.attempts == 1


# ---------------------------------------------------------------------- what follows


def decided(answer: Answer | None, tries: int = 1, failing_for: float = 0.0) -> Any:
    return verdict(answer, tries=tries, failing_for=failing_for, disable_after=5 * 86_400)


def said(code: int, **headers: str) -> Answer:
    return Answer(code, {name.replace("_", "-"): value for name, value in headers.items()}, b"")


@pytest.mark.parametrize("code", [200, 201, 202, 204])
def test_any_2xx_is_delivered(code: int) -> None:
    assert decided(said(code)) == Delivered()


@pytest.mark.parametrize("answer", [None, said(301), said(400), said(404), said(429), said(500), said(503)])
def test_anything_else_is_tried_again_ever_later(answer: Answer | None) -> None:
    for tries, pause in enumerate(PAUSES, start=1):
        later = decided(answer, tries)
        assert isinstance(later, Later)
        assert 0.8 * pause <= later.seconds <= 1.2 * pause
    assert decided(answer, len(PAUSES) + 1) == GivenUp()
    assert 3 * 86_400 < sum(PAUSES) < 4 * 86_400


def test_pauses_are_not_the_same_for_all() -> None:
    assert len({decided(None, 5).seconds for _ in range(20)}) > 1


def test_gone_and_five_days_disable() -> None:
    assert isinstance(decided(said(410)), Disabled)
    assert isinstance(decided(said(500), failing_for=5 * 86_400), Disabled)
    assert decided(said(200), failing_for=9 * 86_400) == Delivered()


@pytest.mark.parametrize(
    ("code", "text", "seconds"),
    [
        (429, "120", 120.0),
        (503, " 7 ", 7.0),
        (503, "9" * 30, 86_400.0),
        (500, "120", 0.0),
        (429, "", 0.0),
        (429, "-5", 0.0),
        (429, "soon", 0.0),
        (429, "٣", 0.0),
        (429, "Wed, 21 Oct 2015 07:28:00 GMT", 0.0),
    ],
)
def test_retry_after_is_honoured(code: int, text: str, seconds: float) -> None:
    assert retry_after(said(code, retry_after=text)) == seconds


def test_retry_after_may_be_a_time() -> None:
    then = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3500 < retry_after(said(503, retry_after=then)) <= 3600
    assert decided(said(503, retry_after=then)).seconds > 3500


def test_an_endpoint_is_blamed_for_its_own_trouble_only() -> None:
    assert [blamed(said(code)) for code in (200, 301, 401, 404, 410, 429, 500, 503)] == [False] * 5 + [
        True
    ] * 3
    assert blamed(None)
