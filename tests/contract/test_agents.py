"""Several agents over one storage: each has its tasks, its line, and callers of its own."""

from __future__ import annotations

import asyncio
import re
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from perdure.errors import ContextNotFound, TaskNotFound
from perdure.ids import new_task_id, new_token
from perdure.owners import agent_of, caller_of, is_caller, owner_at, shown
from perdure.storage import IdempotencyKey, NewTask, Storage, TaskQuery
from perdure.storage.operators import TaskFilter, WorkerBeat
from perdure.storage.postgres import claims
from perdure.tasks import Ring, TaskState
from tests.support.storages import Clock, opened_postgres
from tests.support.stories import ME, SOMEONE_ELSE, claim, id_of, idle, says, settle, submit

AT_A, AT_B = owner_at("a", ME), owner_at("b", ME)


def test_an_owner_is_a_caller_at_an_agent() -> None:
    assert (agent_of(AT_A), caller_of(AT_A)) == ("a", ME)
    assert (agent_of(ME), caller_of(ME), owner_at("", ME)) == ("", ME, ME)
    assert len({AT_A, AT_B, ME}) == 3
    assert is_caller(ME)
    assert not is_caller(AT_A)


# ---------------------------------------------------------------------- whose turns


async def test_a_claim_is_for_the_tasks_of_its_agent_alone(storage: Storage) -> None:
    mine, at_a, at_b = [await submit(storage, owner=owner) for owner in (ME, AT_A, AT_B)]
    assert await storage.claim_task("w", new_token(), lease=60.0, agent="nobody's") is None
    for agent, task in (("b", at_b), ("", mine), ("a", at_a)):
        turn = await claim(storage, agent=agent)
        assert turn.claim.task_id == id_of(task)
        assert await storage.claim_task("w", new_token(), lease=60.0, agent=agent) is None


async def test_claims_of_several_agents_at_once(storage: Storage) -> None:
    """What goes into one statement is of one agent."""
    tasks: dict[str, list[UUID]] = {"": [], "a": [], "b": []}
    for number in range(9):
        agent = ("", "a", "b")[number % 3]
        accepted = await submit(storage, owner=owner_at(agent, ME), context=f"talk {number}")
        tasks[agent].append(id_of(accepted))
    agents = ["", "a", "b"] * 4
    turns = await asyncio.gather(
        *(storage.claim_task("w", new_token(), lease=60.0, agent=agent) for agent in agents)
    )
    for agent, expected in tasks.items():
        got = [turn.claim.task_id for turn, of in zip(turns, agents, strict=True) if turn and of == agent]
        assert sorted(got) == sorted(expected)


async def test_the_owners_of_an_agent_take_turns_whatever_waits_for_others(storage: Storage) -> None:
    """Nobody works for b: the low ranks that wait there are no reason for anybody at a to go ahead of others."""
    await submit(storage, owner=AT_B, context="old")
    other = owner_at("a", SOMEONE_ELSE)
    for number in range(3):
        await submit(storage, owner=other, context=f"talk {number}")
    for _ in range(2):
        await settle(storage, await claim(storage, agent="a"))
    for number in range(2):
        await submit(storage, owner=AT_A, context=f"talk {number}")
    turns = [await claim(storage, agent="a") for _ in range(3)]
    assert [turn.claim.owner for turn in turns] == [other, AT_A, AT_A]


async def test_one_conversation_id_at_two_agents_is_two_conversations(storage: Storage) -> None:
    at_a, at_b = await submit(storage, "to a", owner=AT_A), await submit(storage, "to b", owner=AT_B)
    turns = {agent: await claim(storage, agent=agent) for agent in ("a", "b")}  # none waits for the other
    for agent, owner, task in (("a", AT_A, at_a), ("b", AT_B, at_b)):
        said = turns[agent].conversation
        assert [message.task_id for message in said] == [str(id_of(task))]
        assert list((await storage.load_context(owner, "talk")).task_ids) == [id_of(task)]
    await storage.clear_context(AT_A, "talk")
    assert list((await storage.load_context(AT_B, "talk")).task_ids) == [id_of(at_b)]


async def test_another_agents_task_is_not_found(storage: Storage) -> None:
    task = id_of(await submit(storage, owner=AT_A))
    for owner in (AT_B, ME):
        with pytest.raises(TaskNotFound):
            await storage.load_task(owner, task)
        with pytest.raises(ContextNotFound):
            await storage.load_context(owner, "talk")
        assert not (await storage.list_tasks(TaskQuery(owner=owner))).tasks
        assert not await storage.events_since(owner, task, 0)


async def test_an_idempotency_key_is_for_one_agent(storage: Storage) -> None:
    key = IdempotencyKey("k", "print")
    sends = [
        NewTask(task_id=new_task_id(), owner=owner, context_id="talk", message=says("hi"))
        for owner in (AT_A, AT_B)
    ]
    accepted = [await storage.submit_task(new, key=key) for new in sends]
    assert [each.repeated for each in accepted] == [False, False]
    assert [id_of(each) for each in accepted] == [new.task_id for new in sends]


