"""What a front door says while it answers a request: who sent it, and which trace it belongs to."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import SecretStr

from perdure.errors import StorageUnavailable
from perdure.settings import AuthSettings
from perdure.storage.memory import MemoryStorage
from tests.api.front import opened_front
from tests.support.logged import logged_as_json
from tests.support.traces import PARENT, TRACE, tracing_here
from tests.worker.conftest import meddled

KEY = "k" * 40


async def test_a_line_of_a_request_says_who_sent_it(capsys: pytest.CaptureFixture[str]) -> None:
    async def away(method: Any, *arguments: Any, **named: Any) -> Any:
        raise StorageUnavailable("it is away")

    storage, auth = meddled(MemoryStorage(), list_tasks=away), AuthSettings(bootstrap_key=SecretStr(KEY))
    with logged_as_json(), tracing_here() as traces:
        async with opened_front(storage=storage, auth=auth) as front:
            headers = {"X-API-Key": KEY, "traceparent": PARENT}
            assert (await front.http.get("/tasks", headers=headers)).status_code == 503
    lines = {line["event"]: line for line in map(json.loads, capsys.readouterr().err.splitlines())}
    line = lines["request.storage_unavailable"]
    assert line["caller"] == "bootstrap"
    request = traces.one("GET /tasks")
    assert (line["trace_id"], line["span_id"]) == (TRACE, request.span)
    assert (request.failed, request.attributes["error.type"]) == (True, "503")
