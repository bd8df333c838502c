"""MemoryStorage is the model: whatever callers, workers and sweeps do, in whatever order, another storage must look the same.

Hypothesis invents the order and shortens what it finds. Both storages get the same acts; after each, what it answered and what
can be read of the tasks it touched are compared, and at the end of each example everything. Times are left out: their order
shows in the order of lists and claims.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, fields, is_dataclass, replace
from datetime import datetime
from functools import partial
from itertools import count
from typing import Any
from uuid import UUID

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)

from perdure.errors import PerdureError
from perdure.ids import new_task_id, new_token
from perdure.storage import (
    Accepted,
    Claim,
    IdempotencyKey,
    NewTask,
    Policy,
    Storage,
    TaskQuery,
    WebhookConfig,
)
from perdure.storage.retention import TaskRecord
from perdure.stored.kept import Kept
from perdure.tasks import Message, Notice, Ring, TaskState
from tests.support.storages import Opened, opened_memory, opened_postgres
from tests.support.stories import artifact, chunk, says

Act = Callable[[Opened], Awaitable[Any]]

CONTEXTS = ("one", "two")
TURN_ENDS = sorted(set(TaskState) - {TaskState.SUBMITTED, TaskState.WORKING})

# Few values, so that they meet: most acts should be about a task that something else has happened to.
some = st.integers(min_value=0, max_value=7)
keys = st.none() | st.builds(IdempotencyKey, st.sampled_from("kl"), st.sampled_from("xy"))
scheduling = st.fixed_dictionaries(
    {
        "policy": st.sampled_from([Policy.ENQUEUE, *Policy]),
        "priority": st.sampled_from([0, 0, 7]),
        "expires": st.sampled_from([None, None, None, 0.0]),
        "limits": st.sampled_from([{}, {}, {"l": 1}, {"l": 1, "m": 2}]),
    }
)
metadata = st.dictionaries(st.sampled_from("abc"), st.none() | st.booleans() | st.integers(0, 3), max_size=2)


@dataclass
class Pair:
    """The model and the other storage, on one event loop. `numbers` makes ids that no other example has."""

    runner: asyncio.Runner
    model: Opened
    other: Opened
    numbers: Iterator[int]

    def each(self, act: Act) -> tuple[Any, Any]:
        """Do it to both; what each answered. They must answer alike."""
        answers = [self.runner.run(_answer(act, opened)) for opened in (self.model, self.other)]
        assert plain(answers[1]) == plain(answers[0])
        return answers[0], answers[1]


async def _answer(act: Act, opened: Opened) -> Any:
    try:
        return await act(opened)
    except (PerdureError, ValueError) as error:
        return type(error).__name__


def plain(value: Any) -> Any:
    """An answer without what may differ: times, ids that the storage made, numbers of rings."""
    match value:
        case Ring(task_id=task_id):
            return task_id
        case Notice(state=None, task_id=task_id):
            return task_id
        case Message(message_id=message_id) if not message_id.startswith("m-"):
            return plain(replace(value, message_id="m-made"))
        case TaskRecord():  # places are of each storage's own making, and so are deliveries
            said = (value.task, value.events, value.lost_attempts, value.workers, value.feedback)
            return [plain(each) for each in (*said, value.failures, value.limits, value.status_seq)]
        case Mapping():
            return {key: plain(item) for key, item in value.items()}
        case list() | tuple() | Kept():
            return [plain(item) for item in value]
    if is_dataclass(value):
        members = {field.name: getattr(value, field.name) for field in fields(value)}
        return {
            name: plain(member)
            for name, member in members.items()
            if not isinstance(member, datetime) and name not in ("next", "feedback_id")
        }
    return value


class Storages(RuleBasedStateMachine):
    """What may happen, in any order."""

    def __init__(self, pair: Pair) -> None:
        super().__init__()
        self.pair = pair
        self.owners: list[str] = []
        self.tasks: list[NewTask] = []
        self.claims: list[Claim] = []
        self.writes: dict[Claim, int] = {}
        self.agreed = True
        self.rings: tuple[list[Ring], list[Ring]] = ([], [])

    @initialize()
    def strangers(self) -> None:
        number = next(self.pair.numbers)
        self.owners = [f"ann {number}", f"bob {number}"]

    # ------------------------------------------------------------------ what is there

    def both(self, act: Act) -> Any:
        return self.each(act)[0]

    def each(self, act: Act) -> tuple[Any, Any]:
        self.agreed = False
        answers = self.pair.each(act)
        self.agreed = True
        return answers

    def message(self) -> Message:
        number = next(self.pair.numbers)
        return says(f"text {number}", f"m-{number}")

    def task(self, index: int) -> NewTask:
        return self.tasks[index % len(self.tasks)]

    def claim(self, index: int) -> Claim:
        """Mostly one of the last, which may still be held."""
        return self.claims[-1 - index % len(self.claims)]

    def next_write(self, claim: Claim) -> int:
        self.writes[claim] = self.writes.get(claim, 0) + 1
        return self.writes[claim]

    def look_at(self, task: NewTask) -> None:
        """All that can be read of one task."""
        owner, task_id = task.owner, task.task_id
        self.both(lambda to: to.storage.load_task(owner, task_id))
        self.both(lambda to: to.storage.events_since(owner, task_id, 0))
        self.both(lambda to: to.storage.notices([task_id]))

    def look_at_claimed(self, claim: Claim) -> None:
        self.look_at(next(task for task in self.tasks if task.task_id == claim.task_id))

    def look_at_context(self, owner: str, context: str) -> None:
        self.both(lambda to: to.storage.load_context(owner, context))
        self.both(lambda to: to.storage.list_contexts(owner))

    # ------------------------------------------------------------------ callers

    @rule(
        owner=st.integers(0, 1),
        context=st.sampled_from(CONTEXTS),
        metadata=metadata,
        key=keys,
        scheduling=scheduling,
    )
    def submit(
        self,
        owner: int,
        context: str,
        metadata: dict[str, Any],
        key: IdempotencyKey | None,
        scheduling: dict[str, Any],
    ) -> None:
        task = NewTask(
            task_id=new_task_id(),
            owner=self.owners[owner],
            context_id=context,
            message=self.message(),
            metadata=metadata,
            **scheduling,
        )
        answers = self.each(lambda to: _in_short(to.storage.submit_task(task, key=key)))
        if isinstance(answers[0], str):
            return
        for rings, accepted in zip(self.rings, answers, strict=True):
            rings.extend([accepted.ring] if accepted.ring else [])
        if not answers[0].repeated:
            self.tasks.append(task)
            self.look_at(task)
        self.look_at_context(task.owner, context)

    @precondition(lambda self: self.tasks)
    @rule(index=some)
    def submit_again(self, index: int) -> None:
        task = self.task(index)
        # One that was cleared meanwhile would be made anew: nobody resends after that.
        if not isinstance(self.both(lambda to: to.storage.load_task(task.owner, task.task_id)), str):
            self.both(lambda to: _without_ring(to.storage.submit_task(task)))
            self.look_at(task)

    @precondition(lambda self: self.tasks)
    @rule(index=some, context=st.sampled_from(["", *CONTEXTS]), key=keys)
    def say_more(self, index: int, context: str, key: IdempotencyKey | None) -> None:
        task, message = self.task(index), replace(self.message(), context_id=context)
        self.both(
            lambda to: _without_ring(to.storage.continue_task(task.owner, task.task_id, message, key=key))
        )
        self.look_at(task)
        self.both(lambda to: to.storage.list_contexts(task.owner))

    @precondition(lambda self: self.tasks)
    @rule(index=some, message=st.booleans())
    def cancel(self, index: int, message: bool) -> None:
        task, said = self.task(index), self.message() if message else None
        self.both(lambda to: _without_ring(to.storage.cancel_task(task.owner, task.task_id, said)))
        self.look_at(task)

    @precondition(lambda self: self.tasks)
    @rule(index=some, rating=st.none() | st.integers(0, 6), metadata=metadata)
    def rate(self, index: int, rating: int | None, metadata: dict[str, Any]) -> None:
        task = self.task(index)
        self.both(
            lambda to: to.storage.store_feedback(
                task.owner, task.task_id, text="so so", rating=rating, metadata=metadata
            )
        )
        self.both(lambda to: to.storage.load_feedback(task.owner, task.task_id))

    @precondition(lambda self: self.tasks)
    @rule(index=some, name=st.sampled_from("abc"), keep=st.booleans())
    def hook(self, index: int, name: str, keep: bool) -> None:
        task = self.task(index)
        config = WebhookConfig(config_id=name, task_id=task.task_id, url=f"https://{next(self.pair.numbers)}")
        if keep:
            self.both(lambda to: to.storage.save_webhook_config(task.owner, config))
        else:
            self.both(lambda to: to.storage.delete_webhook_config(task.owner, task.task_id, name))
        self.both(lambda to: to.storage.list_webhook_configs(task.owner, task.task_id, page_size=2))

    # ------------------------------------------------------------------ contexts

    @rule(owner=st.integers(0, 1), context=st.sampled_from(CONTEXTS), number=st.integers(1, 2))
    def bring_along(self, owner: int, context: str, number: int) -> None:
        messages = [self.message() for _ in range(number)]
        self.both(lambda to: to.storage.append_messages(self.owners[owner], context, messages))
        self.look_at_context(self.owners[owner], context)

    @rule(owner=st.integers(0, 1), context=st.sampled_from(CONTEXTS), metadata=metadata)
    def describe(self, owner: int, context: str, metadata: dict[str, Any]) -> None:
        self.both(lambda to: _metadata(to.storage.update_context(self.owners[owner], context, metadata)))
        self.look_at_context(self.owners[owner], context)

    @rule(owner=st.integers(0, 1), context=st.sampled_from(CONTEXTS))
    def clear(self, owner: int, context: str) -> None:
        self.both(lambda to: _by_task(to.storage.clear_context(self.owners[owner], context)))
        self.both(lambda to: to.storage.list_contexts(self.owners[owner]))

    # ------------------------------------------------------------------ workers

    @rule(history=st.sampled_from([0, 1, 3, 200]), twice=st.booleans())
    def take(self, history: int, twice: bool) -> None:
        token = new_token()
        for _ in range(2 if twice else 1):
            turn = self.both(lambda to: to.storage.claim_task("worker", token, lease=600.0, history=history))
            if turn is None:
                return
        self.claims.append(turn.claim)
        self.look_at_claimed(turn.claim)

    @precondition(lambda self: self.claims)
    @rule(index=some, what=st.sets(st.sampled_from(["message", "artifact", "chunk", "progress", "status"])))
    def write(self, index: int, what: set[str]) -> None:
        claim = self.claim(index)
        write_no, number = self.next_write(claim), next(self.pair.numbers)
        chunks = [artifact(f"whole {number}")] if "artifact" in what else []
        pieces = [chunk(f"piece {number}", append=bool(number % 3))] if "chunk" in what else []
        self.both(
            lambda to: to.storage.update_task(
                claim,
                write_no,
                status_message=replace(says("status"), message_id=f"m-{number}")
                if "status" in what
                else None,
                status_metadata={"n": number} if "progress" in what else None,
                new_messages=[replace(says("word"), message_id=f"m-{number}-0")] if "message" in what else [],
                new_artifacts=[*chunks, *pieces],
                metadata={"wrote": number, "a": None},
            )
        )
        self.look_at_claimed(claim)

    @precondition(lambda self: self.writes)
    @rule(index=some)
    def write_again(self, index: int) -> None:
        claim = list(self.writes)[-1 - index % len(self.writes)]
        again = replace(says("not said"), message_id="m-again")
        self.both(
            lambda to: _without_rings(to.storage.update_task(claim, self.writes[claim], new_messages=[again]))
        )
        self.look_at_claimed(claim)

    @precondition(lambda self: self.claims)
    @rule(index=some, state=st.sampled_from(TURN_ENDS), output=st.booleans())
    def settle(self, index: int, state: TaskState, output: bool) -> None:
        claim, said = self.claim(index), self.message()
        write_no = self.next_write(claim)
        self.both(
            lambda to: to.storage.update_task(
                claim,
                write_no,
                state=state,
                status_message=said if output else None,
                new_artifacts=[artifact(said.text, "result")] if output else [],
            )
        )
        self.look_at_claimed(claim)

    @precondition(lambda self: self.claims)
    @rule(index=some, failed=st.booleans(), delay=st.sampled_from([0.0, 3600.0]))
    def release(self, index: int, failed: bool, delay: float) -> None:
        claim = self.claim(index)
        self.both(lambda to: to.storage.release_task(claim, reason="so", failed=failed, delay=delay))
        self.look_at_claimed(claim)

    @precondition(lambda self: self.claims)
    @rule()
    def renew(self) -> None:
        claims = self.claims[-5:]
        self.both(lambda to: _held(to.storage, claims))

    @precondition(lambda self: self.claims)
    @rule(index=some, name=st.sampled_from("ab"), occurrence=st.integers(1, 2))
    def checkpoint(self, index: int, name: str, occurrence: int) -> None:
        claim, result = self.claim(index), next(self.pair.numbers)
        self.both(lambda to: to.storage.store_step(claim, name, occurrence, result))

    # ------------------------------------------------------------------ time and sweeps

    @rule()
    def expire(self) -> None:
        self.both(lambda to: _by_task(to.storage.expire_tasks()))

    @rule()
    def forget(self) -> None:
        self.both(lambda to: to.storage.forget_keys(older_than=0.0))
        self.both(lambda to: to.storage.forget_limits())

    @precondition(lambda self: self.tasks)
    @rule(index=some)
    def wait_for_retry(self, index: int) -> None:
        task = self.task(index)
        found = self.both(lambda to: to.storage.load_task(task.owner, task.task_id))
        if not isinstance(found, str) and found.state is TaskState.SUBMITTED:
            self.pair.runner.run(self.pair.model.clock.make_due(task.task_id))
            self.pair.runner.run(self.pair.other.clock.make_due(task.task_id))

    @precondition(lambda self: self.claims)
    @rule(index=some, max_crashes=st.integers(1, 3))
    def crash(self, index: int, max_crashes: int) -> None:
        claim = self.claim(index)
        held = self.both(lambda to: _held(to.storage, [claim]))
        if held == ["lost"]:
            return
        for opened in (self.pair.model, self.pair.other):
            self.pair.runner.run(opened.clock.expire_lease(claim.task_id))
        self.both(lambda to: to.storage.rescue_tasks(grace=0.0, max_crashes=max_crashes))
        self.look_at_claimed(claim)

    @rule()
    def sweep(self) -> None:
        stranded = self.each(lambda to: to.storage.stranded(idle=0.0))
        rings = {self.pair.model.storage: stranded[0], self.pair.other.storage: stranded[1]}
        self.both(lambda to: _by_task(to.storage.redispatch(rings[to.storage])))

    @rule(place=some)
    def fold(self, place: int) -> None:
        """Nothing that is read changes, from wherever a stream goes on; the number of events changes alike."""
        self.both(lambda to: to.storage.fold_tasks(ended_for=0, limit=1000))
        for task in self.tasks:
            self.both(lambda to, task=task: to.storage.events_since(task.owner, task.task_id, place))  # type: ignore[misc]

    @precondition(lambda self: self.tasks)
    @rule(index=some, back=st.booleans())
    def prune(self, index: int, back: bool) -> None:
        """A task goes, if it may, and may come back."""
        task = self.task(index)
        records = self.each(lambda to: _pruned(to.storage, task.task_id))
        if back and all(records):
            kept = {self.pair.model.storage: records[0], self.pair.other.storage: records[1]}
            self.both(lambda to: to.storage.restore_task(kept[to.storage][0]))
        self.look_at(task)
        self.both(lambda to: to.storage.load_feedback(task.owner, task.task_id))
        self.look_at_context(task.owner, task.context_id)

    @precondition(lambda self: self.tasks)
    @rule(index=some, place=some)
    def trim(self, index: int, place: int) -> None:
        """What is read of the task does not change; the events that are left are the same."""
        task = self.task(index)
        before = self.both(lambda to: to.storage.load_task(task.owner, task.task_id))
        self.both(lambda to: to.storage.trim_tasks([task.task_id], ended_for=0))
        assert self.both(lambda to: to.storage.load_task(task.owner, task.task_id)) == before
        self.both(lambda to: to.storage.events_since(task.owner, task.task_id, place))

    @rule()
    def ring_old_bells(self) -> None:
        """The first rings of all tasks: some are still the newest."""
        rings = {self.pair.model.storage: self.rings[0], self.pair.other.storage: self.rings[1]}
        self.both(lambda to: _claimable_among(to.storage, rings[to.storage]))

    # ------------------------------------------------------------------ the end of an example

    def teardown(self) -> None:
        """Compare everything once more; then leave nothing, since claims know no owners."""
        try:
            if self.agreed:
                self.look_at_everything()
        finally:
            for opened in (self.pair.model, self.pair.other):
                self.pair.runner.run(_clear(opened.storage, self.owners))

    def look_at_everything(self) -> None:
        for owner in self.owners:
            for length in (None, 2):
                query = TaskQuery(owner=owner, include_artifacts=True, history_length=length)
                self.both(lambda to, query=query: to.storage.list_tasks(query))  # type: ignore[misc]
            for context in CONTEXTS:
                self.look_at_context(owner, context)
        for task in self.tasks:
            self.look_at(task)


async def _in_short(answer: Awaitable[Accepted]) -> Accepted:
    """Which of those that it canceled was canceled first is open, and whether a repeat rings again."""
    accepted = await answer
    canceled = sorted(accepted.canceled, key=lambda notice: notice.task_id)
    return replace(accepted, canceled=canceled, ring=None if accepted.repeated else accepted.ring)


async def _without_ring(answer: Awaitable[Accepted]) -> Any:
    """Whether a message to a task that is due already rings for it once more, or a cancel for who was first before, is open."""
    return (await answer).task


async def _without_rings(answer: Awaitable[Any]) -> Any:
    return replace(await answer, rings=())


async def _by_task(answer: Awaitable[Sequence[Any]]) -> list[UUID]:
    return sorted(item.task_id for item in await answer)


async def _metadata(answer: Awaitable[Any]) -> Any:
    return (await answer).metadata


async def _held(storage: Storage, claims: Sequence[Claim]) -> list[str]:
    found = await storage.renew_claims(claims, 600.0)
    return [found[claim].value for claim in claims]


async def _claimable_among(storage: Storage, rings: Sequence[Ring]) -> list[UUID]:
    stranded = {ring.task_id for ring in await storage.stranded(idle=0.0)}
    return sorted(ring.task_id for ring in await storage.redispatch(rings) if ring.task_id not in stranded)


async def _clear(storage: Storage, owners: Sequence[str]) -> None:
    for owner in owners:
        for context in (await storage.list_contexts(owner)).contexts:
            await storage.clear_context(owner, context.context_id)


@pytest.mark.timeout(
    600
)  # 15 s when they agree; what makes them differ is worth the time that it takes to shorten it
@pytest.mark.parametrize("other", ["memory", "postgres"])
def test_storages_agree(request: pytest.FixtureRequest, other: str) -> None:
    url = request.getfixturevalue("module_database_url") if other == "postgres" else None
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            model = runner.run(stack.enter_async_context(opened_memory()))
            opened = opened_postgres(url) if url else opened_memory()
            pair = Pair(runner, model, runner.run(stack.enter_async_context(opened)), count(1))
            run_state_machine_as_test(
                partial(Storages, pair),  # type: ignore[arg-type]  # a factory is as good, but not typed
                settings=settings(
                    max_examples=40,
                    stateful_step_count=30,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate, Phase.shrink],
                    print_blob=True,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(stack.aclose())


class _Shelf(list[TaskRecord]):
    """An archive; what is made by each storage for itself is not in it."""

    async def add(self, record: TaskRecord) -> None:
        self.append(record)

    async def sync(self) -> None: ...


async def _pruned(storage: Storage, task_id: UUID) -> list[TaskRecord]:
    shelf, ages = _Shelf(), {state: 0.0 for state in TaskState if state.terminal}
    pruned = await storage.prune_tasks([task_id], ages, archive=shelf)
    return [record for record in shelf if record.task.task_id in pruned.tasks]
