"""What the processes of a deployment say of their work: whose it is on every line, and nothing of what was said."""

from __future__ import annotations

import base64
import json
import signal
import socket
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.support.receiver import Receiver, status

from .conftest import AGENTS, Process, Stack, until
from .test_webhooks import Aside

MARK = "do-not-tell-5e1f"
KEY = f"{MARK}-{'k' * 40}"
VERBS = ("echo", "fail", "retry", "reject", "give-up", "ask", "unstorable")


@pytest.fixture
def aside() -> Iterator[Aside]:
    aside = Aside()
    yield aside
    aside.close()


def closed_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


class Caller:
    """Somebody whose every word is secret."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=url, headers={"X-API-Key": KEY}, timeout=30)

    def close(self) -> None:
        self._http.close()

    def call(self, method: str, params: Any, **headers: str) -> Any:
        request = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return self._http.post("/", json=request, headers=names).json()

    def send(self, verb: str, hook: str, **headers: str) -> str:
        """Text, data, a file and metadata, with a webhook."""
        raw = base64.b64encode(MARK.encode()).decode()
        parts = [
            {"text": f"{verb} {MARK}", "metadata": {"part": MARK}},
            {"data": {MARK: MARK}},
            {"raw": raw, "filename": MARK, "mediaType": "text/plain"},
        ]
        params = {
            "message": {
                "messageId": f"{MARK}-{verb}",
                "role": "ROLE_USER",
                "parts": parts,
                "metadata": {"m": MARK},
            },
            "metadata": {"request": MARK},
            "configuration": {
                "taskPushNotificationConfig": {
                    "url": hook,
                    "token": MARK,
                    "authentication": {"scheme": "Bearer", "credentials": MARK},
                },
            },
        }
        return str(self.call("SendMessage", params, **headers)["result"]["task"]["status"]["state"])

    def blunders(self) -> None:
        """All that can be wrong with a request."""
        self.call(MARK, {})
        self.call("GetTask", {"id": MARK})
        self.call("ListTasks", {"pageToken": MARK, "contextId": MARK})
        self.call("SendMessage", {"message": {"parts": [{MARK: MARK}]}})
        self.call("SendMessage", {"message": MARK}, traceparent=MARK, tracestate=MARK)
        hook = {"url": f"https://10.0.0.1/{MARK}", "token": MARK}
        message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": MARK}]}
        asked = {"message": message, "configuration": {"taskPushNotificationConfig": hook}}
        assert "error" in self.call("SendMessage", asked)
        for words in (MARK, f"other {MARK}"):
            message = {"messageId": "1", "role": "ROLE_USER", "parts": [{"text": words}]}
            self.call("SendMessage", {"message": message}, Idempotency_Key=MARK)
        self._http.post("/", content=f'{{"{MARK}', headers={"Content-Type": "application/json"})
        self._http.get(f"/tasks/{MARK}", params={"q": MARK})
        self._http.get(f"/{MARK}")
        self._http.get("/tasks", headers={"X-API-Key": f"wrong {MARK}"})
        self._http.get("/tasks", headers={"X-API-Key": "", "Authorization": f"Bearer {MARK}.{MARK}.{MARK}"})


def lines(processes: list[Process]) -> list[dict[str, Any]]:
    return [json.loads(line) for process in processes for line in process.log if line.startswith("{")]


@pytest.mark.timeout(150)
def test_no_line_repeats_what_was_said(stack: Stack, aside: Aside) -> None:
    """In text, metadata or a file, by an error of a handler or of a receiver, in a webhook's address or secret, in a key."""
    with aside.receiver(status(500, MARK), status(302, MARK, Location=f"/{MARK}")) as receiver:
        _set_up(stack, receiver)
        server, front = stack.front_door()
        processes = [front, stack.worker(), stack.arq_worker()]
        caller = Caller(server.url)
        hooks = (f"{receiver.url}/{MARK}?key={MARK}", f"http://127.0.0.1:{closed_port()}/{MARK}")
        ends = {(verb, caller.send(verb, hook)) for verb in VERBS for hook in hooks}
        caller.blunders()
        caller.close()
        told = ("turn.retry", "handler.failed", "delivery.attempted", "turn.settled", "auth.refused")
        for event in told:
            until(lambda event=event: any(process.said(event) for process in processes))  # type: ignore[misc]
        until(lambda: any(line.get("status") == 500 for line in lines(processes)))
        until(lambda: any(line.get("error") for line in lines(processes)))
        for process in processes:
            process.signal(signal.SIGTERM)
        assert [process.ended() for process in processes] == [0, 0, 0]
    assert {end for _, end in ends} >= {"TASK_STATE_COMPLETED", "TASK_STATE_FAILED", "TASK_STATE_REJECTED"}
    assert [line for process in processes for line in process.log if MARK in line] == []


def _set_up(stack: Stack, receiver: Receiver) -> None:
    stack.settings |= {
        "AGENT": str(AGENTS / "leaky.py"),
        "AUTH__BOOTSTRAP_KEY": KEY,
        "WEBHOOKS__ALLOW": "127.0.0.1/32",
        "WEBHOOKS__HTTP": "true",
        "WEBHOOKS__INTERVAL": "0.1",
        "WEBHOOK_URL": f"{receiver.url}/{MARK}",
        "WEBHOOK_TOKEN": MARK,
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{closed_port()}",
        "OTEL_EXPORTER_OTLP_HEADERS": f"authorization={MARK}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "TURNS__RETRY_BASE": "0.01",
    }


def test_every_line_of_a_turn_says_whose_it_is(stack: Stack) -> None:
    stack.settings["AGENT"] = str(AGENTS / "leaky.py")
    server, _ = stack.front_door()
    worker = stack.worker()
    task = server.send("fail")
    until(lambda: worker.said("turn.settled") > 0)
    told = [line for line in lines([worker]) if line["event"].startswith(("turn.", "handler."))]
    assert [line["event"] for line in told] == ["turn.started", "handler.failed", "turn.settled"]
    assert told[-1]["seconds"] >= 0
    for line in told:
        assert line["task_id"] == task["id"]
        assert line["context_id"] == task["contextId"]
        assert (line["attempt"], line["caller"]) == (1, "anonymous")
        assert line["worker"]


def test_a_handlers_error_is_in_the_log_for_who_asks_for_it(stack: Stack) -> None:
    stack.settings |= {"AGENT": str(AGENTS / "leaky.py"), "LOG__CONTENTS": "shown"}
    server, _ = stack.front_door()
    worker = stack.worker()
    server.send(f"fail {MARK}")
    until(lambda: any(f"ValueError: {MARK}" in line for line in worker.log))
