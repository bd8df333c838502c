"""One trace from a request to its turns and webhooks; off, and at no cost, unless OpenTelemetry's variables ask for it.

What is off imports nothing: `perdure.tracing.live` alone knows OpenTelemetry. The names of spans and what stands in them are in
`perdure.tracing.spans`. A *trace context* is one text: a `traceparent` and, behind a space, its `tracestate` if there is one
(W3C Trace Context, level 2). It is what a task's row carries from the request to its turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Literal, Protocol

import structlog

from perdure.settings import Settings, hand_on_opentelemetry
from perdure.threads import in_thread

if TYPE_CHECKING:
    from perdure.tracing.live import Live

log = structlog.get_logger(__name__)

Kind = Literal["server", "client", "producer", "consumer", "internal"]
Attributes = Mapping[str, str | int | float | bool]

SEE = "see docs/tracing.md"
FLUSH = 5.0
"""Seconds that a process which ends gives its last spans to be sent."""
LONGEST_PARENT, LONGEST_STATE = 512, 512
"""Characters. A longer traceparent is nobody's; a longer tracestate is dropped, as section 3.3.1.5 allows."""


class Span(Protocol):
    """What is under way."""

    @property
    def context(self) -> str:
        """The trace context of whatever it leads to; empty when nothing is traced."""

    def note(self, attributes: Attributes) -> None:
        """What has been found out about it."""

    def rename(self, name: str) -> None:
        """Its name, now that more is known."""

    def fail(self, error_type: str) -> None:
        """It failed: the kind of error, never its text, which may repeat what was said."""


class _Nothing:
    context = ""

    def note(self, attributes: Attributes) -> None: ...

    def rename(self, name: str) -> None: ...

    def fail(self, error_type: str) -> None: ...


OFF: AbstractContextManager[Span] = nullcontext(_Nothing())
"""What is used while nothing is traced."""
_live: Live | None = None


def is_on() -> bool:
    """Whether anything is traced."""
    return _live is not None


def span(
    name: str, kind: Kind, attributes: Attributes, *, origins: Sequence[str] | None = None
) -> AbstractContextManager[Span]:
    """The current span while inside. `origins` are trace contexts, the newest last: that one is its parent, the others are
    linked; none: a trace begins. Without `origins` it is a child of the current span."""
    return OFF if _live is None else _live.span(name, kind, attributes, origins)


def note(attributes: Attributes) -> None:
    """Of the current span."""
    if _live is not None:
        _live.current().note(attributes)


def fail(error_type: str) -> None:
    """The current span failed."""
    if _live is not None:
        _live.current().fail(error_type)


def ids() -> Mapping[str, str]:
    """`trace_id` and `span_id` of the current span, in hex, for a log line; empty if there is none."""
    return {} if _live is None else _live.ids()


# ---------------------------------------------------------------------- trace contexts


def incoming(traceparents: Sequence[str], tracestates: Iterable[str]) -> list[str]:
    """The trace context of a request, by its headers; none if there is not one `traceparent`, of one word. What is malformed is
    found out, and ignored, when a span is begun with it."""
    found = traceparents[0].strip() if len(traceparents) == 1 else ""
    if not found or len(found) > LONGEST_PARENT or len(found.split()) > 1:
        return []
    state = ",".join(tracestates)
    return [f"{found} {state}" if 0 < len(state) <= LONGEST_STATE else found]


def headers(context: str) -> dict[str, str]:
    """Of a request that belongs to it."""
    traceparent, _, tracestate = context.partition(" ")
    named = {"traceparent": traceparent, "tracestate": tracestate}
    return {name: value for name, value in named.items() if value}


def trace_ids(contexts: Sequence[str]) -> list[str]:
    """Their traces, the newest first, each once."""
    return list(dict.fromkeys(context.split("-", 2)[1] for context in reversed(contexts)))


# ---------------------------------------------------------------------- on and off


@asynccontextmanager
async def exporting(settings: Settings, *, service: str, version: str) -> AsyncIterator[None]:
    """Trace while inside, where the settings ask for it. `service` is the name where OTEL_SERVICE_NAME gives none.

    What is missing is told in one line: no task waits for it. On leaving, the last spans are sent within `FLUSH` seconds.
    """
    live = None if is_on() or not settings.traces else _begun(settings, service, version)
    if live is None:
        yield
        return
    with using(live):
        try:
            yield
        finally:
            await asyncio.wait([in_thread(live.flush, "perdure-traces")], timeout=FLUSH)


@contextmanager
def using(live: Live) -> Iterator[None]:
    """Trace with this while inside."""
    global _live  # noqa: PLW0603 - one for the process, as its log is
    before, _live = _live, live
    try:
        yield
    finally:
        _live = before


def _begun(settings: Settings, service: str, version: str) -> Live | None:
    try:
        live: Live = _live_module(settings).begin(settings, service, version)
        return live
    except _CannotTrace as error:
        log.warning("tracing.off", reason=str(error), remedy=error.remedy)
    except ValueError as error:  # ours, and those of the SDK about its variables
        log.warning("tracing.off", reason=str(error), remedy=SEE)
    return None


async def complaint(settings: Settings) -> tuple[str, str]:
    """What stands in the way of traces that are asked for, tried out, and what to do about it; empty if nothing does."""
    try:
        said = await asyncio.to_thread(_live_module(settings).complaint, settings)
    except _CannotTrace as error:
        return str(error), error.remedy
    except ValueError as error:
        return str(error), SEE
    return (
        said,
        "start the collector, or correct OTEL_EXPORTER_OTLP_ENDPOINT; tasks do not mind" if said else "",
    )


class _CannotTrace(Exception):
    remedy = "pip install 'perdure[otel]', or set OTEL_SDK_DISABLED=true"


def _live_module(settings: Settings) -> ModuleType:
    hand_on_opentelemetry(settings)
    try:
        return import_module("perdure.tracing.live")
    except ImportError:
        missing = "opentelemetry-sdk and opentelemetry-exporter-otlp-proto-http are not installed"
        raise _CannotTrace(missing) from None
