"""`perdure tasks show`: all that is known of one task."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from perdure.cli.deliveries import HEADS_OF_TASK, delivery_as_json, row_of_task
from perdure.cli.finding import line_as_json
from perdure.cli.fleet import DEAD_AFTER
from perdure.cli.forms import ago, lasting, one_line, table
from perdure.owners import shown

if TYPE_CHECKING:
    from perdure.storage import Storage
    from perdure.storage.operators import Attempt, TaskLine
    from perdure.storage.webhooks import Delivery
    from perdure.tasks import Task

MOST_DELIVERIES = 50
"""How many are shown: the newest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Looked:
    """One task as an operator sees it. `deliveries` are the newest, oldest first; `log` is empty unless it was asked for."""

    line: TaskLine
    task: Task
    attempts: Sequence[Attempt]
    log: Sequence[dict[str, Any]]
    blocked: bool
    deliveries: Sequence[Delivery]
    more_deliveries: bool


async def looked_at(storage: Storage, task_id: UUID, *, events: bool) -> Looked:
    """Read all of it. `TaskNotFound`."""
    from perdure.storage.webhooks import DeliveryQuery

    line = await storage.task_line(task_id)
    query = DeliveryQuery(owner=None, task_id=task_id)
    page = await storage.list_deliveries(query, page_size=MOST_DELIVERIES)
    workers = await storage.list_workers()
    return Looked(
        line=line,
        task=await storage.load_task(line.owner, task_id),
        attempts=await storage.attempts(task_id),
        log=[event async for event in _log(storage, line)] if events else [],
        blocked=any(task_id in each.tasks and each.is_blocked(DEAD_AFTER) for each in workers),
        deliveries=page.deliveries[::-1],
        more_deliveries=page.next is not None,
    )


def looked_as_json(found: Looked) -> dict[str, Any]:
    """For programs: what `perdure tasks list --json` says of it, and all the rest."""
    from perdure.retention.archive import task_json

    return {
        **line_as_json(found.line),
        "traces": [{"traceId": trace, "url": link or None} for trace, link in _traces(found.line)],
        "attempts": [_attempt_as_json(each) for each in found.attempts],
        "deliveries": [delivery_as_json(each) for each in found.deliveries],
        "task": task_json(found.task),
        "events": found.log,
    }


async def _log(storage: Storage, line: TaskLine) -> AsyncIterator[dict[str, Any]]:
    from perdure.stored.payload import dump_body

    after = 0
    while page := await storage.events_since(line.owner, line.task_id, after):
        for event in page:
            after = event.seq
            kind, payload = dump_body(event.body)
            yield {"seq": event.seq, "time": event.time.isoformat(), "kind": kind, **payload}


def looked_as_text(found: Looked) -> str:
    """For people."""
    line, task = found.line, found.task
    facts = [
        ("task", str(line.task_id)),
        ("state", f"{line.state} since {ago(line.status_timestamp)}"),
        ("owner", shown(line.owner)),
        ("context", line.context_id),
        ("sent", f"{line.created_at:%Y-%m-%d %H:%M:%S %Z}, {ago(line.created_at)} ago"),
        ("attempts", f"{line.attempt}, of which {line.failures} failed and {line.crashes} crashed"),
        ("held by", _held_by(line, found.blocked)),
        *(("trace", link or trace) for trace, link in _traces(line)),
    ]
    told = [f"{name:9} {value}" for name, value in facts]
    if line.state.value != "completed" and (progress := task.metadata.get("progress")):
        fraction = progress.get("fraction")
        share = "" if fraction is None else f"{fraction:.0%} "
        told.append(f"{'progress':9} {share}{one_line(progress.get('note') or '')}")
    if found.attempts:
        rows = [_attempt_row(each) for each in found.attempts]
        told += ["", table(("ATTEMPT", "WORKER", "BEGAN", "TOOK", "ENDED", "BECAUSE"), rows)]
    if found.deliveries:
        told += ["", table(HEADS_OF_TASK, [row_of_task(each) for each in found.deliveries])]
    if found.more_deliveries:
        told.append(f"older ones: perdure webhooks list --task {line.task_id} --limit 10000")
    told += ["", *(f"{message.role}: {one_line(message.text, 2000)}" for message in task.history)]
    if task.status_message:
        told.append(f"{task.state}: {one_line(task.status_message.text, 2000)}")
    told += [f"artifact {each.artifact_id}: {one_line(each.text, 2000)}" for each in task.artifacts]
    return "\n".join(told)


def _held_by(line: TaskLine, blocked: bool) -> str:
    if blocked:
        return f"{line.holder}, which is blocked: a handler holds its event loop; end that process (perdure workers list)"
    if line.holder and line.state.terminal:
        return f"{line.holder}, whose handler has not ended: perdure tasks cancel --force {line.task_id}"
    return line.holder or "nobody"


def _traces(line: TaskLine) -> list[tuple[str, str]]:
    """The ids of its traces, the newest first, and where to look at them if OPS__TRACE_URL says so."""
    from perdure.settings import load_settings
    from perdure.tracing import trace_ids

    ops = load_settings(storage_type="postgres").ops
    return [(found, ops.trace_link(found)) for found in trace_ids(line.trace_contexts)]


def _attempt_row(attempt: Attempt) -> tuple[str, ...]:
    took = (attempt.ended_at - attempt.began_at).total_seconds() if attempt.ended_at else None
    failure = attempt.failure
    because = f"{failure.error_class}: {failure.message}" if failure else ""
    return (
        str(attempt.attempt),
        attempt.worker,
        f"{attempt.began_at:%H:%M:%S}",
        lasting(took),
        attempt.why.value,
        one_line(because, 100),
    )


def _attempt_as_json(attempt: Attempt) -> dict[str, Any]:
    failure = attempt.failure
    return {
        "attempt": attempt.attempt,
        "worker": attempt.worker,
        "beganAt": attempt.began_at.isoformat(),
        "endedAt": attempt.ended_at.isoformat() if attempt.ended_at else None,
        "why": attempt.why.value,
        "error": f"{failure.error_class}: {failure.message}" if failure else None,
        "traceback": failure.traceback if failure else None,
    }
