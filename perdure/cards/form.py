"""What of an agent card is signed: the bytes that a verifier makes again from the card that it was given (A2A 1.0, section 8.4).

One document carries 1.0 and 0.3, and verifiers differ in what they read of it. Each of `payloads` is what one kind of them
arrives at; a card is signed once for each, and a verifier is content with one signature that fits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import rfc8785

Json = dict[str, Any]
MAX_DEPTH = 100
"""How deep a card may nest; the official SDK reads 128."""


class NotCanonical(ValueError):
    """The card holds what RFC 8785 cannot write: numbers beyond 2**53, NaN, other things than JSON. The text says what."""


def payloads(card: Mapping[str, Any]) -> tuple[bytes, ...]:
    """The canonical forms of a card, each once, without its signatures. `NotCanonical`.

    1. The card of 1.0 as the specification has it: members that 1.0 does not know are left out, and defaults as in ProtoJSON.
    2. The same without anything empty, however deep: so the official SDK (1.3) reads it.
    3. All that the document says: so it is for who knows no types, and covers what 0.3 alone reads.
    """
    _require_shallow(card)
    whole = {name: value for name, value in card.items() if name != "signatures"}
    known = _known(whole, _CARD)
    forms = (known, _without_empty(known) or {}, whole)
    try:
        return tuple(dict.fromkeys(rfc8785.dumps(form) for form in forms))
    except rfc8785.CanonicalizationError as error:
        raise NotCanonical(str(error)) from None


def _require_shallow(value: Any) -> None:
    layer, depth = [value], 0
    while layer:
        depth += 1
        if depth > MAX_DEPTH:
            raise NotCanonical(f"it nests deeper than {MAX_DEPTH} levels")
        layer = [
            inner
            for each in layer
            for inner in (
                each.values() if isinstance(each, Mapping) else each if isinstance(each, list | tuple) else ()
            )
        ]


def _without_empty(value: Any) -> Any:
    """Without empty texts, lists and objects, and what is empty once they are gone; None for nothing."""
    if isinstance(value, Mapping):
        kept: Any = {name: _without_empty(each) for name, each in value.items()}
        return {name: each for name, each in kept.items() if each is not None} or None
    if isinstance(value, list | tuple):
        return [each for each in map(_without_empty, value) if each is not None] or None
    return None if isinstance(value, str) and not value else value


# ---------------------------------------------------------------------- the members of 1.0 (a2a.proto)


class _Member(NamedTuple):
    """`stays`: also where its value is the default (REQUIRED, `optional`, an object). `of`: the members of the object, of each
    object of a list, or (`by_name`) of each value of a map."""

    stays: bool = False
    of: Mapping[str, _Member] | None = None
    by_name: bool = False


def _known(value: Any, members: Mapping[str, _Member]) -> Json:
    if not isinstance(value, Mapping):
        return {}
    found = {
        name: _of(value[name], member) for name, member in members.items() if value.get(name) is not None
    }
    return {name: each for name, each in found.items() if each or members[name].stays}


def _of(value: Any, member: _Member) -> Any:
    if member.of is None:
        return value
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_known(each, member.of) for each in value]
    if member.by_name and isinstance(value, Mapping):
        return {name: _known(each, member.of) for name, each in value.items()}
    return _known(value, member.of)


_STAYS, _MAY_GO = _Member(stays=True), _Member()


def _members(stay: str = "", go: str = "", **objects: _Member) -> Mapping[str, _Member]:
    named = dict.fromkeys(stay.split(), _STAYS) | dict.fromkeys(go.split(), _MAY_GO)
    return named | objects


def _flow(stay: str = "", go: str = "") -> _Member:
    return _Member(True, _members(stay, go))


_FLOWS = _members(
    authorizationCode=_flow("authorizationUrl tokenUrl scopes", "refreshUrl pkceRequired"),
    clientCredentials=_flow("tokenUrl scopes", "refreshUrl"),
    implicit=_flow(go="authorizationUrl refreshUrl scopes"),
    password=_flow(go="tokenUrl refreshUrl scopes"),
    deviceCode=_flow("deviceAuthorizationUrl tokenUrl scopes", "refreshUrl"),
)
_SCHEME = _members(
    apiKeySecurityScheme=_flow("location name", "description"),
    httpAuthSecurityScheme=_flow("scheme", "description bearerFormat"),
    oauth2SecurityScheme=_Member(
        True, _members(go="description oauth2MetadataUrl", flows=_Member(True, _FLOWS))
    ),
    openIdConnectSecurityScheme=_flow("openIdConnectUrl", "description"),
    mtlsSecurityScheme=_flow(go="description"),
)
_REQUIREMENT = _members(schemes=_Member(of=_members(go="list"), by_name=True))
_SKILL = _members(
    "id name description tags",
    "examples inputModes outputModes",
    securityRequirements=_Member(of=_REQUIREMENT),
)
_EXTENSION = _members("params", "uri description required")
_CARD = _members(
    "name description version documentationUrl iconUrl defaultInputModes defaultOutputModes",
    supportedInterfaces=_Member(True, _members("url protocolBinding protocolVersion", "tenant")),
    provider=_Member(True, _members("url organization")),
    capabilities=_Member(
        True,
        _members("streaming pushNotifications extendedAgentCard", extensions=_Member(of=_EXTENSION)),
    ),
    securitySchemes=_Member(of=_SCHEME, by_name=True),
    securityRequirements=_Member(of=_REQUIREMENT),
    skills=_Member(True, _SKILL),
)
