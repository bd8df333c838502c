"""Many streams of one task, read by a process of its own that costs as little as Python can: raw sockets, one selector, one
`recv` an event, nothing parsed but how many events came.

    python -m bench.readers HOST PORT TASK_ID NUMBER EVENTS

It says `subscribed`; then, as soon as another event has reached all of them, a line of JSON: the moments (seconds of the
monotonic clock, which all processes of a machine share) when each stream had it.
"""

from __future__ import annotations

import resource
import selectors
import socket
import sys
import time
from collections.abc import Iterator

import orjson

MARK = b"id: "
"""Once in every event, and nowhere else in what is read here."""


def _request(host: str, port: int, task_id: str) -> bytes:
    body = orjson.dumps({"jsonrpc": "2.0", "id": 1, "method": "SubscribeToTask", "params": {"id": task_id}})
    head = f"POST / HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\nA2A-Version: 1.0\r\n"
    return f"{head}accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


def _subscribed(host: str, port: int, request: bytes) -> socket.socket:
    """A stream, its first event read."""
    made = socket.create_connection((host, port))
    made.sendall(request)
    received = b""
    while not received.endswith(b"\n\n\r\n"):
        more = made.recv(65536)
        if not more:
            raise SystemExit(f"the stream has ended: {received.decode()}")
        received += more
    return made


def _reached(streams: list[socket.socket], events: int) -> Iterator[list[float]]:
    """When each stream had an event, for one event after the other."""
    selector = selectors.DefaultSelector()
    for each in streams:
        selector.register(each, selectors.EVENT_READ, each)
    had = dict.fromkeys(streams, 0)
    moments: list[list[float]] = [[] for _ in range(events)]
    for reached in moments:
        while len(reached) < len(streams):
            for key, _ in selector.select():
                stream: socket.socket = key.data
                data = stream.recv(65536)
                now = time.monotonic()
                if not data:
                    raise SystemExit("a stream has ended")
                for _ in range(data.count(MARK)):
                    moments[had[stream]].append(now)
                    had[stream] += 1
        yield reached


def main(host: str, port: str, task_id: str, number: str, events: str) -> None:
    """See above."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (int(number) + 100,) * 2)
    request = _request(host, int(port), task_id)
    made = [_subscribed(host, int(port), request) for _ in range(int(number))]
    print("subscribed", flush=True)
    for moments in _reached(made, int(events)):
        print(orjson.dumps(moments).decode(), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
