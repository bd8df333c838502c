"""Clients that send a message each and follow its stream to the end, in a process of their own that costs as little as Python
can: raw sockets, one selector, nothing parsed but how many events came, and what the clock was when each token was emitted.

    python -m bench.followers HOST PORT NUMBER TEXT

A line of JSON at the end: see `Followed`.
"""

from __future__ import annotations

import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field

import orjson

MARK = b"id: "
"""Once in every event, and nowhere else in what is read here."""
_TOKEN = re.compile(rb"<(\d+)>")
_END = b"0\r\n\r\n"
"""Of a body in chunks."""


@dataclass
class Followed:
    """What the clients saw: events, tokens, seconds until the last of them had its end, and of each token the milliseconds from
    its emission to its arrival."""

    events: int = 0
    tokens: int = 0
    seconds: float = 0.0
    milliseconds: list[float] = field(default_factory=list)


def _request(host: str, port: int, text: str, number: int) -> bytes:
    message = {"messageId": f"m{number}", "role": "ROLE_USER", "parts": [{"text": text}]}
    call = {"jsonrpc": "2.0", "id": 1, "method": "SendStreamingMessage", "params": {"message": message}}
    body = orjson.dumps(call)
    head = f"POST / HTTP/1.1\r\nhost: {host}:{port}\r\ncontent-type: application/json\r\nA2A-Version: 1.0\r\n"
    return f"{head}accept: text/event-stream\r\ncontent-length: {len(body)}\r\n\r\n".encode() + body


class Follower:
    """One of them."""

    def __init__(self, made: socket.socket) -> None:
        self._made, self._rest, self._last = made, b"", b""

    def read(self, found: Followed) -> bool:
        """Count what has come. False at the end. SystemExit where there is none."""
        data = self._made.recv(1 << 18)
        now = time.monotonic_ns()
        if not data:
            raise SystemExit(f"a stream has ended after {self._last!r}")
        self._last = (self._last + data)[-len(_END) :]
        data = self._rest + data
        # A read may end in the middle of a mark or a token.
        whole = max(data.rfind(b">"), data.rfind(b"\n")) + 1
        data, self._rest = data[:whole], data[whole:]
        found.events += data.count(MARK)
        for emitted in _TOKEN.findall(data):
            found.tokens += 1
            found.milliseconds.append((now - int(emitted)) / 1e6)
        return self._last != _END


def followed(host: str, port: int, number: int, text: str) -> Followed:
    """So many clients at once."""
    found, selector = Followed(), selectors.DefaultSelector()
    made = [socket.create_connection((host, port)) for _ in range(number)]
    begin = time.monotonic()
    for place, each in enumerate(made):
        each.sendall(_request(host, port, text, place))
        selector.register(each, selectors.EVENT_READ, Follower(each))
    while selector.get_map():
        for key, _ in selector.select():
            if not key.data.read(found):
                selector.unregister(key.fileobj)
    found.seconds = time.monotonic() - begin
    return found


if __name__ == "__main__":
    _, host, port, number, text = sys.argv
    print(orjson.dumps(asdict(followed(host, int(port), int(number), text))).decode())
