"""Mutual TLS that ends at a proxy: the proxy checks the client's certificate and names it in a header.

The header is worth as much as the connection that it came over: it counts only from the addresses of the settings, judged by the
connection itself and not by `X-Forwarded-For`, which anybody can write.
"""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

import structlog
from starlette.requests import Request

from perdure.settings import AuthSettings, networks_in, scopes_in
from perdure.stored.storable import unstorable

from . import Caller, known
from .credentials import Refused

log = structlog.get_logger(__name__)

LONGEST_NAME = 512
"""Characters of the name in a certificate."""


class Proxies:
    """The proxies whose word counts."""

    def __init__(self, settings: AuthSettings) -> None:
        self._networks = networks_in(settings.proxy_addresses)
        self._header = settings.proxy_header
        self._scopes = scopes_in(settings.proxy_scopes)

    def caller(self, request: Request) -> Caller | None:
        """Whom a proxy vouches for: None when nobody does, or somebody who may not. `Refused` for a name that is none."""
        names = [name.strip() for name in request.headers.getlist(self._header)]
        if not any(names) or not self._trusts(request):
            return None
        if len(names) != 1 or len(names[0]) > LONGEST_NAME or unstorable(names[0]):
            raise Refused("a proxy's header that names no one client", error="")
        return known(f"mtls|{names[0]}", self._scopes)

    def _trusts(self, request: Request) -> bool:
        try:
            peer = ip_address(request.client.host if request.client else "")
        except ValueError:  # a socket of this machine has no address
            return False
        if isinstance(peer, IPv6Address) and peer.ipv4_mapped:
            peer = peer.ipv4_mapped
        return any(peer in network for network in self._networks)
