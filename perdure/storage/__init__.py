"""Storage, the port: every rule about tasks, whoever keeps them.

An internal seam: adapters are chosen by `perdure.backends`, and tests/contract holds each of them to what is said here.
The full contract stands on these methods; adapters do not repeat it.

Rules that hold for every method:

- *Owner*: what belongs to another owner does not exist (`TaskNotFound`, an empty page).
- *Agent*: an owner is a caller at an agent (`perdure.owners`), and a task its owner's agent's. So what belongs to another agent
  does not exist either; whoever claims says for which agent.
- *Fence*: a write of a turn carries its `Claim`. It is refused with `LeaseLost` unless the row still has the claim's attempt
  and token, and the state `working`. Nothing of a refused write is kept.
- *Log*: every change of a task appends events in the same transaction, numbered 1, 2, 3 ... without gaps.
- *Terminal is final*: no method changes the state of a task that has ended.
- *Time* is the storage's own clock. Durations are seconds.
- *Again*: a method that is called again with the same arguments after an unknown end (a lost connection during COMMIT)
  has the effect of one call. Adapters do this themselves within `StorageUnavailable`'s patience.
- *Lost turns*: events of an attempt that never settled (released, rescued, to be retried) stay in the log, but are left out of
  a task's history and artifacts and of what handlers see. What a canceled turn had written stays.
- *Values*: what is handed in or out is never shared; changing it later changes nothing stored.
- *Storable*: `ValueError` for text and JSON that `perdure.stored.storable` says cannot be kept. Callers look first: a belt.

Any method may raise `StorageUnavailable`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from perdure.owners import ONLY
from perdure.storage.claims import (
    MOST_BACKOFF,
    Claim,
    ClaimedTurn,
    Held,
    Keeper,
    Swept,
    Written,
)
from perdure.storage.contexts import (
    Context,
    ContextPage,
    Feedback,
)
from perdure.storage.folding import Folding
from perdure.storage.keys import Keys
from perdure.storage.operators import Operators, WorkerBeat
from perdure.storage.pages import (
    TOTAL_CAP,
    Cursor,
    TaskCounts,
    TaskPage,
    TaskQuery,
)
from perdure.storage.retention import Retention
from perdure.storage.sending import (
    TRACED,
    Accepted,
    IdempotencyKey,
    NewTask,
    Policy,
)
from perdure.storage.webhooks import (
    WebhookConfig,
    WebhookConfigPage,
    Webhooks,
)
from perdure.tasks import Artifact, ArtifactChunk, Event, Message, Notice, Ring, Task, TaskState

__all__ = [
    "MOST_BACKOFF",
    "TOTAL_CAP",
    "TRACED",
    "Accepted",
    "Claim",
    "ClaimedTurn",
    "Context",
    "ContextPage",
    "Cursor",
    "Feedback",
    "Held",
    "IdempotencyKey",
    "Keeper",
    "NewTask",
    "Policy",
    "Storage",
    "Swept",
    "TaskCounts",
    "TaskPage",
    "TaskQuery",
    "WebhookConfig",
    "WebhookConfigPage",
    "Webhooks",
    "Written",
]


class Storage(Folding, Keys, Operators, Retention, Webhooks, Protocol):
    """See the module's text for the rules that hold everywhere."""

    async def open(self) -> None:
        """Connect. Waits for the database as long as the settings say; then `StorageUnavailable`.
        `SchemaMismatch` when the schema is older than the code, or too new for it."""

    async def close(self) -> None:
        """Let go of every connection. Waits for nothing that runs."""

    async def check(self) -> datetime:
        """One round trip: what time it is for the storage. `StorageUnavailable`, `SchemaMismatch`."""

    # ------------------------------------------------------------------ callers

    async def submit_task(self, new: NewTask, *, key: IdempotencyKey | None = None) -> Accepted:
        """Store a new task, `submitted` and due now, with its message as event 1; make or touch its context.

        The task takes the next place in its context: turns of one context run one at a time and in this order. The ring is None
        while an earlier task of the context has not ended: what ends it rings for this one. The stored message gets the
        task's and the context's id, and a message id if it has none. A `task_id` that is already there: that task again.

        With `key`, scoped to the owner: the same key and fingerprint again gives the first one's task (`repeated`), also while
        the first is under way; another fingerprint is `KeyReused`. `ContextBusy` with the policy to reject.
        """

    async def continue_task(
        self,
        owner: str,
        task_id: UUID,
        message: Message,
        *,
        key: IdempotencyKey | None = None,
        webhooks: Sequence[WebhookConfig] = (),
        trace_context: str = "",
    ) -> Accepted:
        """Append a message to a task. `webhooks` are added to it, and told of what comes after the message; `trace_context` is
        kept beside those of earlier messages.

        An interrupted task becomes `submitted` (two events: the message, the status) and a turn is due. At `submitted` and
        `working` the message is kept (one event) and seen by the next turn. Two messages with the same id are two messages.
        `key` as in `submit_task`.
        `TaskNotFound`; `InvalidParams` when `message.context_id` is given and another; `UnsupportedOperation` when
        the task has ended.
        """

    async def cancel_task(self, owner: str, task_id: UUID, message: Message | None = None) -> Accepted:
        """Set `canceled`, whatever the task does. A running turn cannot write any more; its holder keeps the context's slot until
        it releases or its lease runs out. With no holder the next task of the context is in `ring`.
        `TaskNotFound`; `TaskNotCancelable` when it has ended."""

    async def load_task(self, owner: str, task_id: UUID, *, history_length: int | None = None) -> Task:
        """The task with the last `history_length` messages (None: all; 0: none) and its artifacts, as of one moment.
        The message of the present status is in `status_message` and joins the history when the next status replaces it.
        `TaskNotFound`."""

    async def list_tasks(self, query: TaskQuery) -> TaskPage:
        """By status timestamp, newest first (equal ones by task id, descending); keyset pages, so that no depth costs more."""

    async def events_since(self, owner: str, task_id: UUID, after: int, limit: int = 1000) -> Sequence[Event]:
        """Events with seq > `after`, in order, at most `limit`, those of lost turns included: what a stream resumes from. Where
        the first one was folded and `after` is inside of it, it is the whole artifact. Empty for an unknown task."""

    async def notices(self, task_ids: Collection[UUID]) -> Sequence[Notice]:
        """Where these tasks stand now, whoever owns them; one for each id, state None for those that are gone. One query."""

    async def count_tasks(self, owner: str, *, up_to: int) -> TaskCounts:
        """Each count stops at `up_to`, so that it costs no more than that."""

    async def count_waiting(self, *, up_to: int) -> int:
        """How many tasks of all owners are submitted, counted up to `up_to`."""

    async def knows_key(self, owner: str, key: IdempotencyKey) -> bool:
        """Whether the key is in use, whatever for: `submit_task` with it would store nothing."""

    # ------------------------------------------------------------------ workers

    async def claim_task(
        self, holder: str, token: UUID, *, lease: float, history: int = 200, agent: str = ONLY
    ) -> ClaimedTurn | None:
        """Take the best task of an agent that is due: submitted, its due time reached, held by nobody, first in its context, and
        no other turn of the context running (a task that waits for its due time keeps its place; one that waits for its caller
        does not; one that runs in parallel minds nobody), none of its limits reached, not over its time. The highest priority
        first; within it owners take turns, so that one owner's ten thousand tasks do not keep another's one waiting; an owner's
        tasks in the order in which they were sent. None when nothing is.

        It becomes `working` (an event) with attempt + 1, a lease of `lease` seconds for `holder` (a worker's id), and the
        context's slot. The same `token` again returns the same turn, with what is left of its lease.
        """

    async def renew_claims(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        """Extend the leases to `lease` seconds from now. A claim that is missing in the answer was locked by someone:
        ask again."""

    async def update_task(
        self,
        claim: Claim,
        write_no: int,
        *,
        state: TaskState | None = None,
        status_message: Message | None = None,
        status_metadata: Mapping[str, Any] | None = None,
        new_messages: Sequence[Message] = (),
        new_artifacts: Sequence[Artifact | ArtifactChunk] = (),
        metadata: Mapping[str, Any] | None = None,
    ) -> Written:
        """One write of a turn, all of it in one transaction, in this order: messages, artifacts, status.

        `write_no` is 1, 2, 3 ... within the attempt; the number of the last write that was kept: already applied, success.
        `state` None or `working`: the turn goes on; a status event is appended if there is `status_message` or
        `status_metadata` (progress); the present status, its message and its timestamp change only with a message.
        Any other state ends the turn: lease and context slot are freed, `rings` says what became claimable. If a message came in
        that the turn was not given, a `completed` or interrupted end commits its output and becomes `submitted` instead.
        `metadata` is merged into the task's, top level, a None removes the key. Artifacts are whole unless they are chunks.
        Ids are complete when they get here. `LeaseLost`; `ValueError` for a state that `working` cannot become, and for
        `submitted`.
        """

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: Any) -> None:
        """Keep the result of a checkpoint (JSON) at once, under the fence; attempts of the same turn get it in
        `ClaimedTurn.steps`. What is there already stays. `LeaseLost`."""

    async def release_task(
        self,
        claim: Claim,
        *,
        reason: str,
        failed: bool = False,
        delay: float = 0.0,
        metadata: Mapping[str, Any] | None = None,
    ) -> Sequence[Ring]:
        """The turn will not be finished here, and its handler has ended.

        `working`: back to `submitted` (a status event of attempt 0, so not lost itself, whose metadata has `{"reason": reason}`
        and `metadata`), due in `delay` seconds, its output lost; `failed` counts one failure, else no budget is touched;
        `metadata` is merged into the task's as well, so that who reads it sees why it waits. Ended (canceled): the lease and the
        context's slot are freed. A claim that is no longer held: nothing. Returns what became claimable.
        """

    # ------------------------------------------------------------------ sweeps

    async def rescue_tasks(
        self,
        *,
        grace: float,
        max_crashes: int,
        limit: int = 100,
        as_of: datetime | None = None,
        up_for: float = 0.0,
        agents: Collection[str] | None = None,
    ) -> Swept:
        """Take tasks away from holders whose lease has been over for more than `grace` seconds at `as_of` (a time that `check`
        gave; None: now). A call that an outage held up thus judges by the time before: whoever could not renew during
        the outage is not judged for it.

        `working`: `crashes` + 1 and back to `submitted` (status event, reason `crash`), or `failed` with a message for the caller
        once `crashes` reaches `max_crashes`; of agents that are not in `agents` (None: all are) those are left for somebody who
        serves them. Ended ones: the lease and the context's slot are freed. Nothing while the
        database itself has been up for less than `grace` or `up_for` seconds (it may be back from an outage in which nobody
        could renew).
        Locked rows are skipped.
        """

    async def expire_tasks(self, *, limit: int = 100) -> Sequence[Notice]:
        """Fail the tasks that wait and are over their time, with a message for the caller; which. What comes next in their
        contexts is found by `stranded`."""

    async def forget_keys(self, *, older_than: float, limit: int = 1000) -> int:
        """Drop idempotency keys that were used more than `older_than` seconds ago; how many."""

    async def forget_limits(self, *, batch: int = 1000) -> int:
        """Drop the counters of limits that nothing counts against and no task that is open names, so many at a time; how many
        went. The next task with such a limit makes it anew."""

    async def stranded(self, *, idle: float, limit: int = 100, agent: str = ONLY) -> Sequence[Ring]:
        """Tasks of an agent that could be claimed and were last dispatched more than `idle` * 2^n seconds ago, in the order of
        `claim_task`. n: how many rings the task has had beyond one for each turn, at most `MOST_BACKOFF`; what is rung for in
        vain is rung for ever more rarely."""

    async def redispatch(self, rings: Sequence[Ring]) -> Sequence[Ring]:
        """Raise `dispatch` of those that still have the number given and can be claimed; the new rings."""

    async def drop_finished(self, keep: int) -> int:
        """Delete the oldest ended tasks beyond `keep`; how many went. Only the in-memory storage does anything."""

    # ------------------------------------------------------------------ contexts

    async def load_context(
        self, owner: str, context_id: str, *, history_length: int | None = None
    ) -> Context:
        """With its task ids and last messages, oldest first. `ContextNotFound`."""

    async def list_contexts(
        self, owner: str, *, page_size: int = 50, after: Cursor | None = None
    ) -> ContextPage:
        """Newest change first, keyset pages, without messages."""

    async def append_messages(self, owner: str, context_id: str, messages: Sequence[Message]) -> None:
        """Add messages to a conversation without starting a task (an earlier talk that is brought along). Makes the context.
        They take the next place in the context. Ids as in `submit_task`; one whose id was appended before is left out."""

    async def update_context(self, owner: str, context_id: str, metadata: Mapping[str, Any]) -> Context:
        """Merge metadata, top level; None removes a key. `ContextNotFound`."""

    async def clear_context(self, owner: str, context_id: str) -> Sequence[Notice]:
        """Delete the context with all its tasks and what belongs to them; a running turn loses its lease. Returns a notice with
        state None for each task. `ContextNotFound`."""

    # ------------------------------------------------------------------ what belongs to a task

    async def store_feedback(
        self,
        owner: str,
        task_id: UUID,
        *,
        text: str,
        rating: int | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Feedback:
        """`TaskNotFound`; `InvalidParams` for a rating outside 1..5."""

    async def load_feedback(self, owner: str, task_id: UUID) -> Sequence[Feedback]:
        """Oldest first. `TaskNotFound`."""

    # ------------------------------------------------------------------ workers' signs of life

    async def beat(self, beat: WorkerBeat) -> bool:
        """Record that a worker lives; whether an operator asked it to drain."""

    async def forget_worker(self, worker_id: str) -> None:
        """The worker ended in order."""

    async def workers_alive(self, within: float, *, agent: str | None = None) -> int:
        """How many workers (of this one among several agents) gave a sign of life in the last `within` seconds and are not
        draining."""

    def keeper(self, *, lease: float) -> Keeper:
        """A keeper of its own thread and connection; close it when done."""
