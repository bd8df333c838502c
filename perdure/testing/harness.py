"""A server and its workers inside of a test, with time that passes when the test says so."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Any, Self, TypeVar
from uuid import UUID

from perdure import logs
from perdure.agent import Agent
from perdure.ids import new_task_id, new_token
from perdure.launch import ours
from perdure.queue.inline import InlineQueue
from perdure.settings import Settings, TurnSettings
from perdure.storage import Accepted
from perdure.tasks import ANONYMOUS, Notice, Role, Task, TaskState
from perdure.watch import Watch

from .clock import Clock, PatientLoop
from .one_turn import Said, as_agent, as_message
from .result import Result
from .storage import Crash, HarnessKeeper, HarnessStorage

T = TypeVar("T")

_MOMENT = 0.001
"""Seconds: a lease is over only after its last moment."""


class Harness:
    """Everything that happens to a task, in memory: the turns are those of a worker, the rules those of the storage.

        with Harness(agent) as harness:
            asked = harness.send("What is the weather?")
            done = harness.send("Lisbon", after=asked)

    Nothing happens between two calls: handlers run while a call of the harness does. (A plain function, which runs in a thread,
    goes on.) Time passes only in `send` and `wait`, which jump to whatever comes next, and in `advance`; a pause of an hour
    takes no time. A thread or a connection that a handler waits for is waited for in real time, until it gives no sign for
    `patience` seconds.

    `turns` are settings of TURNS__, as `{"max_failures": 0}`; `start` is what time it is at first, in UTC (default: now).
    Close it, or use it in a `with`. In a test that is a coroutine: `await asyncio.to_thread(harness.send, "hello")`.
    """

    def __init__(
        self,
        agent: Agent | Callable[..., Any],
        *,
        turns: Mapping[str, Any] | None = None,
        start: datetime | None = None,
        patience: float = 5.0,
    ) -> None:
        logs.set_up_for_tests()
        self._clock = Clock(start)
        self._loop = PatientLoop(self._clock, patience=patience)
        self._storage = HarnessStorage(self._clock, self._die)
        self._queue = InlineQueue()
        self._keeper = HarnessKeeper()
        self._settings = Settings(turns=TurnSettings.model_validate({"chunk_interval": 0, **(turns or {})}))
        self._worker = ours("worker.worker").Worker(
            worker_id="harness",
            agent=as_agent(agent),
            storage=self._storage,
            queue=self._queue,
            watch=Watch(self._storage, self._queue, refresh=math.inf),
            keeper=self._keeper,
            settings=self._settings,
            end=lambda: None,
        )
        self._turns: dict[asyncio.Task[Any], Any] = {}  # with the reins of each
        self._looks = asyncio.Event()
        self._changed = asyncio.Event()
        self._queue.attach(self._looks.set)
        self._background = [self._loop.create_task(each) for each in (self._listen(), self._work())]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.close()

    # ------------------------------------------------------------------ as a caller

    def send(
        self, said: Said, *, after: Result | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Result:
        """Say something and wait until the task rests: it has ended, or asks back.

        `after` is what it follows: a task that has not ended gets it as a message (an answer, where it asked); where it has
        ended, this begins a new task in the same conversation. Without it a new conversation begins. `metadata` is that of the
        request, which a new task keeps, as `{"perdure": {"notBefore": 3600}}`.

        Raises what a caller would get as an error (`perdure.errors.CallerError`).
        """
        return self._run(self._rested(self._run(self._accepted(said, after, metadata or {}))))

    def start(
        self, said: Said, *, after: Result | None = None, metadata: Mapping[str, Any] | None = None
    ) -> Result:
        """The same without waiting: returns once nothing more happens unless time passes, or something outside does."""
        return self._run(self._as_it_stands(self._run(self._accepted(said, after, metadata or {}))))

    def wait(self, task: Result) -> Result:
        """Wait until a task rests, however long it takes on the clock."""
        return self._run(self._rested(UUID(task.task_id)))

    def look(self, task: Result) -> Result:
        """How a task stands now."""
        return self._run(self._as_it_stands(UUID(task.task_id)))

    def cancel(self, task: Result) -> Result:
        """Cancel it, as its caller would. `perdure.errors.TaskNotCancelable` where it has ended."""
        return self._run(self._canceled(UUID(task.task_id)))

    # ------------------------------------------------------------------ as time, and as fate

    def now(self) -> datetime:
        """What time it is on the clock, in UTC."""
        return self._clock.now()

    def advance(self, seconds: float | timedelta) -> None:
        """Let so much time pass, with all that happens in it."""
        left = seconds.total_seconds() if isinstance(seconds, timedelta) else seconds
        self._run(self._pass(left))

    def crash(self) -> None:
        """The worker dies, as by kill -9, with all turns that run. They begin again once their leases are over, as `wait` and
        `advance` see.

        What a handler does after this, such as a `finally`, changes nothing any more.
        """
        self._die()
        self._run(self._pass(0))

    def crash_after(self, step: str, *, occurrence: int = 1) -> None:
        """The worker will die when the result of this step (`turn.step`) has just been stored; once."""
        self._storage.crashes.append(Crash(step, occurrence, "after"))

    def crash_before(self, step: str, *, occurrence: int = 1) -> None:
        """The worker will die when the function of this step has been called and its result not yet been stored; once."""
        self._storage.crashes.append(Crash(step, occurrence, "before"))

    def deploy(self) -> None:
        """The worker is stopped in good order and another one goes on: the turns that run are given back, and begin again."""
        self._pull("DEPLOY")
        self._run(self._pass(0))

    def close(self) -> None:
        """End whatever runs."""
        if not self._loop.is_closed():
            self._pull("LOST")
            self._run(self._pass(self._settings.turns.patience))
            self._run(self._ended())
            self._loop.run_until_complete(self._loop.shutdown_asyncgens())
            self._loop.close()

    # ------------------------------------------------------------------ what a front door does

    async def _accepted(self, said: Said, after: Result | None, metadata: Mapping[str, Any]) -> UUID:
        message = replace(as_message(said), role=Role.USER)
        message = replace(message, message_id=message.message_id or str(new_token()))
        send, now = ours("api.wire.asked").Send(message=message, metadata=metadata), self.now()
        if after is not None:
            send = replace(send, message=replace(message, context_id=after.context_id))
            if not (await self._task(UUID(after.task_id))).state.terminal:
                follow_up = ours("api.orders").follow_up(send, now)
                return await self._spread(
                    await self._storage.continue_task(ANONYMOUS, UUID(after.task_id), follow_up)
                )
        new = ours("api.orders").new_task(self._worker.agent.config, ANONYMOUS, new_task_id(), send, now)
        return await self._spread(await self._storage.submit_task(new))

    async def _canceled(self, task_id: UUID) -> Result:
        return await self._as_it_stands(
            await self._spread(await self._storage.cancel_task(ANONYMOUS, task_id))
        )

    async def _spread(self, accepted: Accepted) -> UUID:
        """Whose task it is. The worker of a task that was canceled by it is told."""
        task = accepted.task
        await self._queue.announce([*accepted.canceled, Notice(task.task_id, task.last_seq, task.state)])
        await self._queue.ring([accepted.ring] if accepted.ring else ())
        return task.task_id

    async def _task(self, task_id: UUID) -> Task:
        return await self._storage.load_task(ANONYMOUS, task_id)

    async def _as_it_stands(self, task_id: UUID) -> Result:
        await self._pass(0)
        return await self._storage.result(await self._task(task_id))

    async def _rested(self, task_id: UUID) -> Result:
        while True:
            self._changed.clear()
            if (await self._task(task_id)).state.rests:
                return await self._as_it_stands(task_id)
            changed = self._loop.create_task(self._changed.wait())
            idle = self._loop.idle(math.inf)
            await asyncio.wait((changed, idle), return_when=asyncio.FIRST_COMPLETED)
            if not changed.done():
                changed.cancel()
                raise RuntimeError(
                    f"task {task_id} does not come to rest, and nothing is left that could happen"
                )

    # ------------------------------------------------------------------ what workers do

    async def _work(self) -> None:
        """For ever: begin whatever is due, end whatever is over its time; again when something or the clock says so."""
        while True:
            self._looks.clear()
            await self._queue.announce(await self._storage.expire_tasks())
            while await self._begun():
                pass
            if (until := self._storage.next_time()) is None:
                await self._looks.wait()
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout((until - self.now()).total_seconds()):
                    await self._looks.wait()

    async def _begun(self) -> bool:
        """Whether there was a turn to begin."""
        reins, claimed = ours("worker.lease").Reins(), self._loop.create_future()
        turn = self._loop.create_task(ours("worker.turn").run_turn(self._worker, reins, claimed.set_result))
        self._turns[turn] = reins
        turn.add_done_callback(self._over)
        found: bool = await claimed
        return found

    def _over(self, turn: asyncio.Task[Any]) -> None:
        """A turn that ended without letting go of its task has died, or has left a handler behind that does not end."""
        reins = self._turns.pop(turn)
        if self._storage.holds(reins.task_id):
            self._background.append(self._loop.create_task(self._rescue()))

    async def _listen(self) -> None:
        """For ever: stop the turns of tasks that were canceled. A task that was given back may be due at another time than any
        other."""
        async with self._queue.listen() as notices:
            async for notice in notices:
                self._changed.set()
                self._looks.set()
                if notice.state is TaskState.CANCELED:
                    self._pull("CANCELED", notice.task_id)

    def _pull(self, why: str, task_id: UUID | None = None) -> None:
        """Stop the turns of a task, or all."""
        for reins in list(self._turns.values()):
            if task_id in (None, reins.task_id):
                reins.pull(ours("worker.lease").Stop[why])

    def _die(self) -> None:
        self._pull("LOST")

    async def _rescue(self) -> None:
        """Once the leases are over, as a sweep does. Those of turns that run now have been renewed."""
        worker = self._settings.worker
        await asyncio.sleep(worker.lease + worker.lease_grace + _MOMENT)
        await self._storage.renew_claims(self._keeper.claims, worker.lease)
        swept = await self._storage.rescue_tasks(
            grace=worker.lease_grace, max_crashes=self._settings.turns.max_crashes
        )
        await self._queue.announce(swept.notices)
        await self._queue.ring(swept.rings)

    # ------------------------------------------------------------------ the loop

    def _run(self, main: Coroutine[Any, Any, T]) -> T:
        if asyncio._get_running_loop() is not None:
            main.close()
            raise RuntimeError("in a test that is a coroutine: await asyncio.to_thread(harness.send, ...)")
        return self._loop.run_until_complete(main)

    async def _pass(self, seconds: float) -> None:
        """First what is due without that any time passes."""
        await self._loop.idle(self._loop.time())
        if seconds:
            # The storage reads no time twice, and is microseconds ahead of a clock that stands still.
            ahead = max((await self._storage.check() - self.now()).total_seconds(), 0.0)
            await self._loop.idle(self._loop.time() + ahead + seconds)

    async def _ended(self) -> None:
        """Cancel whatever still runs. Twice: who waits for a thread waits at the first time."""
        for _ in range(2):
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await self._loop.idle(self._loop.time())
