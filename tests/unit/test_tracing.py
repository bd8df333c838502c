"""Tracing is off and costs nothing unless it is asked for; asked for, it never stands in the way."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import cast

import pytest

from perdure import tracing
from perdure.settings import OpsSettings, Settings, hand_on_opentelemetry, load_settings
from perdure.tracing import live as live_tracing
from perdure.tracing.live import Live, Rarely
from tests.support.processes import ROOT, finished, surroundings
from tests.support.traces import OTHER_PARENT, OTHER_TRACE, PARENT, TRACE, tracing_here

ENDPOINT = {"otel_exporter_otlp_endpoint": "http://127.0.0.1:9"}


@pytest.mark.parametrize(
    ("given", "on"),
    [
        ({}, False),
        (ENDPOINT, True),
        ({"otel_exporter_otlp_traces_endpoint": "http://127.0.0.1:9/v1/traces"}, True),
        ({"otel_traces_exporter": "console"}, True),
        ({"otel_traces_exporter": "otlp"}, True),
        ({"otel_traces_exporter": "none", **ENDPOINT}, False),
        ({"otel_sdk_disabled": True, **ENDPOINT}, False),
        ({"otel_service_name": "agent"}, False),
    ],
    ids=str,
)
def test_opentelemetrys_variables_switch_it_on(given: dict[str, object], on: bool) -> None:
    assert Settings.model_validate(given).traces is on


async def test_off_it_imports_nothing() -> None:
    script = (
        "import perdure.launch, sys; assert not any(name.startswith('opentelemetry') for name in sys.modules)"
    )
    ran = finished([sys.executable, "-c", script], cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    async with tracing.exporting(Settings(), service="s", version="1"):
        assert not tracing.is_on()
        with tracing.span("name", "internal", {}) as span:
            span.note({"a": 1})
            span.rename("other")
            span.fail("oops")
            tracing.note({"b": 1})
            tracing.fail("oops")
        assert (span.context, tracing.ids()) == ("", {})


async def test_without_the_extra_a_line_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "perdure.tracing.live", None)
    await begin_and_end(monkeypatch, Settings.model_validate(ENDPOINT))
    said = capsys.readouterr().out
    assert "tracing.off" in said
    assert "pip install 'perdure[otel]'" in said


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"otel_exporter_otlp_protocol": "grpc", **ENDPOINT}, "OTEL_EXPORTER_OTLP_PROTOCOL is grpc"),
        ({"otel_exporter_otlp_traces_protocol": "http/json", **ENDPOINT}, "set http/protobuf"),
        ({"otel_traces_exporter": "zipkin"}, "OTEL_TRACES_EXPORTER is zipkin"),
    ],
    ids=str,
)
async def test_what_cannot_be_exported_is_said_and_nothing_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], given: dict[str, str], says: str
) -> None:
    await begin_and_end(monkeypatch, Settings.model_validate(given))
    assert says in capsys.readouterr().out


async def begin_and_end(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    for name in os.environ:  # what is handed on ends with the test
        if name.startswith("OTEL_"):
            monkeypatch.delenv(name)
    for name in type(settings).model_fields:
        if name.startswith("otel_"):
            monkeypatch.setenv(name.upper(), "")
    async with tracing.exporting(settings, service="s", version="1"):
        assert not tracing.is_on()


async def test_the_doctor_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "hand_on_opentelemetry", lambda settings: None)
    monkeypatch.setitem(sys.modules, "perdure.tracing.live", None)
    said, remedy = await tracing.complaint(Settings.model_validate(ENDPOINT))
    assert "not installed" in said
    assert "pip install 'perdure[otel]'" in remedy


async def test_the_console_takes_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "hand_on_opentelemetry", lambda settings: None)
    assert await tracing.complaint(Settings.model_validate({"otel_traces_exporter": "console"})) == ("", "")


async def test_an_end_waits_for_no_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not longer than its bound, which is as good as none here: the exporter hangs until the test has seen the end."""
    hangs, asked = threading.Event(), threading.Event()

    class Hanging:
        def flush(self) -> None:
            asked.set()
            hangs.wait(50)

    monkeypatch.setattr(tracing, "FLUSH", 0.01)
    monkeypatch.setattr(tracing, "hand_on_opentelemetry", lambda settings: None)
    monkeypatch.setattr(live_tracing, "begin", lambda *_: cast(Live, Hanging()))
    async with tracing.exporting(Settings.model_validate(ENDPOINT), service="s", version="1"):
        assert tracing.is_on()
    assert asked.wait(50)
    assert not tracing.is_on()
    assert not hangs.is_set()
    hangs.set()


