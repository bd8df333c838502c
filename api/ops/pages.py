"""The pages: what each of them looks at."""

from __future__ import annotations

import asyncio
import shlex
from collections.abc import Sequence
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from perdure.ids import parse_task_id
from perdure.operating import MOST_AT_ONCE, RETRY_OF, RETRYABLE
from perdure.owners import ONLY, owner_at
from perdure.storage.operators import COUNTED, SCANNED, SEARCHED, TaskLine, by_liveliness
from perdure.storage.webhooks import DeliveryQuery
from perdure.stored.payload import dump_body
from perdure.tasks import Event, StatusChange, Task, TaskState
from perdure.tracing import trace_ids

from ..auth import Caller
from ..health import MISSED_BEATS
from .desk import Desk
from .looks import bars, percent, series
from .query import AGES, as_query, members, read_filter
from .shown import shown

_EVENTS = 300
"""How many events of a task a page shows: the newest."""
_PAGE = 50


# ---------------------------------------------------------------------- overview


async def overview(desk: Desk, request: Request, caller: Caller) -> Response:
    """How things stand."""
    figures, workers, pruned_ago = await asyncio.gather(
        desk.storage.figures(), desk.storage.list_workers(), desk.storage.retention_age()
    )
    alive = [each for each in workers if each.silent <= _silence(desk)]
    swept = {
        name: sum(each.beat.counters.get(name, 0) for each in alive)
        for name in ("sweeps", "rescued", "expired", "rung_again", "pruned")
    }
    return await shown(
        desk,
        request,
        "overview.html",
        "",
        figures=figures,
        ended=figures.completed + figures.failed,
        failure_rate=percent(figures.failed, figures.completed + figures.failed),
        alarm=_alarm(figures.oldest_waiting),
        alive=alive,
        blocked=[each for each in workers if each.is_blocked(_silence(desk))],
        used=sum(each.beat.running for each in alive),
        slots=sum(each.beat.slots for each in alive),
        swept=swept,
        pruned_ago=pruned_ago,
        bars=bars(figures.minutes, figures.time),
        series=series(figures.minutes, figures.time),
        scanned=SCANNED,
        shared=desk.queue.shared,
    )


def _silence(desk: Desk) -> float:
    return desk.settings.worker.beat_interval * MISSED_BEATS


def _alarm(oldest: float | None) -> str:
    if oldest is None or oldest < 10:
        return "good"
    return "odd" if oldest < 60 else "bad"


# ---------------------------------------------------------------------- tasks


async def tasks(desk: Desk, request: Request, caller: Caller) -> Response:
    """The newest that match the filter in the address."""
    wanted = read_filter(request.query_params)
    before = parse_task_id(request.query_params.get("before", ""))
    page, count = await asyncio.gather(
        desk.storage.find_tasks(wanted, page_size=_PAGE, before=before), desk.storage.count_matching(wanted)
    )
    return await shown(
        desk,
        request,
        "tasks.html",
        "/tasks",
        wanted=wanted,
        lines=page.lines,
        complete=page.complete,
        count=count,
        capped=count >= COUNTED,
        looked_at=SEARCHED if wanted.text or wanted.error else SCANNED,
        query=as_query(wanted),
        next=as_query(wanted, before=str(page.next)) if page.next else None,
        first=before is None,
        ages=list(AGES),
        filtered=bool(as_query(wanted)),
    )


async def bulk(desk: Desk, request: Request, caller: Caller) -> Response:
    """Asks whether all that match are really meant."""
    wanted = read_filter(request.query_params)
    action = request.query_params.get("action", "")
    if action not in ("cancel", "retry"):
        raise HTTPException(400, "There are cancel and retry.")
    count = await desk.storage.count_matching(wanted)
    return await shown(
        desk,
        request,
        "bulk.html",
        "/tasks",
        action=action,
        count=count,
        most=MOST_AT_ONCE,
        members=members(wanted),
        query=as_query(wanted),
        live=None,
    )


async def task(desk: Desk, request: Request, caller: Caller) -> Response:
    """All that is known of one."""
    task_id = request.path_params["task_id"]
    line = await desk.storage.task_line(task_id)
    whole, attempts, events, claim, told, workers = await asyncio.gather(
        desk.storage.load_task(line.owner, task_id, history_length=50),
        desk.storage.attempts(task_id),
        _newest_events(desk, line),
        desk.storage.newest_claim(task_id),
        desk.storage.list_deliveries(DeliveryQuery(owner=None, task_id=task_id), page_size=50),
        desk.storage.list_workers(),
    )
    retry_of = parse_task_id(str(whole.metadata.get(RETRY_OF, "")))
    return await shown(
        desk,
        request,
        "task.html",
        "/tasks",
        line=line,
        task=whole,
        attempts=list(reversed(attempts)),
        events=[(event, *dump_body(event.body)) for event in reversed(events)],
        left_out=max(whole.last_seq - len(events), 0),
        progress=_progress(whole, events),
        deliveries=told.deliveries,
        held=claim is not None,
        blocked=[each for each in workers if task_id in each.tasks and each.is_blocked(_silence(desk))],
        retryable=line.state in RETRYABLE,
        first_text=_first_text(whole, line),
        retry_of=retry_of,
        curl=_curl(desk, request, line),
        traces=[(found, desk.settings.ops.trace_link(found)) for found in trace_ids(line.trace_contexts)],
        live=f"/ops/live?task={task_id}",
    )


