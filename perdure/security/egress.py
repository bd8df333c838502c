"""Where this server may connect to on behalf of a caller: the public internet, by https, and nothing else.

A webhook's address is a caller's text, and the server stands inside a network that the caller cannot reach. So an address is
read by rules of our own, stricter than those of any URL parser (what one reads differently from the next is refused), and
whoever connects asks `Egress.check_address` for the very address that he connects to, each time: a name may resolve to
something else a moment later.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

MASKED = "/***"
"""What an address is shown with in place of its path and its query."""
_DEFAULT_PORTS = {"http": 80, "https": 443}
_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<authority>[^/?#]*)(?P<target>[^#]*)(?:#.*)?")
_PRINTABLE = re.compile(r"[\x21-\x7e]*")
_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>[0-9]{1,5}))?")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9A-Fa-f]*")
_LOCAL_NAMES = (
    "localhost",
    "local",
    "internal",
    "localdomain",
    "home.arpa",
    "lan",
    "intranet",
    "corp",
    "home",
)

_V6_UNICAST = ip_network("2000::/3")
"""All that is given out of IPv6 so far: mapped, NAT64, unique-local, link-local, site-local and multicast forms lie outside."""
_SPECIAL = tuple(
    ip_network(text)
    for text in (
        # IANA's special-purpose registries, and what they do not call by its name.
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",  # shared by customers of a carrier; also Alibaba's metadata
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local; metadata services
        "172.16.0.0/12",
        "192.0.0.0/24",  # also Oracle's metadata
        "192.0.2.0/24",
        "192.31.196.0/24",
        "192.52.193.0/24",
        "192.88.99.0/24",  # relays of 6to4
        "192.168.0.0/16",
        "192.175.48.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "168.63.129.16/32",  # Azure's, public by its number alone
        "2001::/23",  # Teredo, ORCHID, benchmarking
        "2001:db8::/32",
        "2002::/16",  # 6to4: an IPv4 address inside
        "2620:4f:8000::/48",
        "3ffe::/16",
        "3fff::/20",
    )
)


class Refused(Exception):
    """This server does not connect there. The text is for whoever gave the address, and begins with a verb."""


@dataclass(frozen=True, slots=True)
class Target:
    """A URL that may be asked, as it was read: `host` in lower case without a trailing dot, `path` with its query."""

    scheme: str
    host: str
    port: int
    path: str

    @property
    def origin(self) -> str:
        """`https://host:port`, for counting what goes there."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Egress:
    """What may be asked. What `hosts` and `networks` name is asked whatever it is, on any port and over http: for development."""

    ports: frozenset[int] = frozenset({443, 8443})
    http: bool = False
    hosts: frozenset[str] = frozenset()
    networks: tuple[Network, ...] = ()

    def check_url(self, url: str) -> Target:
        """What can be known from the text alone. `Refused`."""
        target = read_url(url)
        if target.path == MASKED:
            raise Refused(f"must be the whole address: {MASKED} is how this server shows it")
        literal = _literal(target.host)
        if target.host in self.hosts or (literal is not None and self._allowed(literal)):
            return target
        if target.scheme != "https" and not self.http:
            raise Refused("must begin with https://")
        if target.port not in self.ports:
            raise Refused(f"must use one of the ports {', '.join(map(str, sorted(self.ports)))}")
        if literal is not None:
            self.check_address(target.host, literal)
        elif target.host.endswith(tuple(f".{name}" for name in _LOCAL_NAMES)) or "." not in target.host:
            raise Refused("must name a host of the public internet")
        return target

    def check_address(self, host: str, address: Address) -> None:
        """Whether `address`, to which `host` resolved just now, may be connected to. `Refused`."""
        if host not in self.hosts and not self._allowed(address) and not is_public(address):
            raise Refused("must name a host with a public address")

    def _allowed(self, address: Address) -> bool:
        return any(address in network for network in self.networks)


def read_url(url: str) -> Target:
    """The parts of an http(s) URL. `Refused` for whatever anybody might read in another way."""
    if not _PRINTABLE.fullmatch(url) or "\\" in url:
        raise Refused(
            "must be plain ASCII without spaces or backslashes (names in punycode, the rest percent-encoded)"
        )
    found = _URL.fullmatch(url)
    scheme = found["scheme"].lower() if found else ""
    if found is None or scheme not in _DEFAULT_PORTS:
        raise Refused("must begin with https://")
    if "@" in found["authority"]:
        raise Refused("must not have a user or a password in it")
    authority = _AUTHORITY.fullmatch(found["authority"])
    if authority is None:
        raise Refused("must have a host, and a port where it is not the usual one")
    port = int(authority["port"] or _DEFAULT_PORTS[scheme])
    if not 0 < port < 65536:
        raise Refused("must have a port from 1 to 65535")
    path = found["target"]
    return Target(scheme, _host(authority["host"]), port, path if path.startswith("/") else f"/{path}")


def _host(text: str) -> str:
    if text.startswith("["):
        try:
            return str(IPv6Address(text[1:-1]))
        except ValueError:
            raise Refused("must have an IPv6 address between its brackets") from None
    host = text.lower().removesuffix(".")
    labels = host.split(".")
    if _NUMBER.fullmatch(labels[-1]):
        # Most programs read this as an address, in decimal, octal, hex or shortened form.
        try:
            return str(IPv4Address(host))
        except ValueError:
            raise Refused("must spell an IPv4 address as four decimal numbers") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise Refused("must have a valid host name")
    return host


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None


def is_public(address: Address) -> bool:
    """Whether it is global unicast, in no form that stands for another address."""
    if isinstance(address, IPv6Address) and (address.scope_id or address not in _V6_UNICAST):
        return False
    return not any(address in network for network in _SPECIAL)


def read_allowed(entries: Iterable[str]) -> tuple[frozenset[str], tuple[Network, ...]]:
    """Hosts and networks of an allow-list: `hooks.test`, `10.1.0.0/16`, `::1`. ValueError for what is neither."""
    hosts, networks = set(), []
    for entry in entries:
        try:
            networks.append(ip_network(entry))
        except ValueError:
            try:
                hosts.add(_host(entry))
            except Refused:
                raise ValueError(
                    f"{entry!r} is neither a host's name nor a network such as 10.1.0.0/16"
                ) from None
    return frozenset(hosts), tuple(networks)
