"""Tracing with OpenTelemetry: the only module that imports it. SDK and exporter read OpenTelemetry's own variables themselves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExportResult,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from perdure import __version__
from perdure.settings import Settings, listed
from perdure.tracing import LONGEST_STATE, Attributes, Kind, Span, headers

_W3C = TraceContextTextMapPropagator()
"""Not what OTEL_PROPAGATORS names: in a task's row is the one form that any version of ours can read."""
_TALKATIVE = ("opentelemetry.exporter.otlp.proto.http.trace_exporter", "opentelemetry.sdk._shared_internal")
"""They log each of their tries, and what is dropped meanwhile."""
_PATIENCE = 3.0
"""Seconds that a collector is given when somebody waits for it."""
_EVERY = 60.0
"""Seconds between two lines of theirs that say the same."""


def begin(settings: Settings, service: str, version: str) -> Live:
    """Trace with the provider that the agent's file or `opentelemetry-instrument` has set, else with one of our own, which is set
    for whatever else in this process is instrumented. ValueError for what cannot be exported."""
    provider = trace.get_tracer_provider()
    if isinstance(provider, trace.ProxyTracerProvider):  # nobody has set one
        provider = _provider(settings, service, version)
        trace.set_tracer_provider(provider)
        for name in _TALKATIVE:
            logging.getLogger(name).addFilter(Rarely())
    return Live(provider)


def _provider(settings: Settings, service: str, version: str) -> TracerProvider:
    exporters = _exporters(settings)
    ours = {"service.name": service, "service.version": version, "service.instance.id": str(uuid4())}
    resource = Resource.create(ours).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)  # that would wait half a minute
    for exporter in exporters:
        provider.add_span_processor(_processor(exporter))
    return provider


def _exporters(settings: Settings) -> list[str]:
    """Those that are asked for. ValueError for one that there is not."""
    named = listed(settings.otel_traces_exporter or "otlp")
    protocol = settings.otel_exporter_otlp_traces_protocol or settings.otel_exporter_otlp_protocol
    if unknown := [name for name in named if name not in ("otlp", "console")]:
        raise ValueError(f"OTEL_TRACES_EXPORTER is {unknown[0]}: there are otlp, console and none")
    if "otlp" in named and protocol not in (None, "http/protobuf"):
        raise ValueError(
            f"OTEL_EXPORTER_OTLP_PROTOCOL is {protocol}: set http/protobuf, and the port that goes with it"
        )
    return named


def _processor(exporter: str) -> SpanProcessor:
    if exporter == "console":
        return SimpleSpanProcessor(ConsoleSpanExporter())
    return BatchSpanProcessor(OTLPSpanExporter())


def complaint(settings: Settings) -> str:
    """Why the collector takes no spans, in the words of the exporter, to which it sends none; empty if it does. ValueError for
    what cannot be exported."""
    if "otlp" not in _exporters(settings):
        return ""
    said: list[str] = []

    def listen(record: logging.LogRecord) -> bool:
        said.append(record.getMessage())
        return False

    logger = logging.getLogger(_TALKATIVE[0])
    logger.addFilter(listen)
    exporter = OTLPSpanExporter(timeout=_PATIENCE)
    try:
        result = exporter.export([])
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
        logger.removeFilter(listen)
    return "" if result is SpanExportResult.SUCCESS else (said or ["it takes no spans"])[0]


class Rarely(logging.Filter):
    """Lets a line pass once a minute, whatever its details."""

    def __init__(self) -> None:
        super().__init__()
        self._next: dict[object, float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is said."""
        said = record.created < self._next.get(record.msg, 0.0)
        if not said:
            self._next[record.msg] = record.created + _EVERY
        return not said


class Live:
    """Traces with a provider."""

    def __init__(self, provider: trace.TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("perdure", __version__)

    @contextmanager
    def span(
        self, name: str, kind: Kind, attributes: Attributes, origins: Sequence[str] | None
    ) -> Iterator[Span]:
        """See `perdure.tracing.span`."""
        begun = self._tracer.start_span(
            name,
            None if origins is None else _context_of(origins[-1] if origins else ""),
            trace.SpanKind[kind.upper()],
            dict(attributes),
            [trace.Link(found) for origin in (origins or ())[:-1] if (found := _read(origin)).is_valid],
        )
        span = _Span(begun)
        with trace.use_span(begun, end_on_exit=True, record_exception=False, set_status_on_exception=False):
            try:
                yield span
            except asyncio.CancelledError:  # somebody's wish, and no error
                span.note({"perdure.canceled": True})
                raise
            except BaseException as error:
                span.fail(type(error).__qualname__)
                raise

    def current(self) -> _Span:
        """The one that we are in."""
        return _Span(trace.get_current_span())

    def ids(self) -> Mapping[str, str]:
        """See `perdure.tracing.ids`."""
        found = trace.get_current_span().get_span_context()
        if not found.is_valid:
            return {}
        return {
            "trace_id": trace.format_trace_id(found.trace_id),
            "span_id": trace.format_span_id(found.span_id),
        }

    def flush(self) -> None:
        """Send what has not been sent. Waits for it; a process that is in a hurry lets another thread call this."""
        if isinstance(self._provider, TracerProvider):  # others may have no such method
            self._provider.force_flush()


class _Span:
    def __init__(self, span: trace.Span) -> None:
        self._span = span

    @property
    def context(self) -> str:
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(self._span, Context()))
        written = f"{carrier.get('traceparent', '')} {carrier.get('tracestate', '')}".strip()
        return written if len(written) <= LONGEST_STATE else carrier["traceparent"]

    def note(self, attributes: Attributes) -> None:
        self._span.set_attributes(dict(attributes))

    def rename(self, name: str) -> None:
        self._span.update_name(name)

    def fail(self, error_type: str) -> None:
        self._span.set_attribute("error.type", error_type)
        self._span.set_status(trace.StatusCode.ERROR)


def _context_of(origin: str) -> Context:
    return _W3C.extract(headers(origin), Context())


def _read(origin: str) -> trace.SpanContext:
    return trace.get_current_span(_context_of(origin)).get_span_context()
