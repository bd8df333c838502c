"""Which version of the protocol a request speaks (A2A 1.0, section 3.6)."""

from __future__ import annotations

import re

from starlette.requests import Request

from .codes import VersionNotSupported
from .wire import Dialect, v03, v1

HEADER = "A2A-Version"
DIALECTS: dict[str, Dialect] = {v1.VERSION: v1, v03.VERSION: v03}

_VERSION = re.compile(r"(\d+\.\d+)(\.\d+)*")
SERVED = re.compile(rf"^\s*(({'|'.join(re.escape(version) for version in DIALECTS)})(\.\d+)*)?\s*$")
"""What may stand in the header, for the OpenAPI document. Empty is as if left out."""


def named_version(request: Request) -> str | None:
    """`Major.Minor` as the client names it, in the header or the query; None if it names none. Patches don't count."""
    text = request.headers.get(HEADER, "").strip()
    if not text and request.scope["query_string"]:
        text = request.query_params.get(HEADER, "").strip()
    if not text or text in DIALECTS:
        return text or None
    found = _VERSION.fullmatch(text)
    return found[1] if found else text


def negotiated(own: Dialect | None, named: str | None) -> Dialect:
    """The dialect to answer in. `own` is that of the method, None where it has none (ours); `named` is what the client names."""
    if named is None:
        return own or v03
    if named not in DIALECTS:
        raise VersionNotSupported(
            f"A2A-Version {named[:32]} is not supported; these are: {', '.join(DIALECTS)}"
        )
    if own is not None and named != own.VERSION:
        raise VersionNotSupported(f"this is an operation of A2A {own.VERSION}, but A2A-Version says {named}")
    return own or DIALECTS[named]
