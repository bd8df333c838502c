"""What workers claim and write, in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from perdure.errors import LeaseLost
from perdure.owners import ONLY
from perdure.storage import Claim, ClaimedTurn, Held, Written
from perdure.storage.memory.base import Locked
from perdure.storage.memory.drafts import draft, merged, to_json
from perdure.storage.memory.rows import TaskRow
from perdure.storage.writes import YIELDS_TO_UNREAD, bodies, ends_turn
from perdure.tasks import Artifact, ArtifactChunk, Message, Ring, StatusChange, TaskState


class Turns(Locked):
    """See the port."""

    async def claim_task(
        self, holder: str, token: UUID, *, lease: float, history: int = 200, agent: str = ONLY
    ) -> ClaimedTurn | None:
        with self._lock:
            mine = self._held_with(token)
            row = mine or self._take(holder, token, lease, agent)
            if row is None:
                return None
            row.unread = False
            said = self._ledger.context_of(row).said(row.place, history)
            ends = row.deadline_at
            deadline = None if ends is None else (ends - self._ledger.now()).total_seconds()
            return ClaimedTurn(
                claim=row.claim(token),
                task=row.task(history),
                conversation=said,
                steps=row.stored_steps(),
                deadline=deadline,
                trace_contexts=row.trace_contexts,
                again=mine is not None,
            )

    def _held_with(self, token: UUID) -> TaskRow | None:
        return next((row for row in self._ledger.held.values() if row.token == token), None)

    def _take(self, holder: str, token: UUID, lease: float, agent: str) -> TaskRow | None:
        now = self._ledger.now()
        row = self._ledger.best(now, agent)
        if row is None:
            return None
        row.attempt += 1
        row.holder, row.token, row.write_no = holder, token, 0
        row.holders[row.attempt] = holder
        row.lease_until = now + timedelta(seconds=lease)
        self._ledger.append(row, draft(StatusChange(TaskState.WORKING)), row.attempt, now)
        self._ledger.hold(row)
        return row

    async def renew_claims(self, claims: Sequence[Claim], lease: float) -> Mapping[Claim, Held]:
        with self._lock:
            until = self._ledger.now() + timedelta(seconds=lease)
            return {claim: self._renew(claim, until) for claim in claims}

    def _renew(self, claim: Claim, until: datetime) -> Held:
        row = self._ledger.tasks.get(claim.task_id)
        held = row.standing(claim) if row else Held.LOST
        if row and held is not Held.LOST:
            row.lease_until = until
        return held

    async def update_task(
        self,
        claim: Claim,
        write_no: int,
        *,
        state: TaskState | None = None,
        status_message: Message | None = None,
        status_metadata: Mapping[str, object] | None = None,
        new_messages: Sequence[Message] = (),
        new_artifacts: Sequence[Artifact | ArtifactChunk] = (),
        metadata: Mapping[str, object] | None = None,
    ) -> Written:
        ends = ends_turn(state)
        with self._lock:
            row = self._fenced(claim, write_no)
            if row.write_no == write_no:
                return self._written(row)
            if row.unread and state in YIELDS_TO_UNREAD:
                state = TaskState.SUBMITTED
            drafts = [draft(body) for body in bodies(new_messages, new_artifacts)]
            if ends or status_message or status_metadata:
                status = StatusChange(state or TaskState.WORKING, status_message, status_metadata or {})
                drafts.append(draft(status))
            changed_metadata = merged(row.metadata, metadata)
            now = self._ledger.now()
            for event in drafts:
                self._ledger.append(row, event, row.attempt, now)
            row.metadata, row.write_no, row.updated_at = changed_metadata, write_no, now
            if not ends:
                row.streamed |= bool(new_artifacts)
                return Written(row.state, row.last_seq)
            row.steps.clear()
            rings = self._ledger.let_go(row, now)
            return Written(row.state, row.last_seq, rings)

    def _fenced(self, claim: Claim, write_no: int) -> TaskRow:
        """The claim's row, if the claim may write or its write `write_no` has been kept already."""
        row = self._ledger.tasks.get(claim.task_id)
        if row is None:
            raise LeaseLost(canceled=False)
        if row.standing(claim) is Held.YES or (row.is_of(claim) and row.write_no == write_no):
            return row
        raise LeaseLost(canceled=row.attempt == claim.attempt and row.state is TaskState.CANCELED)

    def _written(self, row: TaskRow) -> Written:
        """The answer to a write that came a second time."""
        ring = self._ledger.ring(self._ledger.context_of(row).first())
        return Written(row.state, row.last_seq, (ring,) if ring else ())

    async def release_task(
        self,
        claim: Claim,
        *,
        reason: str,
        failed: bool = False,
        delay: float = 0.0,
        metadata: Mapping[str, object] | None = None,
    ) -> Sequence[Ring]:
        told = {"reason": reason, **(metadata or {})}
        with self._lock:
            row = self._ledger.tasks.get(claim.task_id)
            if row is None or row.standing(claim) is Held.LOST:
                return ()
            now = self._ledger.now()
            if row.state is TaskState.WORKING:
                changed_metadata = merged(row.metadata, metadata)
                status = StatusChange(TaskState.SUBMITTED, metadata=told)
                self._ledger.append(row, draft(status), 0, now)
                row.metadata = changed_metadata
                row.lost_attempts.add(row.attempt)
                row.failures += failed
            return self._ledger.let_go(row, now + timedelta(seconds=delay))

    async def store_step(self, claim: Claim, name: str, occurrence: int, result: object) -> None:
        kept = to_json(result)
        with self._lock:
            row = self._ledger.tasks.get(claim.task_id)
            if row is None or row.standing(claim) is not Held.YES:
                raise LeaseLost(canceled=row is not None and row.state is TaskState.CANCELED)
            row.steps.setdefault((name, occurrence), kept)
