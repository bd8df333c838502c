"""TaskManager: one method per A2A operation, over Storage, Queue and Watch. Knows no transport and no JSON."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from perdure.agent import AgentConfig
from perdure.errors import (
    InvalidParams,
    Overloaded,
    StorageUnavailable,
    TooMuch,
    UnsupportedOperation,
)
from perdure.ids import new_task_id, task_id_of
from perdure.owners import ONLY
from perdure.queue import Queue
from perdure.security.egress import Egress
from perdure.settings import ServerSettings
from perdure.storage import (
    Accepted,
    Context,
    ContextPage,
    Cursor,
    Feedback,
    IdempotencyKey,
    NewTask,
    Storage,
    TaskPage,
    TaskQuery,
    WebhookConfig,
)
from perdure.storage.webhooks import GLOBAL
from perdure.tasks import Notice, Role, StatusChange, Task
from perdure.telling import Update
from perdure.tracing import spans
from perdure.watch import Waiter, Watch

from .auth import Caller
from .bounds import Bounds, bounds_of
from .callbacks import Callbacks, config_of
from .feeds import OUTAGE_PAUSE, Feeds, Follower, Take, refuse
from .orders import follow_up, new_task
from .wire.asked import Send


class TaskManager:
    """The operations. What they raise is listed in `perdure.errors`; anything else is a defect."""

    def __init__(
        self,
        storage: Storage,
        queue: Queue,
        watch: Watch,
        settings: ServerSettings,
        config: AgentConfig,
        *,
        egress: Egress | None = None,
        own_webhook: bool = False,
        agent: str = ONLY,
        bounds: Bounds | None = None,
    ) -> None:
        self._storage = storage
        self._queue = queue
        self._watch = watch
        self._feeds = Feeds(storage, watch)
        self._settings = settings
        self._config = config
        self._own_webhook = own_webhook
        self.callbacks = Callbacks(storage, queue, settings, config, egress or Egress(), agent)
        """The operations on push notification configs and deliveries."""
        bounds = bounds or bounds_of(storage, settings)
        self._quotas, self._streams, self._blocking = bounds.quotas, bounds.streams, bounds.blocking

    # ------------------------------------------------------------------ sending

    async def send_message(
        self,
        caller: Caller,
        send: Send,
        *,
        repeated: Callable[[], None] = lambda: None,
        leaving: Callable[[Callable[[], None]], Callable[[], object]] | None = None,
    ) -> Task:
        """Store the message, ring, and wait until the task rests, unless asked to return at once.

        A send whose key was used before stores nothing: `repeated` is called, and the task of that time is waited for.
        After `wait_timeout` seconds, or when the server stops, the task is returned as it stands. The task does not depend on
        this call: whoever cancels it, or never reads the answer, changes nothing. `leaving` calls what it is given when the
        caller has gone, until what it returns is called: then nobody waits any longer.
        """
        if send.return_immediately:
            accepted = await self._accept(caller, self._addressed(send), send)
            if accepted.repeated:
                repeated()
            return await self._whole(accepted, send)
        # The place to wait is taken before the message is stored: no change can be missed.
        with self._blocking.taken(caller.owner), self._watch.waiter(self._addressed(send)) as waiter:
            accepted = await self._accept(caller, waiter.task_id, send)
            if accepted.repeated:
                repeated()
            waiter.moves_to(accepted.task.task_id)
            task = await self._whole(accepted, send) if accepted.repeated else accepted.task
            stays = leaving(waiter.dismiss) if leaving else None
            try:
                return await self._rested(task, waiter, send)
            finally:
                if stays:
                    stays()

    async def stream_message(
        self, caller: Caller, send: Send, *, repeated: Callable[[], None] = lambda: None, take: Take = refuse
    ) -> AsyncIterator[Task | Update]:
        """Like `send_message`; yields the task as it was accepted (as it stands, of a repeated send), then its updates until it
        rests, but for those that `take` says."""
        self._need_streaming()
        with self._streams.taken(caller.owner):
            async with self._followed(caller, send, repeated) as (accepted, follower):
                task = await self._whole(accepted, send)
                yield task
                if task.state.rests:  # the turn was that quick
                    return
                updates = follower.updates(task, task.last_seq, ends=_rests, take=take)
                async for update in updates:
                    yield update

    async def subscribe(
        self,
        caller: Caller,
        task_id: str,
        *,
        after: int | None = None,
        history_length: int | None = None,
        take: Take = refuse,
    ) -> AsyncIterator[Task | Update | None]:
        """The task as it stands, then its updates until it ends, gap-free, but for those that `take` says.

        With `after` (an event's number): no snapshot (but None, as soon as the stream stands), then every update since; also of a
        task that has ended. Without it a task that has ended is `UnsupportedOperation`.
        """
        self._need_streaming()
        found = task_id_of(task_id)
        with self._streams.taken(caller.owner), self._feeds.joined(found) as follower:
            length = self._length(history_length) if after is None else 0
            task = await self._storage.load_task(caller.owner, found, history_length=length)
            if after is None and task.state.terminal:
                raise UnsupportedOperation(
                    f"task {task_id} has ended ({task.state}): there is nothing to subscribe to"
                )
            yield task if after is None else None
            cursor = task.last_seq if after is None else min(after, task.last_seq)
            if task.state.terminal and cursor == task.last_seq:
                return
            async for update in follower.updates(task, cursor, ends=_terminal, take=take):
                yield update

    def _addressed(self, send: Send) -> UUID:
        """The id of the task that a message is for: its own choice, or a new one. Checks what needs no storage."""
        message = send.message
        if message.role is not Role.USER:
            raise InvalidParams(
                "message.role", "must be that of the user: only the agent speaks as the agent"
            )
        if send.callback is not None:
            self.callbacks.allow(send.callback)
        return task_id_of(message.task_id) if message.task_id else new_task_id()

    @asynccontextmanager
    async def _followed(
        self, caller: Caller, send: Send, repeated: Callable[[], None]
    ) -> AsyncIterator[tuple[Accepted, Follower]]:
        """The message is stored, and a place to follow its task is taken before that: no change can be missed."""
        task_id = self._addressed(send)
        with self._feeds.joined(task_id) as follower:
            accepted = await self._accept(caller, task_id, send)
            if accepted.repeated:
                repeated()
            if accepted.task.task_id == task_id:
                yield accepted, follower
                return
        with self._feeds.joined(accepted.task.task_id) as follower:
            yield accepted, follower

    async def _accept(self, caller: Caller, task_id: UUID, send: Send) -> Accepted:
        """From here on the message is safe. The bell is a courtesy: the sweep rings again for what it missed."""
        if send.message.task_id:
            accepted = await self._continued(caller, task_id, send)
        else:
            accepted = await self._begun(caller, task_id, send)
        if not accepted.repeated:
            self._spread(accepted, heard=bool(send.message.task_id))
        return accepted

    async def _begun(self, caller: Caller, task_id: UUID, send: Send) -> Accepted:
        webhooks = [config_of(task_id, send.callback, send.key)] if send.callback else []
        if self._own_webhook:
            webhooks.append(WebhookConfig(config_id=GLOBAL, task_id=task_id, url="", endpoint="WEBHOOK_URL"))
        new = new_task(self._config, caller.owner, task_id, send, datetime.now(UTC), webhooks)
        with spans.sending(self._config.name, task_id, new.context_id) as span:
            if span.context:
                new = replace(new, trace_context=span.context)
            return await self._submitted(new, send.key)

    async def _continued(self, caller: Caller, task_id: UUID, send: Send) -> Accepted:
        webhooks = [config_of(task_id, send.callback, send.key)] if send.callback else []
        if webhooks:  # before the message is stored, not after
            await self.callbacks.need_room(caller, webhooks[0])
        message = follow_up(send, datetime.now(UTC))
        with spans.sending(self._config.name, task_id, message.context_id) as span:
            return await self._storage.continue_task(
                caller.owner, task_id, message, key=send.key, webhooks=webhooks, trace_context=span.context
            )

    async def _submitted(self, new: NewTask, key: IdempotencyKey | None) -> Accepted:
        """A new task where the caller's quota has a place for it. One that was taken before has its place: its caller asks for
        the answer, and would never get it while its own tasks fill the quota."""
        try:
            async with self._quotas.place(new.owner) as place:
                accepted = await self._storage.submit_task(new, key=key)
                place.used = not accepted.repeated
                return accepted
        except (TooMuch, Overloaded):
            if key is None or not await self._storage.knows_key(new.owner, key):
                raise
        return await self._storage.submit_task(new, key=key)

    def _spread(self, accepted: Accepted, *, heard: bool) -> None:
        """Ring for the turn that became due, and tell those who wait for the task (`heard`: there may be some) or for one that it
        interrupted; also their workers, which stop at once. Nobody waits for Redis here, be it away or slow."""
        task = accepted.task
        own = [Notice(task.task_id, task.last_seq, task.state)] if heard else []
        self._queue.tell([*accepted.canceled, *own])
        if accepted.ring is not None:
            self._queue.ring_soon([accepted.ring])

    async def _whole(self, accepted: Accepted, send: Send) -> Task:
        """The task with its history and artifacts. A new one has none but the message, and needs no second look."""
        task = accepted.task
        if send.message.task_id or accepted.repeated:
            return await self._reload(task, send.history_length)
        return replace(task, history=()) if send.history_length == 0 else task

    async def _rested(self, task: Task, waiter: Waiter, send: Send) -> Task:
        deadline = asyncio.get_running_loop().time() + self._settings.wait_timeout
        seen = task.last_seq
        while not task.state.rests:
            try:
                async with asyncio.timeout_at(deadline):
                    seen = max(seen, (await waiter.beyond(seen, resting=True)).seq)
            except TimeoutError:
                return await self._reload(task, send.history_length)
            task = await self._reload(task, send.history_length, deadline)
            seen = max(seen, task.last_seq)
        return task

    async def _reload(self, task: Task, history_length: int | None, deadline: float = 0.0) -> Task:
        """The task as it stands now. The message was accepted, so an outage of the database is waited out; past the deadline the
        task is given as it was last seen, since an error would make the caller send the message again."""
        while True:
            try:
                return await self._storage.load_task(
                    task.owner, task.task_id, history_length=self._length(history_length)
                )
            except StorageUnavailable:
                if asyncio.get_running_loop().time() + OUTAGE_PAUSE > deadline:
                    return task
                await asyncio.sleep(OUTAGE_PAUSE)

    def _length(self, asked: int | None) -> int:
        """How many messages an answer brings: as many as are asked for, within the limit."""
        most = self._settings.max_history
        return most if asked is None else min(asked, most)

    # ------------------------------------------------------------------ tasks

    async def get_task(self, caller: Caller, task_id: str, *, history_length: int | None = None) -> Task:
        """The task as it stands."""
        return await self._storage.load_task(
            caller.owner, task_id_of(task_id), history_length=self._length(history_length)
        )

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        """A page of the caller's tasks."""
        return await self._storage.list_tasks(
            replace(query, history_length=self._length(query.history_length))
        )

    async def cancel_task(self, caller: Caller, task_id: str) -> Task:
        """Set the task canceled. The announcement is how its worker is told at once; its next renewal tells it in any case."""
        accepted = await self._storage.cancel_task(caller.owner, task_id_of(task_id))
        self._spread(accepted, heard=True)
        return await self._reload(accepted.task, None)

    async def give_feedback(
        self, caller: Caller, task_id: str, text: str, *, rating: int | None, metadata: Mapping[str, Any]
    ) -> Feedback:
        """Store what the caller thought of a task."""
        if not text and rating is None:
            raise InvalidParams("feedback", "or a rating is required")
        return await self._storage.store_feedback(
            caller.owner, task_id_of(task_id), text=text, rating=rating, metadata=metadata
        )

    # ------------------------------------------------------------------ conversations

    async def list_contexts(self, caller: Caller, *, page_size: int, after: Cursor | None) -> ContextPage:
        """A page of the caller's conversations."""
        return await self._storage.list_contexts(caller.owner, page_size=page_size, after=after)

    async def load_context(self, caller: Caller, context_id: str, *, history_length: int | None) -> Context:
        """A conversation with its messages."""
        return await self._storage.load_context(
            caller.owner, context_id, history_length=self._length(history_length)
        )

    async def clear_context(self, caller: Caller, context_id: str) -> int:
        """Delete a conversation with its tasks; how many those were. Running turns are told to end."""
        gone = await self._storage.clear_context(caller.owner, context_id)
        self._queue.tell(gone)
        return len(gone)

    # ------------------------------------------------------------------ what is switched off

    def _need_streaming(self) -> None:
        if not self._config.capabilities.streaming:
            raise UnsupportedOperation("streaming is switched off for this agent")


def _rests(update: Update) -> bool:
    return isinstance(update.body, StatusChange) and update.body.state.rests


def _terminal(update: Update) -> bool:
    return isinstance(update.body, StatusChange) and update.body.state.terminal