def test_a_provider_that_is_there_is_used(tmp_path: Path) -> None:
    """The agent's file may have set one: its spans and ours go the same way."""
    script = """
import asyncio
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from perdure import tracing
from perdure.settings import Settings

mine = InMemorySpanExporter()
provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(mine))
trace.set_tracer_provider(provider)

async def main():
    async with tracing.exporting(Settings(otel_traces_exporter="otlp"), service="s", version="1"):
        with tracing.span("ours", "internal", {}), trace.get_tracer("author").start_as_current_span("theirs"):
            pass

asyncio.run(main())
print([span.name for span in mine.get_finished_spans()])
"""
    ran = finished([sys.executable, "-c", script], cwd=ROOT)
    assert ran.stdout.splitlines()[-1] == "['theirs', 'ours']", ran.stderr


@pytest.mark.parametrize(
    ("given", "service"),
    [
        ({}, "the-agent"),
        ({"OTEL_SERVICE_NAME": "named"}, "named"),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.name=described"}, "described"),
    ],
    ids=str,
)
def test_our_own_provider_serves_the_whole_process(given: dict[str, str], service: str) -> None:
    """The console, since it needs nobody who listens; and what the author instruments goes there, too."""
    script = """
import asyncio
from opentelemetry import trace
from perdure import tracing
from perdure.settings import load_settings

async def main():
    async with tracing.exporting(load_settings(), service="the-agent", version="7"):
        with tracing.span("ours", "internal", {}), trace.get_tracer("author").start_as_current_span("theirs"):
            pass

asyncio.run(main())
"""
    env = surroundings(OTEL_TRACES_EXPORTER="console", **given)
    ran = finished([sys.executable, "-c", script], cwd=ROOT, env=env)
    assert ran.returncode == 0, ran.stderr
    assert '"name": "theirs"' in ran.stdout
    assert f'"service.name": "{service}"' in ran.stdout
    assert '"service.version": "7"' in ran.stdout


def test_a_dotenv_reaches_the_sdk(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The SDK reads the environment alone. What stands there goes before the file."""
    monkeypatch.chdir(tmp_path)
    lines = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://file",
        "OTEL_EXPORTER_OTLP_HEADERS": "key=file",
        "OTEL_TRACES_SAMPLER": "always_off",
        "OTHER": "file",
    }
    Path(".env").write_text("\n".join(f"{name}={value}" for name, value in lines.items()))
    for name in lines:
        monkeypatch.setenv(name, "environment")
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    hand_on_opentelemetry(load_settings())
    assert {name: os.environ.get(name) for name in lines} == {
        **lines,
        "OTEL_TRACES_SAMPLER": "always_on",
        "OTHER": None,
    }


def test_a_context_is_written_as_it_is_read() -> None:
    for context in (PARENT, f"{PARENT} vendor=a,other=b"):
        parent, *state = context.split(" ")
        assert tracing.incoming([parent], state) == [context]
        assert " ".join(tracing.headers(context).values()) == context
        with tracing_here(), tracing.span("name", "server", {}, origins=[context]) as span:
            assert span.context.split(" ")[1:] == state
            assert tracing.trace_ids([span.context]) == [TRACE]
    assert tracing.headers("") == {}


def test_traces_are_told_once_the_newest_first() -> None:
    assert tracing.trace_ids([PARENT, OTHER_PARENT, PARENT]) == [TRACE, OTHER_TRACE]


@pytest.mark.parametrize("url", ["grafana.example.com/{trace_id}", "https://grafana.example.com/trace"])
def test_a_link_to_traces_names_the_trace(url: str) -> None:
    with pytest.raises(ValueError, match="trace_id"):
        OpsSettings(trace_url=url)
    link = OpsSettings(trace_url="https://grafana.example.com/trace/{trace_id}?a={b}").trace_link(TRACE)
    assert link == f"https://grafana.example.com/trace/{TRACE}?a={{b}}"


def test_an_exporter_complains_once_a_minute() -> None:
    rarely = Rarely()

    def said(text: str, time: float) -> bool:
        record = logging.LogRecord("exporter", logging.WARNING, "", 1, text, (), None)
        record.created = time
        return rarely.filter(record)

    assert [said("away", time) for time in (1000.0, 1001.0, 1059.0, 1060.0, 1061.0)] == [
        *(True, False, False, True, False)
    ]
    assert said("full", 1061.0)


def test_an_exception_is_told_by_its_class() -> None:
    with tracing_here() as traces:
        with pytest.raises(KeyError), tracing.span("name", "internal", {}):
            raise KeyError("secret")
        span = traces.one("name")
    assert (span.failed, span.attributes["error.type"]) == (True, "KeyError")
    assert "secret" not in span.whole


def test_the_command_stays_quick() -> None:
    """With traces asked for, too: they are for what serves."""
    env = surroundings(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9")
    ran = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "perdure", "--help"],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "opentelemetry" not in ran.stderr
