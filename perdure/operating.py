"""What an operator does by hand, for the page and for the command line: every act stands in the audit before it begins, and its
result after it.

A task that has ended stays as it is: to retry it is to send its first message again, as a new task of the same owner and
conversation whose metadata names the old one (`retryOf`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from uuid import UUID

import structlog

from perdure.errors import (
    PerdureError,
    QueueUnavailable,
    TaskNotCancelable,
    TaskNotFound,
    UnsupportedOperation,
)
from perdure.ids import new_task_id
from perdure.owners import agent_of
from perdure.queue import Queue
from perdure.storage import Accepted, IdempotencyKey, NewTask, Policy, Storage
from perdure.storage.operators import OperatorAction, TaskFilter, TaskLine
from perdure.storage.webhooks import DeliveryQuery
from perdure.tasks import Message, Notice, Ring, TaskState, TextPart
from perdure.tracing import spans
from perdure.tracing.spans import SYSTEM

log = structlog.get_logger(__name__)

MOST_AT_ONCE = 1_000
"""How many tasks one bulk action touches; the next one goes on."""
_BATCH = 100
_TOGETHER = 8
RETRY_OF = "retryOf"
RETRYABLE = (TaskState.FAILED, TaskState.CANCELED, TaskState.REJECTED)


@dataclass(frozen=True, slots=True)
class Bulk:
    """`done` were changed; `skipped` needed no change, or could not be; with `more` others that match were not looked at."""

    done: int
    skipped: int
    more: bool

    def __str__(self) -> str:
        more = f"; stopped after {MOST_AT_ONCE}, more match" if self.more else ""
        return f"{self.done} done, {self.skipped} left as they were{more}"


@dataclass(frozen=True, slots=True)
class Operator:
    """Whoever acts; `actor` is the name that the audit has."""

    storage: Storage
    queue: Queue
    actor: str

    # ------------------------------------------------------------------ one task

    async def cancel(self, task_id: UUID) -> str:
        """As its caller could. `TaskNotFound`, `TaskNotCancelable`."""

        async def act() -> str:
            line = await self.storage.task_line(task_id)
            await self._cancel(line)
            return "canceled"

        return await self.audited("cancel", str(task_id), act)

    async def force_cancel(self, task_id: UUID) -> str:
        """Cancel, and take the lease from whoever holds it at once: the conversation goes on, and what the holder still writes is
        refused. For handlers that do not end when told to; also for a task that was canceled before. `TaskNotFound`;
        `TaskNotCancelable` when it has ended and nobody holds it."""

        async def act() -> str:
            line = await self.storage.task_line(task_id)
            if not line.state.terminal:
                await self._cancel(line)
            claim = await self.storage.newest_claim(task_id)
            if claim is None:
                if line.state.terminal:
                    raise TaskNotCancelable(f"the task is {line.state} already, and nobody holds it")
                return "canceled; nobody held it"
            await self._ring(await self.storage.release_task(claim, reason="forced"))
            return f"canceled; attempt {claim.attempt} lost its lease"

        return await self.audited("force-cancel", str(task_id), act)

    async def retry(self, task_id: UUID, text: str | None = None) -> UUID:
        """A new task with the same message, or with `text` in the place of its words; its id. A task is retried once with the
        same message: again gives the task of the first time. `TaskNotFound`, `UnsupportedOperation` unless it
        is failed, canceled or rejected."""
        made: list[UUID] = []

        async def act() -> str:
            accepted = await self._retry(await self.storage.task_line(task_id), text)
            made.append(accepted.task.task_id)
            return f"{'was retried before as' if accepted.repeated else 'retried as'} {made[0]}"

        await self.audited("retry" if text is None else "retry with other input", str(task_id), act)
        return made[0]

    # ------------------------------------------------------------------ all that match

    async def cancel_all(self, wanted: TaskFilter) -> Bulk:
        """Cancel what has not ended, each in a transaction of its own."""
        return await self._all("cancel all", wanted, self._cancel)

    async def retry_all(self, wanted: TaskFilter) -> Bulk:
        """Retry what is failed, canceled or rejected and was not retried yet."""

        async def retry(line: TaskLine) -> None:
            if (await self._retry(line, None)).repeated:
                raise UnsupportedOperation("it was retried before")

        return await self._all("retry all", wanted, retry)

    async def _all(self, action: str, wanted: TaskFilter, act: Callable[[TaskLine], Awaitable[None]]) -> Bulk:
        found: list[Bulk] = []

        async def run() -> str:
            found.append(await self._each(wanted, act))
            return str(found[0])

        await self.audited(action, _told(wanted), run)
        return found[0]

    async def _each(self, wanted: TaskFilter, act: Callable[[TaskLine], Awaitable[None]]) -> Bulk:
        done = seen = 0
        before: UUID | None = None
        gate = asyncio.Semaphore(_TOGETHER)

        async def changed(line: TaskLine) -> bool:
            async with gate:
                try:
                    await act(line)
                except (TaskNotFound, TaskNotCancelable, UnsupportedOperation):
                    return False
                return True

        while seen < MOST_AT_ONCE:
            page = await self.storage.find_tasks(wanted, page_size=_BATCH, before=before)
            done += sum(await asyncio.gather(*(changed(line) for line in page.lines)))
            seen += len(page.lines)
            before = page.next
            if before is None:
                break
        return Bulk(done, seen - done, more=before is not None)

    # ------------------------------------------------------------------ workers

    async def drain(self, worker_id: str, drain: bool = True) -> str:
        """Ask a worker to begin no more turns, or to begin some again: its next beat reads it."""

        async def act() -> str:
            known = await self.storage.ask_to_drain(worker_id, drain)
            return (
                ("asked" if known else "no such worker")
                if drain
                else ("resumed" if known else "no such worker")
            )

        return await self.audited("drain" if drain else "resume", worker_id, act)

    # ------------------------------------------------------------------ webhooks

    async def replay(self, delivery_id: UUID) -> str:
        """Send a delivery now, under its id: again if it has an end, without waiting for its time if it waits."""

        async def act() -> str:
            query = DeliveryQuery(owner=None, delivery_id=delivery_id)
            return (
                "sent again"
                if await self.storage.replay_deliveries(query)
                else "its webhook is disabled, or it is gone"
            )

        return await self.audited("replay", str(delivery_id), act)

    async def enable(self, delivery_id: UUID) -> str:
        """Send again to the disabled config of a delivery, beginning with what waits."""

        async def act() -> str:
            query = DeliveryQuery(owner=None, delivery_id=delivery_id)
            page = await self.storage.list_deliveries(query, page_size=1)
            enabled = [
                await self.storage.enable_webhook(None, each.task_id, each.config_id)
                for each in page.deliveries
            ]
            return "enabled" if any(enabled) else "there is no such webhook"

        return await self.audited("enable webhook", str(delivery_id), act)

    # ------------------------------------------------------------------ how

    async def _cancel(self, line: TaskLine) -> None:
        accepted = await self.storage.cancel_task(line.owner, line.task_id)
        await self._announce(accepted)

    async def _retry(self, line: TaskLine, text: str | None) -> Accepted:
        if line.state not in RETRYABLE:
            raise UnsupportedOperation(
                f"the task is {line.state}: only failed, canceled and rejected ones are retried"
            )
        events = await self.storage.events_since(line.owner, line.task_id, 0, 1)
        task = await self.storage.load_task(line.owner, line.task_id, history_length=0)
        first = events[0].body if events else None
        if not isinstance(first, Message):
            raise TaskNotFound(line.task_id)
        new = NewTask(
            task_id=new_task_id(),
            owner=line.owner,
            context_id=line.context_id,
            message=_worded(first, text),
            metadata={**task.metadata, "retry": None, RETRY_OF: str(line.task_id)},
            policy=Policy.PARALLEL if line.parallel else Policy.ENQUEUE,
            priority=line.priority,
            limits=line.limits,
        )
        new = replace(
            new, metadata={name: value for name, value in new.metadata.items() if value is not None}
        )
        key = IdempotencyKey(f"operator-retry:{line.task_id}", "retry") if text is None else None
        with spans.sending(agent_of(line.owner) or SYSTEM, new.task_id, new.context_id) as span:
            accepted = await self.storage.submit_task(replace(new, trace_context=span.context), key=key)
        await self._announce(accepted)
        return accepted

    async def _announce(self, accepted: Accepted) -> None:
        task = accepted.task
        try:
            await self.queue.announce([Notice(task.task_id, task.last_seq, task.state), *accepted.canceled])
        except QueueUnavailable as error:  # whoever waits looks for himself every few seconds
            log.debug("announce.failed", error=str(error))
        await self._ring([accepted.ring] if accepted.ring else [])

    async def _ring(self, rings: Sequence[Ring]) -> None:
        try:
            await self.queue.ring(rings)
        except QueueUnavailable as error:  # the sweep finds what was not rung for
            log.warning("ring.failed", tasks=len(rings), error=str(error))

    async def audited(self, action: str, target: str, act: Callable[[], Awaitable[str]]) -> str:
        """Act, with an entry of the audit before it and its result after it."""
        entry = OperatorAction(
            action_id=new_task_id(), actor=self.actor, action=action, target=target, result="begun"
        )
        await self.storage.record_action(entry)
        try:
            result = await act()
        except PerdureError as error:
            await self.storage.record_action(replace(entry, result=f"refused: {error}"))
            raise
        await self.storage.record_action(replace(entry, result=result))
        log.info("operator.acted", actor=self.actor, action=action, target=target, result=result)
        return result


def _worded(message: Message, text: str | None) -> Message:
    """The same to be said again, as a new message; `text` in the place of its text parts."""
    again = replace(message, message_id="", task_id="")
    if text is None:
        return again
    others = [part for part in message.parts if not isinstance(part, TextPart)]
    return replace(again, parts=(TextPart(text), *others))


def _told(wanted: TaskFilter) -> str:
    given = ((name, getattr(wanted, name)) for name in TaskFilter.__dataclass_fields__)
    return ", ".join(f"{name} {value}" for name, value in given if value is not None) or "everything"
