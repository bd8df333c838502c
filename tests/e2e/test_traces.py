"""Traces of a whole deployment, as a collector gets them over OTLP: one from a request to the webhook, through a crash."""

from __future__ import annotations

import json
import signal
import socket
import sys
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from perdure.tasks import ANONYMOUS
from tests.support.processes import PERDURE, ROOT, Server, finished, heard, started, surroundings
from tests.support.traces import PARENT, TRACE, Collector

from .conftest import AGENTS, Stack, at, until
from .test_webhooks import Aside

SERVER, CLIENT, PRODUCER, CONSUMER = "2", "3", "4", "5"
"""The kinds of spans in OTLP."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    collector = Collector()
    yield collector
    collector.close()


@pytest.fixture
def aside() -> Iterator[Aside]:
    aside = Aside()
    yield aside
    aside.close()


def send(server: Server, text: str, **configuration: Any) -> str:
    """A task of a caller who traces; its id."""
    params = {
        "message": {"messageId": "m", "role": "ROLE_USER", "parts": [{"text": text}]},
        "configuration": {"returnImmediately": True, **configuration},
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "SendMessage", "params": params}
    answer = httpx.post(server.url, json=body, headers={"traceparent": PARENT}, timeout=30)
    return str(answer.json()["result"]["task"]["id"])


def test_one_trace_from_the_caller_to_the_webhook_also_after_a_crash(
    stack: Stack, collector: Collector, aside: Aside
) -> None:
    stack.settings |= {
        "AGENT": str(AGENTS / "pushing.py"),
        "WEBHOOKS__ALLOW": "127.0.0.1/32",
        "WEBHOOKS__INTERVAL": "0.1",
        "WEBHOOKS__TIMEOUT": "1",  # a delivery that dies with its worker is tried again a few seconds after that
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "OPS__TRACE_URL": "https://traces.example.com/{trace_id}",
    }
    server, _ = stack.front_door()
    doomed = stack.worker()
    gate = stack.gate("gate")
    with aside.receiver() as receiver:
        hook = {"taskPushNotificationConfig": {"url": receiver.url}}
        task_id = send(server, str(gate.path), **hook)
        until(lambda: gate.lines == ["begun"])
        doomed.signal(signal.SIGKILL)
        doomed.ended()
        stack.worker()
        until(lambda: gate.lines == ["begun", "begun"])
        gate.open()
        until(lambda: at(server, task_id, "completed"))
        until(
            lambda: any(each.state == "completed" for each in receiver.heard), seconds=40
        )  # the last that is told
        told = [each.headers["traceparent"] for each in receiver.heard]
    until(lambda: told[-1].split("-")[2] in {span.span for span in collector.spans})
    until(lambda: len([span for span in collector.spans if span.trace == TRACE and span.kind != CLIENT]) == 4)
    [request] = [span for span in collector.named("POST /") if span.trace == TRACE]
    [sent], [turn], [agent] = (collector.named(name) for name in ("send", "process", "invoke_agent"))
    assert {span.trace for span in (request, sent, turn, agent)} == {TRACE}
    assert (request.kind, request.parent) == (SERVER, PARENT.split("-")[2])
    assert (sent.kind, sent.parent) == (PRODUCER, request.span)
    assert (turn.kind, turn.parent, turn.attributes["perdure.attempt"]) == (CONSUMER, sent.span, 2)
    assert agent.parent == turn.span
    posts = [span for span in collector.named("POST") if span.kind == CLIENT]
    assert {(span.trace, span.parent) for span in posts} == {(TRACE, sent.span)}
    assert (
        len(posts) >= 4
    )  # submitted again, working, the artifact, completed; others may have gone with the worker
    assert {f"00-{TRACE}-{span.span}-01" for span in posts} <= set(told)
    assert {each[3:35] for each in told} == {TRACE}
    assert collector.services == {"e2e"}
    _operators_find_it(stack, server, task_id)


def _operators_find_it(stack: Stack, server: Server, task_id: str) -> None:
    link = f"https://traces.example.com/{TRACE}"
    assert f'href="{link}"' in httpx.get(f"{server.url}/ops/tasks/{task_id}", timeout=30).text
    env = surroundings(**stack.settings)
    shown = finished([PERDURE, "tasks", "show", task_id], cwd=stack.folder, env=env)
    assert f"trace     {link}\n" in shown.stdout, shown.stderr
    as_json = finished([PERDURE, "tasks", "show", task_id, "--json"], cwd=stack.folder, env=env)
    assert json.loads(as_json.stdout)["traces"] == [{"traceId": TRACE, "url": link}]
    assert json.loads(as_json.stdout)["owner"] == ANONYMOUS


def test_log_lines_of_all_processes_have_the_trace(stack: Stack, collector: Collector) -> None:
    stack.settings["OTEL_EXPORTER_OTLP_ENDPOINT"] = collector.url
    server, _ = stack.front_door()
    worker = stack.worker()
    task_id = send(server, "hello")
    until(lambda: worker.said("turn.settled") > 0)
    lines = [json.loads(line) for line in worker.log if '"turn.' in line]
    assert {(line["trace_id"], line["task_id"]) for line in lines} == {(TRACE, task_id)}


@pytest.mark.parametrize("kind", ["worker", "arq_worker"])
def test_the_last_spans_are_sent_when_a_process_ends(stack: Stack, collector: Collector, kind: str) -> None:
    """They would be sent in ten minutes."""
    stack.settings |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "600000",
    }
    server, front = stack.front_door()
    worker = getattr(stack, kind)()
    task_id = send(server, "hello")
    until(lambda: at(server, task_id, "completed"))
    assert collector.spans == []
    for process in (worker, front):
        process.signal(signal.SIGTERM)
        assert process.ended() == 0
    assert {span.name for span in collector.spans if span.trace == TRACE} == {
        *("POST /", "send e2e", "process e2e", "invoke_agent e2e")
    }


def test_a_collector_that_does_not_answer_holds_nothing_up(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as deaf:  # accepts, and says nothing
        stack.settings |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{deaf.getsockname()[1]}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "OTEL_BSP_MAX_QUEUE_SIZE": "8",  # it overflows
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
        }
        server, front = stack.front_door()
        worker = stack.worker()
        tasks = [send(server, f"hello {number}") for number in range(20)]
        for task_id in tasks:
            until(lambda task_id=task_id: at(server, task_id, "completed"))  # type: ignore[misc]
        assert stack.rows("SELECT FROM tasks WHERE attempt > 1 OR failures > 0") == []
        for process in (worker, front):
            process.signal(signal.SIGTERM)
        assert [process.ended() for process in (worker, front)] == [0, 0]


def test_without_the_extra_a_line_says_so_and_all_else_works(stack: Stack) -> None:
    """As where only the base package is installed: OpenTelemetry cannot be imported."""
    hidden = stack.folder / "hidden" / "opentelemetry"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not installed')\n")
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); from perdure.cli import main; main()"
    command = [sys.executable, "-c", code, str(hidden.parent), "serve", "--port", "0"]
    env = surroundings(
        **{**stack.settings, "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "QUEUE_TYPE": "inline"},
        PYTHONPATH=str(ROOT),
    )
    with started(command, cwd=stack.folder, env=env) as process:
        assert "pip install 'perdure[otel]'" in heard(process, "tracing.off")["remedy"]
        server = Server(process, heard(process, "serving")["url"])
        assert server.send("hello")["status"]["state"] == "completed"
        assert server.stop() == 0
        server.close()
