"""Failures that may pass: which they are, when the turn runs again, what callers see meanwhile, and how it ends."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import httpx
import pytest
import requests

from perdure import Retry, Turn
from perdure.errors import AgentError, Rejected, StorageUnavailable
from perdure.tasks import ANONYMOUS, StatusChange, Task, TaskState
from perdure.turns.perform import CRASHED
from perdure.turns.retries import LONGEST, MayPass, may_pass
from worker.lease import Reins, Stop
from worker.turn import run_turn

from .conftest import SETTINGS, Shop, meddled, turns

MAX = SETTINGS.turns.max_failures


async def released(shop: Shop, task_id: UUID) -> StatusChange:
    """The status that the last turn left: it waits."""
    body = (await shop.events(task_id))[-1].body
    assert isinstance(body, StatusChange)
    assert body.state is TaskState.SUBMITTED
    return body


async def due_in(shop: Shop, task_id: UUID) -> float:
    """Seconds, as a caller reads them."""
    return float((await shop.load(task_id)).metadata["retry"]["after"])


async def run_out(shop: Shop, handler: Any, **config: Any) -> Task:
    """Run turns until the budget is used up."""
    task_id = await shop.submit()
    for failures in range(MAX + 1):
        assert await run_turn(shop.worker(handler, **config), Reins())
        assert (await shop.load(task_id)).failures == min(failures + 1, MAX)
        if failures < MAX:
            await shop.clock.make_due(task_id)
    return await shop.load(task_id)


# ---------------------------------------------------------------------- a turn that is run again


async def test_a_retry_waits_for_its_time_and_says_why(any_shop: Shop) -> None:
    def handler(messages: Any, turn: Turn) -> str:
        turn.emit("half of an")
        if turn.attempt == 1:
            raise Retry(after=3600, reason="The model is busy.")
        return "done"

    task = await any_shop.run(handler)
    told = {"retry": {"number": 1, "of": MAX, "after": 3600.0, "note": "The model is busy."}}
    assert (task.state, task.failures, task.crashes) == (TaskState.SUBMITTED, 1, 0)
    assert (task.metadata, list(task.artifacts)) == (told, [])
    assert (await released(any_shop, task.task_id)).metadata == {"reason": "retry", **told}
    assert not await run_turn(any_shop.worker(handler), Reins())  # it is not due
    await any_shop.clock.make_due(task.task_id)
    task = await any_shop.run(handler, task.task_id)
    assert (task.state, task.artifacts[0].text, task.metadata) == (TaskState.COMPLETED, "done", {})


async def test_a_retry_may_be_returned_and_yielded(shop: Shop) -> None:
    def generator(messages: Any) -> Iterator[Any]:
        yield "so far"
        yield Retry(after=5)

    for handler in (generator, lambda messages: Retry(after=5)):
        task = await shop.run(handler)
        assert (task.state, task.failures, task.metadata["retry"]["after"]) == (TaskState.SUBMITTED, 1, 5.0)


async def test_the_text_of_an_exception_is_for_nobody(any_shop: Shop) -> None:
    async def handler(messages: Any) -> None:
        raise ConnectionError("password=secret")

    task = await any_shop.run(handler)
    assert task.state is TaskState.SUBMITTED
    assert "note" not in task.metadata["retry"]
    assert "secret" not in repr(await any_shop.events(task.task_id))


async def test_the_pause_grows_and_is_spread(shop: Shop) -> None:
    def handler(messages: Any) -> None:
        raise TimeoutError

    settings = turns(retry_base=10.0, retry_cap=15.0, max_failures=40)
    task_id, pauses = await shop.submit(), []
    for _ in range(40):
        await run_turn(shop.worker(handler, settings=settings), Reins())
        pauses.append(await due_in(shop, task_id))
        await shop.clock.make_due(task_id)
    assert 0 <= pauses[0] <= 10
    assert all(0 <= pause <= 15 for pause in pauses)
    assert max(pauses) > 10
    assert len(set(pauses)) > 30


def test_the_pause_doubles_up_to_the_cap() -> None:
    def longest(failures: int) -> float:
        return max(MayPass().delay(failures, base=1.0, cap=60.0) for _ in range(400))

    for failures, bound in ((0, 1), (1, 2), (2, 4), (5, 32), (6, 60), (5000, 60)):
        assert bound * 0.9 < longest(failures) <= bound


# ---------------------------------------------------------------------- its end


async def test_the_reason_of_the_last_retry_is_the_text_of_the_failure(any_shop: Shop) -> None:
    def handler(messages: Any) -> None:
        raise Retry(reason="The bank is closed.")

    task = await run_out(any_shop, handler)
    assert (task.state, task.crashes) == (TaskState.FAILED, 0)
    assert task.status_message
    assert task.status_message.text == "The bank is closed."
    assert task.metadata == {}


@pytest.mark.parametrize("error", [Retry(), ConnectionError("secret")])
async def test_without_a_reason_it_is_a_neutral_text(shop: Shop, error: Exception, capsys: Any) -> None:
    def handler(messages: Any) -> None:
        raise error

    task = await run_out(shop, handler)
    assert task.status_message
    assert task.status_message.text == f"The agent failed after {MAX + 1} attempts; the error was logged."
    assert "secret" not in repr(await shop.events(task.task_id))
    said = capsys.readouterr()
    assert type(error).__name__ in (said.out + said.err).partition("turn.given_up")[2]


async def test_no_retries_at_all(shop: Shop) -> None:
    def handler(messages: Any) -> None:
        raise ConnectionError

    task_id = await shop.submit()
    await run_turn(shop.worker(handler, settings=turns(max_failures=0)), Reins())
    task = await shop.load(task_id)
    assert task.status_message
    assert (task.state, task.status_message.text) == (TaskState.FAILED, CRASHED)


async def test_crashes_and_deploys_are_counted_apart(any_shop: Shop) -> None:
    """A task that has failed as often as it may is still run again after a deploy and after a crash."""

    def fails(messages: Any) -> None:
        raise Retry(after=0)

    task_id = await any_shop.submit()
    for _ in range(MAX):
        await any_shop.run(fails, task_id)
    reins = Reins()
    reins.pull(Stop.DEPLOY)
    await run_turn(any_shop.worker(fails), reins)
    turn = await any_shop.storage.claim_task("dies", UUID(int=1), lease=60)
    assert turn
    await any_shop.clock.expire_lease(task_id)
    await any_shop.storage.rescue_tasks(grace=0, max_crashes=3)
    task = await any_shop.load(task_id)
    assert (task.state, task.failures, task.crashes) == (TaskState.SUBMITTED, MAX, 1)
    task = await any_shop.run(lambda messages: "done", task_id)
    assert task.state is TaskState.COMPLETED


@pytest.mark.parametrize("error", [ValueError(), AgentError("no"), Rejected("no"), SystemExit(503)])
async def test_other_ends_are_final(shop: Shop, error: BaseException) -> None:
    def handler(messages: Any) -> None:
        raise error

    assert (await shop.run(handler)).state.terminal


async def test_exceptions_that_the_agent_declares(shop: Shop) -> None:
    class Flaky(Exception):
        pass

    def handler(messages: Any) -> None:
        raise Flaky

    task_id = await shop.submit()
    await run_turn(shop.worker(handler, retry_on=[Flaky]), Reins())
    assert (await shop.load(task_id)).state is TaskState.SUBMITTED
    assert (await shop.run(handler)).state is TaskState.FAILED


async def test_a_retry_outlives_an_outage_of_the_storage(shop: Shop) -> None:
    """It must not become a crash because the storage was away for a while."""
    tries = 0

    async def away(real: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise StorageUnavailable("gone")
        return await real(*args, **kwargs)

    task_id = await shop.submit()
    storage = meddled(shop.storage, release_task=away)
    await run_turn(shop.worker(lambda messages: Retry(after=9), storage=storage), Reins())
    task = await shop.load(task_id)
    assert (task.state, task.failures, tries) == (TaskState.SUBMITTED, 1, 4)


async def test_a_cancel_while_it_waits(any_shop: Shop) -> None:
    task = await any_shop.run(lambda messages: Retry(after=3600))
    await any_shop.storage.cancel_task(ANONYMOUS, task.task_id)
    await any_shop.clock.make_due(task.task_id)
    assert not await run_turn(any_shop.worker(lambda messages: "never"), Reins())


# ---------------------------------------------------------------------- which they are


def answered(status: int, **headers: str) -> httpx.HTTPStatusError:
    """As `response.raise_for_status()` of httpx raises it."""
    request = httpx.Request("POST", "http://localhost")
    response = httpx.Response(status, headers=headers, request=request)
    return httpx.HTTPStatusError("no", request=request, response=response)


def of_requests(status: int) -> requests.HTTPError:
    response = requests.Response()
    response.status_code = status
    response.headers["Retry-After"] = "7"
    return requests.HTTPError("no", response=response)


class APIStatusError(Exception):
    """As those of openai and anthropic look."""

    def __init__(self, status_code: int) -> None:
        self.status_code = status_code
        self.response = SimpleNamespace(headers={"retry-after": "7"})


class ClientResponseError(Exception):
    """As that of aiohttp looks."""

    def __init__(self, status: int) -> None:
        self.status = status
        self.headers = {"Retry-After": "7"}


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(),
        TimeoutError(),
        socket.gaierror(),
        OSError(113, "no route to host"),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("no"),
        httpx.RemoteProtocolError("no"),
        requests.ConnectionError(),
        requests.ReadTimeout(),
        type("APITimeoutError", (type("APIConnectionError", (Exception,), {}),), {})(),
        *map(answered, (429, 502, 503, 504)),
        of_requests(429),
        APIStatusError(503),
        ClientResponseError(502),
        ExceptionGroup("all", [TimeoutError(), ConnectionError()]),
    ],
    ids=repr,
)
def test_it_may_pass(error: Exception) -> None:
    assert may_pass(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        FileNotFoundError(2, "no"),
        *map(answered, (400, 401, 404, 500)),
        APIStatusError(400),
        SystemExit(503),
        ExceptionGroup("some", [TimeoutError(), ValueError()]),
    ],
    ids=repr,
)
def test_it_will_not_pass(error: BaseException) -> None:
    assert may_pass(error) is None


@pytest.mark.parametrize("error", [of_requests(503), APIStatusError(429), ClientResponseError(429)])
def test_retry_after_is_found(error: Exception) -> None:
    assert may_pass(error) == MayPass(at_least=7.0)


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("120", 120, 120),
        ("1.5", 1.5, 1.5),
        ("Sun, 06 Nov 1994 08:49:37 GMT", 0, 0),
        ("-5", 0, 0),
        ("inf", 0, 0),
        ("nan", 0, 0),
        ("soon", 0, 0),
        ("9" * 30, LONGEST, LONGEST),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, least: float, most: float) -> None:
    passing = may_pass(answered(503, **{"Retry-After": value}))
    assert passing
    assert least <= passing.at_least <= most
    assert passing.at_least <= passing.delay(0, base=1.0, cap=60.0) <= passing.at_least + 1


def test_retry_after_is_a_date_ahead() -> None:
    in_an_hour = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    passing = may_pass(answered(503, **{"Retry-After": in_an_hour}))
    assert passing
    assert 3500 < passing.at_least <= 3600


def test_what_a_handler_asks_for_counts_alone() -> None:
    passing = may_pass(Retry(after=2.5, reason="so"))
    assert passing == MayPass(after=2.5, reason="so")
    assert passing.delay(9, base=1.0, cap=60.0) == 2.5


def test_the_retry_of_a_group_is_the_patient_one() -> None:
    group = ExceptionGroup("all", [Retry(after=1), Retry(after=5, reason="so"), answered(503)])
    passing = may_pass(group)
    assert passing == MayPass(at_least=5.0, reason="so")
