"""Many at the same moment: each gets what is his, as if he had been alone. (In Postgres they share a statement.)"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import asyncpg
import pytest
from structlog.testing import capture_logs

from perdure.errors import ContextBusy, LeaseLost
from perdure.ids import new_task_id, new_token
from perdure.storage import (
    Accepted,
    ClaimedTurn,
    IdempotencyKey,
    NewTask,
    Policy,
    Storage,
)
from perdure.tasks import TaskState
from tests.support.stories import (
    ME,
    answers,
    artifact,
    claim,
    id_of,
    idle,
    load,
    log,
    numbers,
    says,
    settle,
    submit,
    texts,
    told,
)


@pytest.fixture(autouse=True)
def said() -> Iterator[list[Any]]:
    """What was logged. No batch may have needed to be sent again item by item: it would hide that it was wrong."""
    with capture_logs() as said:
        yield said
    assert not [each for each in said if each["event"] == "lane.one_by_one"]


async def submit_all(storage: Storage, count: int, **members: Any) -> list[Accepted]:
    return await asyncio.gather(
        *(submit(storage, f"say {n}", **{"context": f"talk {n}", **members}) for n in range(count))
    )


async def claim_all(storage: Storage, count: int) -> list[ClaimedTurn]:
    turns = await asyncio.gather(
        *(storage.claim_task("worker-1", new_token(), lease=60) for _ in range(count))
    )
    return [turn for turn in turns if turn is not None]


async def test_new_tasks_of_one_conversation_stand_in_line(storage: Storage) -> None:
    accepted = await submit_all(storage, 10, context="talk")
    assert [each.ring is not None for each in accepted] == [True, *[False] * 9]
    said = []
    for _ in range(10):
        turn = await claim(storage)
        said.append(turn.task.history[0].text)
        assert await idle(storage)
        await settle(storage, turn)
    assert said == [f"say {n}" for n in range(10)]


async def test_parallel_ones_stand_beside_the_line(storage: Storage) -> None:
    accepted = await asyncio.gather(
        submit(storage, "first"),
        submit(storage, "beside", policy=Policy.PARALLEL),
        submit(storage, "second"),
        submit(storage, "beside too", policy=Policy.PARALLEL),
    )
    assert [each.ring is not None for each in accepted] == [True, True, False, True]
    turns = await claim_all(storage, 4)
    assert sorted(texts(turn.task.history)[0] for turn in turns) == ["beside", "beside too", "first"]
    await asyncio.gather(*(settle(storage, turn) for turn in turns))
    assert (await claim(storage)).task.history[0].text == "second"


async def test_of_two_that_reject_one_another_one_is_refused(storage: Storage) -> None:
    results = await asyncio.gather(
        *(submit(storage, policy=Policy.REJECT) for _ in range(3)),
        submit(storage, context="elsewhere", policy=Policy.REJECT),
        return_exceptions=True,
    )
    assert sum(isinstance(result, ContextBusy) for result in results[:3]) == 2
    assert isinstance(results[3], Accepted)


async def test_one_key_is_one_task(storage: Storage) -> None:
    key = IdempotencyKey("again", "the same")

    async def send(n: int) -> Accepted:
        new = NewTask(task_id=new_task_id(), owner=ME, context_id=f"talk {n}", message=says("hello"))
        return await storage.submit_task(new, key=key)

    accepted = await asyncio.gather(*(send(n) for n in range(5)), submit(storage, "no key"))
    assert len({each.task.task_id for each in accepted[:5]}) == 1
    assert sorted(each.repeated for each in accepted) == [False, False, True, True, True, True]
    assert len(await claim_all(storage, 8)) == 2


async def test_claims_get_a_task_each_while_there_are_any(storage: Storage) -> None:
    accepted = await submit_all(storage, 5)
    tokens = [new_token() for _ in range(8)]
    turns = await asyncio.gather(*(storage.claim_task("worker-1", token, lease=60) for token in tokens))
    assert {id_of(turn) for turn in turns if turn} == {id_of(each) for each in accepted}
    assert all(turn.claim.token == token for turn, token in zip(turns, tokens, strict=True) if turn)
    for turn in (turn for turn in turns if turn):
        assert (turn.task.state, turn.task.attempt, turn.task.last_seq) == (TaskState.WORKING, 1, 2)
        assert texts(turn.conversation) == texts(turn.task.history)
        assert turn.conversation[0].context_id == turn.claim.context_id


async def test_claims_at_once_heed_a_limit(storage: Storage) -> None:
    await submit_all(storage, 6, limits={"model": 2})
    free = await submit(storage, context="free")
    turns = await claim_all(storage, 8)
    assert len(turns) == 3
    assert id_of(free) in {id_of(turn) for turn in turns}
    assert await claim_all(storage, 8) == []
    limited = [turn for turn in turns if id_of(turn) != id_of(free)]
    await settle(storage, limited[0])
    assert len(await claim_all(storage, 8)) == 1


async def test_claims_tell_each_turn_its_own_conversation(storage: Storage) -> None:
    await submit_all(storage, 4)
    for turn in await claim_all(storage, 4):
        await settle(storage, turn, new_artifacts=[artifact(f"answer to {turn.task.history[0].text}")])
    for n in range(4):
        await submit(storage, f"more {n}", context=f"talk {n}")
    for turn in await claim_all(storage, 4):
        name = turn.claim.context_id.removeprefix("talk ")
        assert texts(turn.conversation) == [f"say {name}", f"answer to say {name}", f"more {name}"]
        assert texts(turn.task.history) == [f"more {name}"]
        assert turn.task.artifacts == ()


async def test_turns_end_at_once_each_in_its_own_way(storage: Storage) -> None:
    await submit_all(storage, 6)
    turns = await claim_all(storage, 6)
    ends = [TaskState.COMPLETED, TaskState.FAILED, TaskState.INPUT_REQUIRED] * 2
    await asyncio.gather(
        *(
            settle(
                storage,
                turn,
                state,
                status_message=answers(f"status {n}") if n % 2 else None,
                new_messages=[answers(f"said {n}.{m}") for m in range(n)],
                new_artifacts=[artifact(f"made {n}", f"a{n}")],
                metadata={"number": n, "gone": None},
            )
            for n, (turn, state) in enumerate(zip(turns, ends, strict=True))
        )
    )
    for n, (turn, state) in enumerate(zip(turns, ends, strict=True)):
        task = await load(storage, turn)
        assert (task.state, task.metadata) == (state, {"number": n})
        assert texts(task.history)[1:] == [f"said {n}.{m}" for m in range(n)]
        assert [each.text for each in task.artifacts] == [f"made {n}"]
        assert (task.status_message.text if task.status_message else None) == (
            f"status {n}" if n % 2 else None
        )
        assert numbers(await log(storage, turn)) == list(range(1, 2 + n + 1 + 1 + 1))


async def test_a_write_of_a_lost_turn_is_refused_alone(storage: Storage) -> None:
    await submit_all(storage, 3)
    turns = await claim_all(storage, 3)
    await storage.cancel_task(ME, id_of(turns[1]))

    async def write(turn: ClaimedTurn) -> object:
        return await storage.update_task(turn.claim, 1, new_messages=[answers("on my way")])

    results = await asyncio.gather(*(write(turn) for turn in turns), return_exceptions=True)
    assert isinstance(results[1], LeaseLost)
    assert results[1].canceled
    assert not isinstance(results[0], Exception)
    results = await asyncio.gather(
        *(settle(storage, turn, write_no=2) for turn in turns), return_exceptions=True
    )
    assert [isinstance(result, LeaseLost) for result in results] == [False, True, False]
    assert "on my way" not in told(await log(storage, turns[1]))


async def test_turns_of_one_conversation_end_at_once(storage: Storage) -> None:
    """One of them holds its slot: whoever waits behind it comes next, once."""
    await submit(storage, "first")
    await submit(storage, "second")
    await asyncio.gather(*(submit(storage, f"beside {n}", policy=Policy.PARALLEL) for n in range(3)))
    turns = await claim_all(storage, 8)
    assert len(turns) == 4
    written = await asyncio.gather(*(settle(storage, turn) for turn in turns))
    assert len({ring.task_id for each in written for ring in each.rings}) == 1
    second = await claim(storage)
    assert second.task.history[0].text == "second"
    await settle(storage, second)
    assert await idle(storage)


async def test_a_deploy_gives_all_its_turns_back(storage: Storage) -> None:
    await submit_all(storage, 5)
    turns = await claim_all(storage, 5)
    rings: Sequence[Sequence[object]] = await asyncio.gather(
        *(storage.release_task(turn.claim, reason="deploy") for turn in turns)
    )
    assert [len(each) for each in rings] == [1] * 5
    again = await claim_all(storage, 8)
    assert {id_of(turn) for turn in again} == {id_of(turn) for turn in turns}
    assert {turn.task.failures for turn in again} == {0}


async def test_reads_at_once_give_each_his_own(storage: Storage) -> None:
    accepted = await submit_all(storage, 4)
    tasks = await asyncio.gather(
        *(storage.load_task(ME, id_of(each), history_length=n % 2) for n, each in enumerate(accepted))
    )
    assert [texts(task.history) for task in tasks] == [[], ["say 1"], [], ["say 3"]]
    events = await asyncio.gather(
        *(storage.events_since(ME, id_of(each), after) for each in accepted for after in (0, 1)),
        storage.events_since("someone else", id_of(accepted[0]), 0),
    )
    assert [told(each) for each in events[:4]] == [["say 0"], [], ["say 1"], []]
    assert events[-1] == []
    first, second = await asyncio.gather(
        storage.notices([id_of(accepted[0]), unknown := new_task_id()]),
        storage.notices([id_of(accepted[1]), id_of(accepted[0])]),
    )
    assert [(each.task_id, each.seq) for each in first] == [(id_of(accepted[0]), 1), (unknown, 0)]
    assert [each.task_id for each in second] == [id_of(accepted[1]), id_of(accepted[0])]


@pytest.mark.parametrize("database", ["postgres"], indirect=True)
async def test_what_the_database_refuses_is_refused_alone(storage: Storage, said: list[Any]) -> None:
    results = await asyncio.gather(
        submit(storage, "one"),
        submit(storage, "two", context="x" * 513),  # the belt: callers are told before
        submit(storage, "three"),
        return_exceptions=True,
    )
    assert isinstance(results[1], asyncpg.CheckViolationError)
    assert len(await claim_all(storage, 1)) == 1
    assert isinstance(results[0], Accepted)
    assert isinstance(results[2], Accepted)
    assert said.pop()["event"] == "lane.one_by_one"
