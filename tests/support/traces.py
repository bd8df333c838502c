"""What is traced: in memory within a process, and by a collector that speaks OTLP over HTTP for processes of their own."""

from __future__ import annotations

import gzip
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import format_span_id, format_trace_id

from perdure import tracing
from perdure.tracing.live import Live

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
"""A caller's traceparent, with this trace id."""
OTHER_TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
OTHER_PARENT = f"00-{OTHER_TRACE}-00f067aa0ba902b7-01"


@dataclass(frozen=True)
class Told:
    """A span that has ended, as text. `parent` is a span's id or empty; `links` are `trace-span`."""

    name: str
    kind: str
    trace: str
    span: str
    parent: str
    links: Sequence[str]
    attributes: Mapping[str, Any]
    failed: bool
    whole: str = field(repr=False)
    """All there is of it."""


class Traces:
    """What was traced in this process."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False)
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def all(self) -> list[Told]:
        """In the order in which they ended."""
        return [_told(span) for span in self._exporter.get_finished_spans()]

    def named(self, start: str) -> list[Told]:
        """Those whose names begin so."""
        return [span for span in self.all() if span.name.startswith(start)]

    def one(self, start: str) -> Told:
        """The one whose name begins so."""
        (found,) = self.named(start)
        return found


@contextmanager
def tracing_here() -> Iterator[Traces]:
    """Everything is traced while inside."""
    traces = Traces()
    with tracing.using(Live(traces.provider)):
        yield traces


def _told(span: ReadableSpan) -> Told:
    assert span.context is not None
    return Told(
        name=span.name,
        kind=span.kind.name,
        trace=format_trace_id(span.context.trace_id),
        span=format_span_id(span.context.span_id),
        parent=format_span_id(span.parent.span_id) if span.parent else "",
        links=[
            f"{format_trace_id(link.context.trace_id)}-{format_span_id(link.context.span_id)}"
            for link in span.links
        ],
        attributes=dict(span.attributes or {}),
        failed=span.status.status_code.name == "ERROR",
        whole=span.to_json(),
    )


# ---------------------------------------------------------------------- of other processes


class Collector:
    """What processes export to. Answers after `answers` is called, if it was made to wait."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.services: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        """For OTEL_EXPORTER_OTLP_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def named(self, start: str) -> list[Told]:
        """Those whose names begin so."""
        return [span for span in list(self.spans) if span.name.startswith(start)]

    def close(self) -> None:
        """Go away."""
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                assert self.path == "/v1/traces", self.path
                collector._take(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None: ...  # noqa: A002 - its name

        return Handler

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            attributes = {each.key: _value(each.value) for each in resource.resource.attributes}
            self.services.add(str(attributes["service.name"]))
            for scope in resource.scope_spans:
                self.spans += [
                    Told(
                        name=span.name,
                        kind=str(span.kind),
                        trace=span.trace_id.hex(),
                        span=span.span_id.hex(),
                        parent=span.parent_span_id.hex(),
                        links=[f"{link.trace_id.hex()}-{link.span_id.hex()}" for link in span.links],
                        attributes={each.key: _value(each.value) for each in span.attributes},
                        failed=span.status.code == span.status.STATUS_CODE_ERROR,
                        whole=str(span),
                    )
                    for span in scope.spans
                ]


def _value(value: AnyValue) -> Any:
    return getattr(value, str(value.WhichOneof("value")))