# ---------------------------------------------------------------------- rings


async def test_every_ring_says_whose_work_it_is(storage: Storage, clock: Clock) -> None:
    first = await submit(storage, owner=AT_A)
    assert first.ring == Ring(id_of(first), 1, "a")
    turn = await claim(storage, agent="a")
    second = await submit(storage, owner=AT_A)
    rings = (await settle(storage, turn)).rings
    assert [(ring.task_id, ring.agent) for ring in rings] == [(id_of(second), "a")]
    turn = await claim(storage, agent="a")
    assert [ring.agent for ring in await storage.release_task(turn.claim, reason="deploy")] == ["a"]
    turn = await claim(storage, agent="a")
    await clock.expire_lease(turn.claim.task_id)
    rescued = await storage.rescue_tasks(grace=0.0, max_crashes=9)
    assert [(ring.task_id, ring.agent) for ring in rescued.rings] == [(id_of(second), "a")]


async def test_the_line_behind_what_is_rescued_or_canceled_is_rung_for_at_its_agent(
    storage: Storage, clock: Clock
) -> None:
    first, second = await submit(storage, owner=AT_A), await submit(storage, owner=AT_A)
    third = await submit(storage, owner=AT_A)
    turn = await claim(storage, agent="a")
    await clock.expire_lease(turn.claim.task_id)
    rescued = await storage.rescue_tasks(grace=0.0, max_crashes=1)
    assert [(ring.task_id, ring.agent) for ring in rescued.rings] == [(id_of(second), "a")]
    assert (await storage.load_task(AT_A, id_of(first))).state is TaskState.FAILED
    canceled = await storage.cancel_task(AT_A, id_of(second))
    assert canceled.ring is not None
    assert (canceled.ring.task_id, canceled.ring.agent) == (id_of(third), "a")


async def test_a_task_that_waits_for_a_limit_is_rung_for_at_its_agent(storage: Storage) -> None:
    for number in range(2):
        await submit(storage, owner=AT_A, context=f"talk {number}", limits={"one": 1})
    turn = await claim(storage, agent="a")
    assert await storage.claim_task("w", new_token(), lease=60.0, agent="a") is None
    assert [ring.agent for ring in (await settle(storage, turn)).rings] == ["a"]


async def test_what_the_bell_forgot_is_looked_for_by_agent(storage: Storage, clock: Clock) -> None:
    tasks = {agent: id_of(await submit(storage, owner=owner_at(agent, ME))) for agent in ("", "a", "b")}
    for task in tasks.values():
        await clock.age_ring(task, 100.0)
    for agent, task in tasks.items():
        rings = await storage.stranded(idle=50.0, agent=agent)
        assert rings == [Ring(task, 1, agent)]
        assert await storage.redispatch(rings) == [Ring(task, 2, agent)]
    assert await idle(storage) is False


# ---------------------------------------------------------------------- sweeps


async def test_a_worker_that_does_not_serve_an_agent_requeues_its_tasks_but_does_not_fail_them(
    storage: Storage, clock: Clock
) -> None:
    await submit(storage, owner=AT_A)
    for _ in range(2):
        turn = await claim(storage, agent="a")
        await clock.expire_lease(turn.claim.task_id)
        rescued = await storage.rescue_tasks(grace=0.0, max_crashes=3, agents=["b"])
        assert [ring.task_id for ring in rescued.rings] == [turn.claim.task_id]
    turn = await claim(storage, agent="a")
    await clock.expire_lease(turn.claim.task_id)
    assert not (await storage.rescue_tasks(grace=0.0, max_crashes=3, agents=["b"])).notices
    assert (await storage.load_task(AT_A, turn.claim.task_id)).state is TaskState.WORKING
    assert (await storage.rescue_tasks(grace=0.0, max_crashes=3, agents=["a"])).notices
    assert (await storage.load_task(AT_A, turn.claim.task_id)).state is TaskState.FAILED


async def test_a_canceled_task_is_let_go_of_by_any_sweep(storage: Storage, clock: Clock) -> None:
    await submit(storage, owner=AT_A)
    turn = await claim(storage, agent="a")
    waiting = await submit(storage, owner=AT_A)
    await storage.cancel_task(AT_A, turn.claim.task_id)
    await clock.expire_lease(turn.claim.task_id)
    rescued = await storage.rescue_tasks(grace=0.0, max_crashes=1, agents=["b"])
    assert [(ring.task_id, ring.agent) for ring in rescued.rings] == [(id_of(waiting), "a")]