async def _newest_events(desk: Desk, line: TaskLine) -> Sequence[Event]:
    task = await desk.storage.load_task(line.owner, line.task_id, history_length=0)
    return await desk.storage.events_since(line.owner, line.task_id, max(task.last_seq - _EVENTS, 0), _EVENTS)


def _progress(task: Task, events: Sequence[Event]) -> dict[str, Any] | None:
    """The last word of a turn that runs, and when it came: silence is not death."""
    if task.state is not TaskState.WORKING:
        return None
    for event in reversed(events):
        if isinstance(event.body, StatusChange) and "progress" in event.body.metadata:
            told = event.body.metadata["progress"]
            if isinstance(told, dict) and event.attempt == task.attempt:
                return {"fraction": told.get("fraction"), "note": told.get("note", ""), "time": event.time}
    return None


def _first_text(task: Task, line: TaskLine) -> str:
    first = next((message for message in task.history if message.role == "user"), None)
    return first.text if first else line.text


def _curl(desk: Desk, request: Request, line: TaskLine) -> str:
    """The same message sent again, as a caller would."""
    message = {
        "messageId": "…",
        "role": "ROLE_USER",
        "contextId": line.context_id,
        "parts": [{"text": line.text}],
    }
    body = orjson.dumps({"message": message}).decode()
    url = str(request.base_url.replace(path="/message:send"))
    key = ["-H", "Authorization: Bearer $KEY"] if desk.settings.auth.is_on else []
    words = ["curl", url, "-H", "A2A-Version: 1.0", "-H", "Content-Type: application/json", *key, "-d", body]
    return " ".join(word if word.startswith("-") else shlex.quote(word) for word in words).replace(
        "'Authorization: Bearer $KEY'", '"Authorization: Bearer $KEY"'
    )


# ---------------------------------------------------------------------- conversations


async def conversations(desk: Desk, request: Request, caller: Caller) -> Response:
    """The newest ones, which run and where tasks wait."""
    return await shown(
        desk,
        request,
        "conversations.html",
        "/conversations",
        contexts=await desk.storage.newest_contexts(100),
        searched=SEARCHED,
    )


async def conversation(desk: Desk, request: Request, caller: Caller) -> Response:
    """The tasks of one in their order."""
    asked = request.query_params
    owner, context_id = owner_at(asked.get("agent", ONLY), asked.get("owner", "")), asked.get("context", "")
    lines = await desk.storage.context_line(owner, context_id)
    if not lines:
        raise HTTPException(404, "There is no such conversation.")
    running = next((line for line in lines if line.holder and not line.parallel), None)
    return await shown(
        desk,
        request,
        "conversation.html",
        "/conversations",
        owner=owner,
        context_id=context_id,
        lines=lines,
        running=running,
        waiting=[line for line in lines if line.state is TaskState.SUBMITTED],
    )


# ---------------------------------------------------------------------- failures, workers, audit


async def failures(desk: Desk, request: Request, caller: Caller) -> Response:
    """What went wrong, the same together."""
    groups = await desk.storage.failure_groups()
    return await shown(desk, request, "failures.html", "/failures", groups=groups, counted=COUNTED)


async def workers(desk: Desk, request: Request, caller: Caller) -> Response:
    """Who runs turns."""
    found = by_liveliness(await desk.storage.list_workers(), _silence(desk))
    return await shown(
        desk,
        request,
        "workers.html",
        "/workers",
        workers=[(each, each.silent <= _silence(desk), each.is_blocked(_silence(desk))) for each in found],
        used=sum(each.beat.running for each in found if each.silent <= _silence(desk)),
        slots=sum(each.beat.slots for each in found if each.silent <= _silence(desk)),
    )


async def audit(desk: Desk, request: Request, caller: Caller) -> Response:
    """What was done by hand."""
    before = parse_task_id(request.query_params.get("before", ""))
    actions = await desk.storage.list_actions(limit=_PAGE + 1, before=before)
    return await shown(
        desk,
        request,
        "audit.html",
        "/audit",
        actions=[(each, parse_task_id(each.target)) for each in actions[:_PAGE]],
        next=actions[_PAGE - 1].action_id if len(actions) > _PAGE else None,
    )
