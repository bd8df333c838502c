"""A worker's own port, if WORKER__HEALTH_PORT gives it one: /healthz, /readyz and /metrics for probes and Prometheus.

Served from threads: it answers while a handler blocks the event loop, and can say so.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import orjson

from perdure import metrics
from perdure.errors import ConfigError

from .pulse import WORTH_A_WARNING
from .slots import AnySlots

_JSON = "application/json"


@contextmanager
def health_port(slots: AnySlots, host: str, port: int | None) -> Iterator[int | None]:
    """Answer while inside; on which port (0 asks for a free one), None without. ConfigError when the port is taken."""
    if port is None:
        yield None
        return
    try:
        server = _Server((host, port), _handler(slots))
    except OSError as error:
        raise ConfigError(f"WORKER__HEALTH_PORT: cannot listen on {host}:{port}: {error.strerror}") from None
    thread = threading.Thread(target=server.serve_forever, name="perdure-health", daemon=True)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True


def _handler(slots: AnySlots) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            status, media_type, body = _answer(slots, self.path.partition("?")[0])
            self.send_response(status)
            self.send_header("Content-Type", media_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
            """Probes come every few seconds."""

    return Handler


def _answer(slots: AnySlots, path: str) -> tuple[int, str, bytes]:
    match path:
        case "/healthz":
            return _health(slots)
        case "/readyz":
            return _readiness(slots)
        case "/metrics":
            metrics.SLOTS.set(slots.capacity)
            metrics.DRAINING.set(slots.stopping or slots.worker.duty.draining)
            return 200, metrics.CONTENT_TYPE, metrics.exposed()
    return 404, _JSON, b'{"error":"there are /healthz, /readyz and /metrics"}'


def _health(slots: AnySlots) -> tuple[int, str, bytes]:
    """Always 200: a loop that hangs ends its process by itself, once no turn of it can end any more (`worker.pulse`)."""
    return 200, _JSON, orjson.dumps({"status": "ok", "loop_lag": round(slots.worker.duty.loop_lag, 3)})


def _readiness(slots: AnySlots) -> tuple[int, str, bytes]:
    """503 while it can begin no turn. Without Redis it claims straight from Postgres: 200, degraded."""
    duty, reasons, degraded = slots.worker.duty, [], []
    if slots.stopping or duty.draining:
        reasons.append("it drains: it begins no more turns")
    if not duty.storage_answers:
        reasons.append("the task store cannot be reached")
    if slots.worker.watch.degraded:
        degraded.append("the queue cannot be reached: turns are claimed from the task store")
    if duty.loop_lag >= WORTH_A_WARNING:
        degraded.append(f"a handler blocks the event loop: {duty.loop_lag:.1f} s")
    status = "unavailable" if reasons else "degraded" if degraded else "ready"
    body = orjson.dumps({"status": status, "reasons": [*reasons, *degraded]})
    return (503 if reasons else 200), _JSON, body
