"""One request to somebody else's server, to the very address that was checked.

The name is resolved, each of its addresses is checked, and one of the checked ones is connected to: in one place, below the
HTTP client, so that nothing resolves the name a second time. TLS and the Host header have the name. A connection serves one
request, so that every attempt is checked. Redirects are never followed, an answer is read up to a limit.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import unquote, urlsplit

import httpcore

from perdure.security.egress import Address, Egress, Refused, Target

Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

_RESOLVERS = 32
_MOST_ADDRESSES = 4


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said: its `body` up to the limit."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class NoAnswer(Exception):
    """There was none; why, for the log."""


class Client:
    """Posts to webhooks. `resolve` is for tests that rebind names."""

    def __init__(
        self,
        egress: Egress,
        *,
        timeout: float,
        max_answer_bytes: int,
        proxy: str | None = None,
        resolve: Resolve | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._egress = egress
        self._timeout = timeout
        self._max_answer_bytes = max_answer_bytes
        self._proxy = proxy
        self._names = ThreadPoolExecutor(_RESOLVERS, thread_name_prefix="resolve")
        self._resolve = resolve or self._look_up
        self._tls = tls or ssl.create_default_context()

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """`Refused` for an address that may not be asked, `NoAnswer` for everything that can go wrong on the way."""
        target = self._egress.check_url(url)
        asked = httpcore.URL(
            scheme=target.scheme, host=target.host, port=target.port, target=target.path.encode()
        )
        sent = [("Host", target.origin.removeprefix(f"{target.scheme}://")), *headers.items()]
        try:
            async with asyncio.timeout(self._timeout):
                if self._proxy is not None:
                    await self._foresee(target)
                async with (
                    self._connections() as pool,
                    pool.stream("POST", asked, headers=sent, content=body) as got,
                ):
                    return Answer(got.status, _headers(got.headers), await self._head(got))
        except TimeoutError:
            raise NoAnswer(f"no answer within {self._timeout:g} s") from None
        except (
            httpcore.NetworkError,
            httpcore.ProtocolError,
            httpcore.TimeoutException,
            httpcore.ProxyError,
        ) as error:
            raise NoAnswer(f"{type(error).__name__}: {error}") from error
        except OSError as error:
            raise NoAnswer(str(error)) from error

    async def _head(self, answer: httpcore.Response) -> bytes:
        """Its beginning; what the server sends beyond it, or how it ends, changes nothing."""
        body = b""
        try:
            async for piece in answer.aiter_stream():
                body += piece
                if len(body) >= self._max_answer_bytes:
                    break
        except (httpcore.NetworkError, httpcore.ProtocolError):
            pass
        return body[: self._max_answer_bytes]

    @asynccontextmanager
    async def _connections(self) -> AsyncIterator[httpcore.AsyncConnectionPool]:
        options: dict[str, Any] = {
            "ssl_context": self._tls,
            "max_connections": 1,
            "max_keepalive_connections": 0,
            "network_backend": _Checked(self),
        }
        if self._proxy is None:
            async with httpcore.AsyncConnectionPool(**options) as pool:
                yield pool
            return
        options["network_backend"] = httpcore.AnyIOBackend()  # the operator's own, wherever it is
        proxy = urlsplit(self._proxy)
        options["proxy_auth"] = (
            (unquote(proxy.username or ""), unquote(proxy.password or "")) if proxy.username else None
        )
        address = proxy._replace(netloc=proxy.netloc.rpartition("@")[2]).geturl()
        async with httpcore.AsyncHTTPProxy(address, **options) as pool:
            yield pool

    async def _addresses(self, host: str, port: int) -> Sequence[Address]:
        """What a host resolves to, each of them checked: one that is refused among them is enough."""
        found = await self._resolve(host, port)
        for address in found:
            self._egress.check_address(host, address)
        if not found:
            raise OSError(f"{host} has no address")
        return found

    async def _foresee(self, target: Target) -> None:
        """A proxy resolves the name itself, and is there to judge what it finds. What we find is judged as well, if we find
        any: in many networks only the proxy can."""
        try:
            await self._addresses(target.host, target.port)
        except OSError:
            return

    async def _look_up(self, host: str, port: int) -> Sequence[Address]:
        """In threads of its own: names whose servers do not answer keep nobody else's waiting."""

        def ask() -> list[Address]:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            return list(dict.fromkeys(ip_address(str(entry[4][0])) for entry in found))

        return await asyncio.get_running_loop().run_in_executor(self._names, ask)

    def close(self) -> None:
        """Let go of the threads; nothing is waited for."""
        self._names.shutdown(wait=False, cancel_futures=True)


class _Checked(httpcore.AnyIOBackend):
    """Connects to a checked address of a host."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        addresses = await self._client._addresses(host, port)
        for address in addresses[: _MOST_ADDRESSES - 1]:
            if address is addresses[-1]:
                break
            try:
                return await super().connect_tcp(str(address), port, timeout)
            except httpcore.ConnectError:
                continue
        return await super().connect_tcp(str(addresses[-1]), port, timeout)


def _headers(raw: Sequence[tuple[bytes, bytes]]) -> Mapping[str, str]:
    return {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in raw}


__all__ = ["Answer", "Client", "NoAnswer", "Refused"]
