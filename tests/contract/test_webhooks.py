"""Webhooks: what is told to whom, in which order, by whom, how often, and what is remembered of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from perdure.errors import WebhookConfigNotFound
from perdure.ids import new_task_id, new_token
from perdure.storage import NewTask, Storage, WebhookConfig
from perdure.storage.webhooks import (
    GLOBAL,
    Breaker,
    ClaimedDelivery,
    Delivered,
    DeliveryAttempt,
    DeliveryQuery,
    DeliveryState,
    Disabled,
    GivenUp,
    Later,
    Verdict,
)
from perdure.tasks import ArtifactChunk, StatusChange, TaskState
from tests.support.storages import Clock
from tests.support.stories import (
    ME,
    SOMEONE_ELSE,
    answers,
    artifact,
    chunk,
    claim,
    id_of,
    log,
    says,
    settle,
    submit,
)

BREAKER = Breaker(failures=3, pause=30, longest=100)
HOOK = "https://hook.test/a"


def hook(task_id: UUID, config_id: str = "c", url: str = HOOK, **members: Any) -> WebhookConfig:
    return WebhookConfig(config_id=config_id, task_id=task_id, url=url, **members)


async def hooked(
    storage: Storage, *configs: str, owner: str = ME, url: str = HOOK, context: str = "talk"
) -> UUID:
    """A new task with webhooks."""
    task_id = new_task_id()
    webhooks = [hook(task_id, config, url) for config in configs or ("c",)]
    new = NewTask(task_id=task_id, owner=owner, context_id=context, message=says("hello"), webhooks=webhooks)
    await storage.submit_task(new)
    return task_id


async def taken(storage: Storage, **options: Any) -> list[ClaimedDelivery]:
    asked: dict[str, Any] = {"lease": 30.0, "limit": 100, "per_endpoint": 100, "breaker": BREAKER, **options}
    return list(await storage.claim_deliveries(new_token(), **asked))


async def ends(
    storage: Storage,
    claimed: ClaimedDelivery,
    verdict: Verdict | None = None,
    *,
    blame: bool | None = False,
    **found: Any,
) -> bool:
    attempt = DeliveryAttempt(
        attempt=claimed.attempt, started_at=datetime.now(UTC), seconds=0.5, **(found or {"status": 200})
    )
    return await storage.settle_delivery(
        claimed, attempt, verdict or Delivered(), breaker=BREAKER, blame=blame
    )


async def told(storage: Storage, config_id: str = "c") -> list[int]:
    """Deliver all that waits for one config; the events, in order."""
    seqs = []
    while mine := [one for one in await taken(storage) if one.config.config_id == config_id]:
        seqs += [one.seq for one in mine]
        for one in mine:
            await ends(storage, one)
    return seqs


async def deliveries(storage: Storage, task_id: UUID, **query: Any) -> Sequence[Any]:
    """Oldest first."""
    page = await storage.list_deliveries(DeliveryQuery(owner=ME, task_id=task_id, **query))
    return sorted(page.deliveries, key=lambda delivery: delivery.seq)


# ---------------------------------------------------------------------- what is told


async def test_changes_of_state_and_finished_artifacts_are_told(storage: Storage) -> None:
    await hooked(storage)
    turn = await claim(storage)
    pieces = [chunk("a", append=False), chunk("b"), chunk("c", last=True)]
    await storage.update_task(turn.claim, 1, new_artifacts=pieces[:2], status_metadata={"progress": 0.5})
    await storage.update_task(
        turn.claim, 2, new_artifacts=pieces[2:], new_messages=[answers("hm")], status_message=answers("still")
    )
    await settle(storage, turn, new_artifacts=[artifact("whole", "b")], write_no=3)
    events = {event.seq: event.body for event in await log(storage, turn)}
    seqs = await told(storage)
    states = [body.state for seq in seqs if isinstance(body := events[seq], StatusChange)]
    finished = [body.artifact.artifact_id for seq in seqs if isinstance(body := events[seq], ArtifactChunk)]
    assert states == [TaskState.WORKING, TaskState.COMPLETED]
    assert finished == ["a", "b"]
    assert seqs == sorted(seqs)
    assert len(seqs) == 4


async def test_whatever_changes_a_task_is_told(storage: Storage, clock: Clock) -> None:
    """Released, rescued, expired, canceled, interrupted, continued: every statement that writes a status."""
    task_id = await hooked(storage)
    turn = await claim(storage)
    await storage.release_task(turn.claim, reason="deploy")
    await claim(storage)
    await clock.expire_lease(task_id)
    await storage.rescue_tasks(grace=0, max_crashes=3)
    await settle(storage, await claim(storage), TaskState.INPUT_REQUIRED)
    await storage.continue_task(ME, task_id, says("more"))
    await storage.cancel_task(ME, task_id)
    events = {event.seq: event.body for event in await log(storage, turn)}
    every = [seq for seq, body in events.items() if isinstance(body, StatusChange)]
    assert len(every) == 8
    assert await told(storage) == every


async def test_a_task_without_webhooks_costs_no_delivery(storage: Storage) -> None:
    await submit(storage)
    await settle(storage, await claim(storage))
    assert await taken(storage) == []
    assert list((await storage.list_deliveries(DeliveryQuery(owner=None))).deliveries) == []


async def test_what_was_before_a_config_is_not_told_to_it(storage: Storage) -> None:
    task_id = id_of(await submit(storage))
    turn = await claim(storage)
    await storage.save_webhook_config(ME, hook(task_id))
    await settle(storage, turn)
    assert await told(storage) == [3]


async def test_a_config_that_comes_with_a_message_is_told_of_what_follows(storage: Storage) -> None:
    turn_of = await submit(storage)
    await settle(storage, await claim(storage), TaskState.INPUT_REQUIRED)
    task_id = id_of(turn_of)
    await storage.continue_task(ME, task_id, says("more"), webhooks=[hook(task_id)])
    await settle(storage, await claim(storage))
    assert len(await told(storage)) == 2


async def test_a_refused_message_leaves_no_config(storage: Storage) -> None:
    task_id = id_of(await submit(storage))
    await settle(storage, await claim(storage))
    with pytest.raises(Exception, match="takes no more messages"):
        await storage.continue_task(ME, task_id, says("more"), webhooks=[hook(task_id)])
    assert list((await storage.list_webhook_configs(ME, task_id)).configs) == []


async def test_a_task_that_is_submitted_again_has_its_webhooks_once(storage: Storage) -> None:
    task_id = new_task_id()
    new = NewTask(
        task_id=task_id, owner=ME, context_id="talk", message=says("hello"), webhooks=[hook(task_id)]
    )
    for _ in range(2):
        assert (await storage.submit_task(new)).task.task_id == task_id
    await settle(storage, await claim(storage))
    assert len(await told(storage)) == 2


async def test_several_configs_are_told_each(storage: Storage) -> None:
    task_id = await hooked(storage, "a", "b", GLOBAL)
    await settle(storage, await claim(storage))
    assert {one.config.config_id for one in await taken(storage)} == {"a", "b", GLOBAL}
    assert len(await deliveries(storage, task_id)) == 4  # the operator's own are not its owner's to see
    everything = await storage.list_deliveries(DeliveryQuery(owner=None, task_id=task_id))
    assert len(everything.deliveries) == 6


async def test_the_operators_own_config_is_nobodys_business(storage: Storage) -> None:
    task_id = await hooked(storage, "a", GLOBAL)
    listed = (await storage.list_webhook_configs(ME, task_id)).configs
    assert [config.config_id for config in listed] == ["a"]
    with pytest.raises(WebhookConfigNotFound):
        await storage.load_webhook_config(ME, task_id, GLOBAL)
    await storage.delete_webhook_config(ME, task_id, GLOBAL)
    await settle(storage, await claim(storage))
    assert len(await told(storage, GLOBAL)) == 2


# ---------------------------------------------------------------------- order and claims


async def test_only_the_first_of_a_line_is_sent(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage), new_artifacts=[artifact("x")])
    (first,) = await taken(storage)
    assert await taken(storage) == []
    await ends(storage, first, Later(50), status=500)
    assert await taken(storage) == []
    await clock.pass_webhooks(task_id, 51)
    (again,) = await taken(storage)
    assert (again.seq, again.delivery_id, again.attempt) == (first.seq, first.delivery_id, 2)
    await ends(storage, again)
    (second,) = await taken(storage)
    assert second.seq > first.seq
    assert second.delivery_id != first.delivery_id


async def test_a_lost_claim_is_due_again_and_its_end_is_only_recorded(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (dead,) = await taken(storage)
    await clock.pass_webhooks(task_id, 31)
    (living,) = await taken(storage)
    assert living.delivery_id == dead.delivery_id
    assert await ends(storage, dead, GivenUp(), status=500) is False
    assert await ends(storage, living) is True
    (delivery,) = await deliveries(storage, task_id)
    assert delivery.state is DeliveryState.DELIVERED
    attempts = await storage.delivery_attempts(ME, delivery.delivery_id)
    assert [(attempt.attempt, attempt.status) for attempt in attempts] in ([(1, 500), (2, 200)],)


async def test_a_claim_is_had_by_one_of_many(storage: Storage) -> None:
    for number in range(10):
        await hooked(storage, context=f"talk-{number}")
        await claim(storage)
    found = await asyncio.gather(*(taken(storage, limit=3) for _ in range(8)))
    ids = [one.delivery_id for some in found for one in some]
    assert len(ids) == len(set(ids))
    rest = await taken(storage)
    assert len(ids) + len(rest) == 10


async def test_a_released_delivery_costs_no_attempt(storage: Storage) -> None:
    await hooked(storage)
    await claim(storage)
    await storage.release_deliveries(await taken(storage))
    (again,) = await taken(storage)
    assert (again.attempt, again.tries) == (1, 1)


async def test_a_delivery_that_comes_while_the_last_one_ends_is_not_forgotten(storage: Storage) -> None:
    for number in range(15):
        await hooked(storage, context=f"talk-{number}")
        turn = await claim(storage)
        (first,) = await taken(storage)
        await asyncio.gather(ends(storage, first), settle(storage, turn))
        (second,) = await taken(storage)
        await ends(storage, second)


# ---------------------------------------------------------------------- endpoints


async def test_an_endpoint_has_so_many_requests_at_most(storage: Storage) -> None:
    for number in range(5):
        await hooked(storage, context=f"slow-{number}", url="https://slow.test/x")
        await hooked(storage, context=f"quick-{number}", url="https://quick.test/x")
    for _ in range(10):
        await claim(storage)
    first = await taken(storage, per_endpoint=2)
    assert (
        sorted(one.config.url for one in first) == ["https://quick.test/x"] * 2 + ["https://slow.test/x"] * 2
    )
    assert await taken(storage, per_endpoint=2) == []
    for one in first:
        if "quick" in one.config.url:
            await ends(storage, one)
    assert {one.config.url for one in await taken(storage, per_endpoint=2)} == {"https://quick.test/x"}


async def test_a_breaker_opens_half_opens_and_closes(storage: Storage, clock: Clock) -> None:
    tasks = [await hooked(storage, context=f"talk-{number}") for number in range(5)]
    for _ in tasks:
        await claim(storage)
    for one in (await taken(storage))[: BREAKER.failures]:
        await ends(storage, one, Later(0), blame=True, status=503)
    assert await taken(storage) == []
    (endpoint,) = await storage.list_endpoints()
    assert (endpoint.failures, endpoint.waiting) == (3, 5)
    assert endpoint.open_until is not None
    for task_id in tasks[:1]:
        await clock.pass_webhooks(task_id, 31)
    for task_id in tasks[1:]:
        await clock.expire_claim(task_id)
    (probe,) = await taken(storage)
    assert await taken(storage) == []  # somebody tries already
    await ends(storage, probe, Later(0), blame=True, status=503)
    assert await taken(storage) == []  # open again, for longer
    await clock.pass_webhooks(tasks[0], 61)
    (probe,) = await taken(storage)
    await ends(storage, probe)
    assert len(await taken(storage)) >= 4


async def test_nobody_can_open_the_breaker_of_somebody_else(storage: Storage) -> None:
    mine = await hooked(storage)
    for number in range(3):
        await hooked(storage, context=f"evil-{number}", owner=SOMEONE_ELSE)
    for _ in range(4):
        await claim(storage)
    for one in await taken(storage):
        if one.owner == SOMEONE_ELSE:
            await ends(storage, one, Later(0), blame=True, status=500)
        else:
            await storage.release_deliveries([one])
    assert [one.config.task_id for one in await taken(storage)] == [mine]


# ---------------------------------------------------------------------- ends


async def test_one_that_is_given_up_lets_the_next_go(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    (first,) = await taken(storage)
    await ends(storage, first, GivenUp(), error="refused")
    await clock.pass_webhooks(task_id, 100)
    (second,) = await taken(storage)
    assert second.failing_for > 90
    await ends(storage, second)
    states = [delivery.state for delivery in await deliveries(storage, task_id)]
    assert states == [DeliveryState.FAILED, DeliveryState.DELIVERED]


async def test_a_disabled_config_is_told_everything_once_it_is_enabled(storage: Storage) -> None:
    task_id = await hooked(storage)
    turn = await claim(storage)
    (first,) = await taken(storage)
    await ends(storage, first, Disabled("it answered 410"), status=410)
    await settle(storage, turn)
    assert await taken(storage) == []
    waiting = await deliveries(storage, task_id, state=DeliveryState.WAITING)
    assert [delivery.disabled for delivery in waiting] == ["it answered 410"] * 2
    assert not await storage.enable_webhook(SOMEONE_ELSE, task_id, "c")
    assert await taken(storage) == []
    assert await storage.enable_webhook(ME, task_id, "c")
    assert len(await told(storage)) == 2


async def test_a_config_that_is_saved_again_is_enabled_and_takes_over_what_waits(storage: Storage) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (first,) = await taken(storage)
    await ends(storage, first, Disabled("gone"), status=410)
    await storage.save_webhook_config(ME, hook(task_id, url="https://new.test/"))
    (again,) = await taken(storage)
    assert (again.seq, again.config.url) == (first.seq, "https://new.test/")


async def test_an_enabled_line_without_anything_is_put_in_order(storage: Storage) -> None:
    task_id = await hooked(storage)
    assert await storage.enable_webhook(None, task_id, "c")
    assert await taken(storage) == []
    await claim(storage)
    assert len(await taken(storage)) == 1


async def test_a_deleted_config_takes_its_deliveries_along(storage: Storage) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (one,) = await taken(storage)
    await storage.delete_webhook_config(ME, task_id, "c")
    assert await ends(storage, one) is False
    assert await deliveries(storage, task_id) == []
    assert await taken(storage) == []


async def test_a_cleared_context_takes_its_deliveries_along(storage: Storage) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (one,) = await taken(storage)
    await storage.clear_context(ME, "talk")
    assert await storage.delivery_events(task_id, one.seq, whole=False) is None
    assert await ends(storage, one) is False
    assert await taken(storage) == []


# ---------------------------------------------------------------------- what is told, in detail


async def test_an_artifact_is_told_with_all_its_pieces(storage: Storage) -> None:
    task_id = await hooked(storage)
    turn = await claim(storage)
    pieces = [chunk("a", append=False), chunk("other", "b", append=False), chunk("b"), chunk("c", last=True)]
    written = await storage.update_task(turn.claim, 1, new_artifacts=pieces)
    await storage.update_task(turn.claim, 2, new_artifacts=[chunk("later", append=False, last=True)])
    found = await storage.delivery_events(task_id, written.seq, whole=False)
    assert found is not None
    task, events = found
    assert task.task_id == task_id
    bodies = [event.body for event in events]
    assert [body.artifact.text for body in bodies if isinstance(body, ArtifactChunk)] == ["a", "b", "c"]
    whole = await storage.delivery_events(task_id, written.seq, whole=True)
    assert whole is not None
    assert [event.seq for event in whole[1]] == list(range(1, written.seq + 1))


async def test_an_artifact_that_was_folded_meanwhile_is_told_whole(storage: Storage) -> None:
    task_id = await hooked(storage)
    turn = await claim(storage)
    pieces = [
        chunk("a", append=False),
        chunk("b", last=True),
        chunk("c", append=False),
        chunk("d", last=True),
    ]
    written = await storage.update_task(turn.claim, 1, new_artifacts=pieces)
    await settle(storage, turn, write_no=2)
    assert await storage.fold_tasks(ended_for=0) == 1
    assert len(await log(storage, turn)) == 4
    for seq in (written.seq - 2, written.seq):
        found = await storage.delivery_events(task_id, seq, whole=False)
        assert found is not None
        (event,) = found[1]
        assert isinstance(event.body, ArtifactChunk)
        assert event.body.artifact.text == "cd"


async def test_lost_turns_are_left_out_but_for_their_own_events(storage: Storage) -> None:
    task_id = await hooked(storage)
    turn = await claim(storage)
    written = await storage.update_task(turn.claim, 1, new_artifacts=[artifact("lost")])
    await storage.release_task(turn.claim, reason="deploy")
    end = await settle(storage, await claim(storage), new_artifacts=[artifact("kept")])
    own = await storage.delivery_events(task_id, written.seq, whole=False)
    whole = await storage.delivery_events(task_id, end.seq, whole=True)
    assert own is not None
    assert whole is not None
    assert len(own[1]) == 1
    texts = [event.body.artifact.text for event in whole[1] if isinstance(event.body, ArtifactChunk)]
    assert texts == ["kept"]


# ---------------------------------------------------------------------- the log, and replays


async def test_every_attempt_is_remembered(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (one,) = await taken(storage)
    await ends(storage, one, Later(1), error="", status=503, answer="busy")
    await clock.pass_webhooks(task_id, 2)
    (one,) = await taken(storage)
    await ends(storage, one, status=204)
    (delivery,) = await deliveries(storage, task_id)
    assert (delivery.attempts, delivery.state, delivery.kind) == (2, DeliveryState.DELIVERED, "status")
    assert delivery.last is not None
    assert delivery.last.status == 204
    first, second = await storage.delivery_attempts(ME, delivery.delivery_id)
    assert (first.status, first.answer, first.seconds) == (503, "busy", 0.5)
    assert second.attempt == 2
    assert list(await storage.delivery_attempts(SOMEONE_ELSE, delivery.delivery_id)) == []


async def test_deliveries_come_in_pages_newest_first(storage: Storage) -> None:
    for number in range(5):
        await hooked(storage, context=f"talk-{number}")
        await claim(storage)
    seen: list[Any] = []
    after = None
    while True:
        page = await storage.list_deliveries(DeliveryQuery(owner=ME), page_size=2, after=after)
        seen += page.deliveries
        after = page.next
        if after is None:
            break
    assert len({delivery.delivery_id for delivery in seen}) == 5
    times = [delivery.created_at for delivery in seen]
    assert times == sorted(times, reverse=True)
    assert list((await storage.list_deliveries(DeliveryQuery(owner=SOMEONE_ELSE))).deliveries) == []
    assert len((await storage.list_deliveries(DeliveryQuery(owner=None))).deliveries) == 5


async def test_replays_are_sent_again_under_their_ids_in_order(storage: Storage) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    before = await told(storage)
    ids = [delivery.delivery_id for delivery in await deliveries(storage, task_id)]
    assert await storage.replay_deliveries(DeliveryQuery(owner=SOMEONE_ELSE, task_id=task_id)) == 0
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, delivery_id=ids[1])) == 1
    assert await told(storage) == before[1:]
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, task_id=task_id)) == 2
    (first,) = await taken(storage)
    assert (first.delivery_id, first.attempt, first.tries) == (ids[0], 2, 1)


async def test_what_waits_for_its_next_try_is_sent_now(storage: Storage) -> None:
    """Under its id, as a first try again, and never before what goes before it."""
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    for _ in range(2):
        (first,) = await taken(storage)
        await ends(storage, first, Later(0), status=500)
    (first,) = await taken(storage)
    await ends(storage, first, Later(36_000), status=500)
    assert await taken(storage) == []
    second = (await deliveries(storage, task_id))[1].delivery_id
    assert await storage.replay_deliveries(DeliveryQuery(owner=SOMEONE_ELSE, delivery_id=second)) == 0
    assert await taken(storage) == []
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, delivery_id=second)) == 1
    (again,) = await taken(storage)
    assert (again.delivery_id, again.attempt) == (first.delivery_id, 4)
    await ends(storage, again, Later(36_000), status=500)
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, task_id=task_id)) == 2
    (again,) = await taken(storage)
    assert (again.delivery_id, again.attempt, again.tries) == (first.delivery_id, 5, 1)
    await ends(storage, again)
    assert [one.delivery_id for one in await taken(storage)] == [second]


async def test_a_replay_of_what_is_being_sent_sends_it_once(storage: Storage) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (one,) = await taken(storage)
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, task_id=task_id)) == 1
    assert await taken(storage) == []
    await storage.release_deliveries([one])
    (one,) = await taken(storage)
    assert (one.attempt, one.tries) == (1, 1)
    await ends(storage, one)
    assert await taken(storage) == []


async def test_what_waits_for_a_disabled_config_is_not_replayed(storage: Storage) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    (one,) = await taken(storage)
    await ends(storage, one, Disabled("gone"), status=410)
    assert await storage.replay_deliveries(DeliveryQuery(owner=None, task_id=task_id)) == 0
    assert await taken(storage) == []


@pytest.mark.parametrize("verdict", [Later(36_000), Disabled("gone")])
async def test_an_enabled_config_is_sent_to_now_with_all_its_tries(
    storage: Storage, verdict: Verdict
) -> None:
    task_id = await hooked(storage)
    await claim(storage)
    for _ in range(3):
        (one,) = await taken(storage)
        await ends(storage, one, Later(0), status=500)
    (one,) = await taken(storage)
    await ends(storage, one, verdict, status=500)
    assert await taken(storage) == []
    assert await storage.enable_webhook(ME, task_id, "c")
    (again,) = await taken(storage)
    assert (again.delivery_id, again.attempt, again.tries) == (one.delivery_id, 5, 1)
    assert again.failing_for == 0


async def test_a_range_of_time_is_replayed(storage: Storage) -> None:
    task_id = await hooked(storage)
    await settle(storage, await claim(storage))
    await told(storage)
    first, second = [delivery.created_at for delivery in await deliveries(storage, task_id)]
    if first == second:  # written by one statement
        second += timedelta(microseconds=1)
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, since=second + timedelta(1))) == 0
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, since=first, until=second)) == 1
    assert await storage.replay_deliveries(DeliveryQuery(owner=ME, state=DeliveryState.FAILED)) == 0


async def test_old_deliveries_are_forgotten(storage: Storage, clock: Clock) -> None:
    task_id = await hooked(storage)
    turn = await claim(storage)
    await told(storage)
    await settle(storage, turn)
    await clock.pass_webhooks(task_id, 100)
    assert await storage.forget_deliveries(older_than=200) == 0
    assert await storage.forget_deliveries(older_than=50) == 1
    assert [delivery.state for delivery in await deliveries(storage, task_id)] == [DeliveryState.WAITING]