async def test_operators_look_at_the_tasks_of_one_agent(storage: Storage) -> None:
    for owner in (ME, AT_A, AT_B, owner_at("a", SOMEONE_ELSE)):
        await submit(storage, f"of {shown(owner)}", owner=owner)

    async def found(**wanted: Any) -> set[str]:
        lines = (await storage.find_tasks(TaskFilter(**wanted))).lines
        assert await storage.count_matching(TaskFilter(**wanted)) == len(lines)
        return {line.text for line in lines}

    assert len(await found()) == 4
    assert await found(agent="a") == {"of me at a", "of someone else at a"}
    assert await found(agent="a", owner=ME) == {"of me at a"}
    assert await found(owner=ME) == {"of me"}
    assert await found(agent="b", state=TaskState.SUBMITTED) == {"of me at b"}
    assert await found(agent="nobody's") == set()


async def test_open_tasks_are_counted_by_agent(storage: Storage) -> None:
    for owner in (ME, AT_A, AT_B, owner_at("a", SOMEONE_ELSE)):
        await submit(storage, "hello", owner=owner)
    await storage.claim_task("worker", new_token(), lease=60, agent="b")
    assert dict(await storage.open_by_agent()) == {("a", TaskState.SUBMITTED): 2, ("b", TaskState.WORKING): 1}


async def test_workers_are_counted_by_whom_they_serve(storage: Storage) -> None:
    await storage.beat(WorkerBeat(worker_id="1", slots=1, running=0, version="1", agents=("a", "b")))
    await storage.beat(
        WorkerBeat(worker_id="2", slots=1, running=0, version="1", agents=("a",), draining=True)
    )
    assert await storage.workers_alive(60.0) == 1
    assert [await storage.workers_alive(60.0, agent=agent) for agent in ("a", "b", "c")] == [1, 1, 0]


async def test_a_beat_says_whom_a_worker_serves(storage: Storage) -> None:
    await storage.beat(WorkerBeat(worker_id="1", slots=1, running=0, version="1", agents=("a", "b")))
    await storage.beat(WorkerBeat(worker_id="2", slots=1, running=0, version="1"))
    assert {status.beat.agents for status in await storage.list_workers()} == {("a", "b"), ()}


# ---------------------------------------------------------------------- how Postgres finds them

_BACKLOG = """
DELETE FROM contexts;
INSERT INTO contexts (owner, context_id, last_position, waiting)
SELECT CASE g % 3 WHEN 0 THEN 'me' WHEN 1 THEN 'a' || chr(31) || 'me' ELSE 'b' || chr(31) || 'me' END, 'talk ' || g, 1, 1
  FROM generate_series(1, 6000) g;
INSERT INTO tasks (task_id, owner, context_id, position, rank, agent, last_seq, message_seq, dispatch)
SELECT gen_random_uuid(), owner, context_id, 1, row_number() OVER (ORDER BY context_id),
       CASE WHEN owner = 'me' THEN '' ELSE split_part(owner, chr(31), 1) END, 1, 1, 1
  FROM contexts;
ANALYZE tasks; ANALYZE contexts;
"""


@pytest.mark.parametrize(("agent", "index"), [("", "ix_tasks_due"), ("b", "ix_tasks_agent_due")])
async def test_a_claim_reads_the_line_of_its_agent_in_order(
    module_database_url: str, agent: str, index: str
) -> None:
    """Nothing is sorted, however much waits, and whatever the parameters turn out to be."""
    connection = await asyncpg.connect(module_database_url)
    undone = connection.transaction()
    await undone.start()
    try:
        await connection.execute(_BACKLOG)
        claim = claims.CLAIM_OF if agent else claims.CLAIM
        for mode in ("force_custom_plan", "force_generic_plan"):
            await connection.execute(f"SET LOCAL plan_cache_mode = {mode}")
            named = [agent] if agent else []
            rows = await connection.fetch(f"EXPLAIN {claim}", ["w"], [new_token()], [60.0], *named)
            plan = "\n".join(row[0] for row in rows)
            found = re.search(
                r"Limit.*?\n\s+->  LockRows.*?\n\s+->  Nested Loop.*?\n.*?Index Scan using (\w+) on tasks",
                plan,
                re.S,
            )
            assert found is not None, plan
            assert found[1] == index
    finally:
        await undone.rollback()
        await connection.close()


async def test_a_claim_locks_no_more_than_it_is_asked_for(module_database_url: str) -> None:
    """Who claims beside it does not pass over what it leaves."""
    async with opened_postgres(module_database_url) as opened:
        tasks = [await submit(opened.storage, context=f"talk {number}") for number in range(5)]
        connection, beside = [await asyncpg.connect(module_database_url) for _ in range(2)]
        try:
            async with connection.transaction():
                rows = await connection.fetch(
                    claims.CLAIM, ["w"] * 2, [new_token() for _ in range(2)], [60.0] * 2
                )
                left = await beside.fetch(
                    "SELECT task_id FROM tasks ORDER BY task_id FOR NO KEY UPDATE SKIP LOCKED"
                )
        finally:
            await connection.close()
            await beside.close()
    assert len(rows) == 2
    assert {row["task_id"] for row in left} == {id_of(task) for task in tasks} - {
        row["task_id"] for row in rows
    }
