"""Writing answers: what both versions share, and the results of our own operations."""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections.abc import Callable

from perdure.security.egress import MASKED
from perdure.storage import Context, ContextPage, Cursor, Feedback, TaskPage
from perdure.tasks import Message, Task
from perdure.telling import Json, given, timestamp


def write_token(cursor: Cursor | None) -> str:
    """The place after a page; "" after the last one."""
    if cursor is None:
        return ""
    return urlsafe_b64encode(f"{cursor.time.isoformat()} {cursor.key}".encode()).decode().rstrip("=")


def only_origin(url: str) -> str:
    """A webhook's address as it is shown: what stands behind its host may be a key."""
    scheme, _, rest = url.partition("://")
    host = re.split("[/?#]", rest, maxsplit=1)[0]
    return url if rest.removeprefix(host) in ("", "/") else f"{scheme}://{host}{MASKED}"


def task_page(page: TaskPage, write: Callable[[Task], Json]) -> Json:
    """A ListTasksResponse: all four members, always."""
    return {
        "tasks": [write(task) for task in page.tasks],
        "nextPageToken": write_token(page.next),
        "pageSize": len(page.tasks),
        "totalSize": page.total,
    }


def context_page(page: ContextPage) -> Json:
    """The result of `contexts/list`."""
    return {
        "contexts": [_context(context) for context in page.contexts],
        "nextPageToken": write_token(page.next),
        "pageSize": len(page.contexts),
    }


def context(found: Context, write: Callable[[Message], Json]) -> Json:
    """The result of `contexts/get`: the conversation, oldest first."""
    return {
        **_context(found),
        "taskIds": [str(task_id) for task_id in found.task_ids],
        "messages": [write(message) for message in found.messages],
    }


def _context(found: Context) -> Json:
    return {
        "contextId": found.context_id,
        "createdAt": timestamp(found.created_at),
        "updatedAt": timestamp(found.updated_at),
        **given(metadata=dict(found.metadata)),
    }


def cleared(context_id: str, tasks: int) -> Json:
    """The result of `contexts/clear`."""
    return {"contextId": context_id, "tasksDeleted": tasks}


def feedback(stored: Feedback) -> Json:
    """The result of `tasks/feedback`."""
    return {
        "feedbackId": str(stored.feedback_id),
        "taskId": str(stored.task_id),
        "feedback": stored.text,
        "createdAt": timestamp(stored.created_at),
        **given(rating=stored.rating, metadata=dict(stored.metadata)),
    }


def error_details(reason: str, field: str | None, description: str) -> list[Json]:
    """The details of an error as 1.0 wants them (sections 9.5 and 11.6): an ErrorInfo, and a BadRequest if a field is wrong."""
    info: Json = {
        "@type": "type.googleapis.com/google.rpc.ErrorInfo",
        "reason": reason,
        "domain": "a2a-protocol.org",
        "metadata": {},
    }
    if field is None:
        return [info]
    violation = {"field": field, "description": description}
    return [info, {"@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [violation]}]
