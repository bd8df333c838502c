"""What a request shows for itself, and what it is told when that is not enough."""

from __future__ import annotations

from base64 import b64decode

from starlette.datastructures import Headers

from ..codes import Unauthenticated

API_KEY_HEADER = "X-API-Key"
LONGEST = 16 * 1024
"""Bytes of a credential."""


class Refused(Unauthenticated):
    """`reason` is for the log, the text for the caller: it does not say which part of a credential was wrong. `who` is what the
    log may tell of it: the id of a key, never the credential."""

    def __init__(self, reason: str, *, error: str = "invalid_token", who: str = "") -> None:
        super().__init__(_TEXTS[error], challenge(error))
        self.reason = reason
        self.who = who


_TEXTS = {
    "": "say who you are: send an API key or a token",
    "invalid_token": "the API key or token is not valid, or no longer",
    "invalid_request": f"send one credential: {API_KEY_HEADER} or Authorization",
}


BASIC = 'Basic realm="perdure", charset="UTF-8"'
"""What makes a browser ask for a name and a password."""


def challenge(error: str) -> str:
    """A WWW-Authenticate (RFC 6750, section 3). Keys are taken as bearer tokens too."""
    return 'Bearer realm="perdure"' + (f', error="{error}"' if error else "")


def credential_in(headers: Headers, *, browsed: bool = False) -> str | None:
    """The API key or token of a request, None without any. `Refused` for several and for what is no bearer credential.

    `browsed`: it may be the password of HTTP Basic too (RFC 7617), of whatever user: all that a browser can send by itself.
    """
    keys, authorizations = headers.getlist(API_KEY_HEADER), headers.getlist("Authorization")
    if len(keys) + len(authorizations) > 1:
        raise Refused("several credentials", error="invalid_request")
    text = keys[0] if keys else None
    if authorizations:
        text = _bearer(authorizations[0], basic=browsed)
    if text is not None and not 0 < len(text) <= LONGEST:
        raise Refused("a credential that is empty or too long")
    return text


def _bearer(authorization: str, *, basic: bool) -> str:
    scheme, _, credential = authorization.partition(" ")
    if basic and scheme.lower() == "basic":
        return _password(credential.strip())
    if scheme.lower() != "bearer":
        raise Refused("another scheme than Bearer", error="")
    return credential.strip()


def _password(credential: str) -> str:
    try:
        return b64decode(credential, validate=True).decode().partition(":")[2]
    except ValueError:
        raise Refused("Basic that cannot be read") from None
