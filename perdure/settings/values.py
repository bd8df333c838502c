"""What settings are made of: a group, and what stands in a text."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, SecretStr

from perdure.security.schemes import SCOPES


class Group(BaseModel):
    """Settings whose names begin with the same word and two underscores."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def lower_case(value: Any) -> Any:
    """A text in lower case; whatever else is given as it is."""
    return value.lower() if isinstance(value, str) else value


def listed(text: str) -> list[str]:
    """What stands between commas."""
    return [each.strip() for each in text.split(",") if each.strip()]


def scopes_in(text: str) -> list[str]:
    """`read,write` as a list. ValueError for what is no scope."""
    scopes = listed(text)
    if unknown := [scope for scope in scopes if scope not in SCOPES]:
        raise ValueError(f"{unknown[0]!r} is no scope: there are {', '.join(SCOPES)}")
    return scopes


def networks_in(text: str) -> list[IPv4Network | IPv6Network]:
    """`10.0.0.0/8,::1` as a list. ValueError for what is no address."""
    return [ip_network(each) for each in listed(text)]


def web_address(url: str) -> str:
    """The address, or an empty text. ValueError for one that others could tamper with on its way."""
    try:
        split = urlsplit(url)
    except ValueError:
        raise ValueError("is no address") from None
    local = split.scheme == "http" and split.hostname in ("127.0.0.1", "::1", "localhost")
    if url and not local and (split.scheme != "https" or not split.hostname):
        raise ValueError("must start with https:// (http:// is for 127.0.0.1, ::1 and localhost)")
    return url


def check_scheme(url: SecretStr | None, *schemes: str) -> None:
    """Raise ValueError for an address that begins with none of these."""
    if url is not None and url.get_secret_value().partition("://")[0].lower() not in schemes:
        raise ValueError(f"an address must start with {schemes[0]}://")
