"""A TCP proxy in front of a real server: the network, with hands to cut it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Proxy:
    """Forwards what comes to `port`. `cut` closes every connection and refuses new ones, as a server that goes down does.
    `freeze` delivers nothing and says nothing, as a firewall that drops packets does; what is under way arrives when it heals."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._flowing = [self._open]  # the last one is that of new connections
        self._pairs: set[tuple[socket.socket, socket.socket]] = set()
        self._lock = threading.Lock()
        self._accept()

    def url(self, url: str) -> str:
        """The same address by way of the proxy."""
        parts = urlsplit(url)
        return parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{self.port}").geturl()

    def cut(self) -> None:
        """Close everything; refuse what comes."""
        _close(self._listener)
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            _close(*pair)

    def freeze(self) -> None:
        """Let nothing through; nobody is told."""
        self._open.clear()

    def heal(self, *, forgetting: bool = False) -> None:
        """As before; `forgetting` the connections there were, as a firewall does that was started again: they stay silent."""
        if forgetting:
            self._flowing.append(threading.Event())
            self._open = self._flowing[-1]
        self._open.set()
        if self._listener.fileno() == -1:
            self._listener = socket.create_server(("127.0.0.1", self.port))
            self._accept()

    def close(self) -> None:
        """For good."""
        for flowing in self._flowing:
            flowing.set()
        self.cut()

    def _accept(self) -> None:
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def _serve(self, listener: socket.socket) -> None:
        with suppress(OSError):  # it was closed
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._connect, args=(client,), daemon=True).start()

    def _connect(self, client: socket.socket) -> None:
        while not (flowing := self._open).wait(0.02):
            pass
        try:
            server = socket.create_connection(self._target, timeout=5)
        except OSError:
            client.close()
            return
        server.settimeout(None)
        with self._lock:
            self._pairs.add((client, server))
        threading.Thread(target=self._pump, args=(server, client, flowing), daemon=True).start()
        self._pump(client, server, flowing)
        with self._lock:
            self._pairs.discard((client, server))

    def _pump(self, source: socket.socket, sink: socket.socket, flowing: threading.Event) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                flowing.wait()
                sink.sendall(data)
        flowing.wait()  # an end is not seen either
        _close(source, sink)


def _close(*sockets: socket.socket) -> None:
    for each in sockets:
        with suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()


@contextmanager
def proxied(url: str) -> Iterator[Proxy]:
    """A proxy in front of the server at `url`."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    proxy = Proxy(parts.hostname, parts.port)
    try:
        yield proxy
    finally:
        proxy.close()
