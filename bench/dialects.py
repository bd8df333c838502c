"""How A2A is spoken to each server: 1.0 where it is spoken, 0.3 elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_numbers = itertools.count(1)
ENDED = {"completed", "failed", "canceled", "rejected"}


@dataclass(frozen=True)
class Dialect:
    """Method names, the role's and the part's spelling, and how not to wait is asked for."""

    send: str
    get: str
    role: str
    part: Mapping[str, str]
    headers: dict[str, str] = field(default_factory=dict)

    def sending(self, text: str, *, wait: bool) -> dict[str, Any]:
        """The request that sends a message."""
        number = next(_numbers)
        message = {"messageId": f"m{number}", "role": self.role, "parts": [{**self.part, "text": text}]}
        configuration = {"blocking": wait} if self.part else {"returnImmediately": not wait}
        if self.part:
            message["kind"] = "message"
            configuration["acceptedOutputModes"] = ["text/plain"]  # type: ignore[assignment]
        return self._request(self.send, {"message": message, "configuration": configuration})

    def getting(self, task_id: str) -> dict[str, Any]:
        """The request that reads a task."""
        return self._request(self.get, {"id": task_id})

    def _request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"jsonrpc": "2.0", "id": next(_numbers), "method": method, "params": params}


V1 = Dialect("SendMessage", "GetTask", "ROLE_USER", {}, {"A2A-Version": "1.0"})
V03 = Dialect("message/send", "tasks/get", "user", {"kind": "text"})


def task_of(answer: dict[str, Any]) -> tuple[str, str]:
    """A task's id and its state as 0.3 spells it. RuntimeError for an error."""
    result = answer.get("result")
    if not isinstance(result, dict):
        raise RuntimeError(f"the server answered {answer}")
    task = result.get("task", result)
    return task["id"], task["status"]["state"].removeprefix("TASK_STATE_").lower().replace("_", "-")
