"""What the buttons do. Each answers with the page where its effect is seen."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode
from uuid import UUID

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ..auth import Caller
from .desk import Desk
from .query import as_query, read_filter


async def on_task(desk: Desk, request: Request, caller: Caller) -> Response:
    """Cancel, force-cancel, retry, edit."""
    task_id: UUID = request.path_params["task_id"]
    operator, action = desk.operator(caller, request), request.path_params["action"]
    match action:
        case "cancel":
            await operator.cancel(task_id)
        case "force-cancel":
            await operator.force_cancel(task_id)
        case "retry":
            return _to(f"/ops/tasks/{await operator.retry(task_id)}", done="retry")
        case "edit":
            text = (await _form(request)).get("text", "").replace("\r\n", "\n")
            if not text.strip():
                raise HTTPException(400, "The message is empty.")
            return _to(f"/ops/tasks/{await operator.retry(task_id, text)}", done="retry")
        case _:
            raise HTTPException(404, "There is no such action.")
    return _to(f"/ops/tasks/{task_id}", done=action)


async def on_all(desk: Desk, request: Request, caller: Caller) -> Response:
    """Cancel or retry all that match."""
    form = await _form(request)
    wanted = read_filter({name: value for name, value in form.items() if name != "action"})
    operator = desk.operator(caller, request)
    match form.get("action"):
        case "cancel":
            bulk = await operator.cancel_all(wanted)
        case "retry":
            bulk = await operator.retry_all(wanted)
        case _:
            raise HTTPException(404, "There are cancel and retry.")
    more = {"more": "1"} if bulk.more else {}
    return _to(f"/ops/tasks?{as_query(wanted, done='all', n=str(bulk.done), left=str(bulk.skipped), **more)}")


async def on_delivery(desk: Desk, request: Request, caller: Caller) -> Response:
    """Replay, enable."""
    delivery_id, action = request.path_params["delivery_id"], request.path_params["action"]
    operator = desk.operator(caller, request)
    match action:
        case "replay":
            await operator.replay(delivery_id)
        case "enable":
            await operator.enable(delivery_id)
        case _:
            raise HTTPException(404, "There is no such action.")
    return _to(f"/ops/webhooks/{delivery_id}", done=action)


async def on_worker(desk: Desk, request: Request, caller: Caller) -> Response:
    """Drain, resume."""
    action = request.path_params["action"]
    if action not in ("drain", "resume"):
        raise HTTPException(404, "There is no such action.")
    await desk.operator(caller, request).drain(request.path_params["worker_id"], action == "drain")
    return _to("/ops/workers", done=action)


async def _form(request: Request) -> dict[str, str]:
    try:
        return dict(parse_qsl((await request.body()).decode(), max_num_fields=50))
    except ValueError:
        raise HTTPException(400, "The form cannot be read.") from None


def _to(path: str, **query: str) -> Response:
    """See other (RFC 9110, section 15.4.4): reloading that page does nothing again."""
    return RedirectResponse(path + (f"?{urlencode(query)}" if query else ""), 303)
