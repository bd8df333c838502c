"""JWT bearer tokens (RFC 7519, RFC 6750, RFC 8725): signature, issuer, audience, times; then who it is and what they may do."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from secrets import token_bytes
from typing import Any

import jwt

from perdure.settings import AuthSettings, scopes_in
from perdure.stored.storable import unstorable

from . import Caller, known
from .credentials import Refused
from .issuers import ALGORITHMS, Issuer

LONGEST_CLAIM = 255
"""Characters of the claim that names the owner. OpenID Connect allows a `sub` no more (Core 1.0, section 2)."""
MOST_REMEMBERED = 10_000
_UNVERIFIED: Any = {"verify_signature": False}


class Tokens:
    """Takes the tokens of some issuers."""

    def __init__(self, settings: AuthSettings) -> None:
        self._settings = settings
        self._issuers: Mapping[str, Issuer] = {issuer.name: issuer for issuer in issuers_of(settings)}
        self._default_scopes = scopes_in(settings.jwt_default_scopes)
        self._seen: dict[bytes, tuple[float, Caller]] = {}
        self._salt = token_bytes(32)

    async def caller(self, token: str) -> Caller:
        """Whose token this is. `Refused`; `IssuerUnavailable` when its issuer's keys are not known and cannot be fetched."""
        # Tokens themselves are not kept. With a salt of this process nobody can look for two that meet.
        fingerprint = blake2b(token.encode("utf-8", "replace"), key=self._salt, digest_size=32).digest()
        until, caller = self._seen.get(fingerprint, (0.0, None))
        if caller is None or until <= time.monotonic():
            claims = await self._verified(token)
            caller = self._caller(claims)
            self._remember(fingerprint, claims, caller)
        return caller

    def _remember(self, fingerprint: bytes, claims: Mapping[str, Any], caller: Caller) -> None:
        left = claims["exp"] + self._settings.jwt_leeway - time.time()
        if len(self._seen) >= MOST_REMEMBERED:
            del self._seen[next(iter(self._seen))]
        self._seen[fingerprint] = time.monotonic() + min(left, self._settings.cache), caller

    # ------------------------------------------------------------------ the token

    async def _verified(self, token: str) -> Mapping[str, Any]:
        """The claims. What stands in the token is believed only once its signature is that of a key of ours."""
        issuer, kid, algorithm = self._said(token)
        keys = await issuer.keys(kid, algorithm)
        if len(keys) != 1:
            raise Refused(
                "a token of an unknown key" if not keys else "a token that names none of several keys"
            )
        try:
            return jwt.decode(
                token,
                keys[0],
                algorithms=[algorithm],
                issuer=issuer.name,
                audience=self._settings.jwt_audience,
                leeway=self._settings.jwt_leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise Refused(f"a token that is not valid: {error}") from None

    def _said(self, token: str) -> tuple[Issuer, str | None, str]:
        """Whose token it says it is, signed with which key and how."""
        try:
            said = jwt.decode_complete(token, options=_UNVERIFIED)
        except (jwt.PyJWTError, ValueError, RecursionError):
            raise Refused("neither an API key nor a token") from None
        header, name = said["header"], said["payload"].get("iss")
        if header.get("alg") not in ALGORITHMS:
            raise Refused("a token with an algorithm that is not taken")
        issuer = self._issuers.get(name) if isinstance(name, str) else None
        if issuer is None:
            raise Refused("a token of an unknown issuer")
        kid = header.get("kid")
        return issuer, kid if isinstance(kid, str) else None, header["alg"]

    # ------------------------------------------------------------------ what it says

    def _caller(self, claims: Mapping[str, Any]) -> Caller:
        name = claims.get(self._settings.jwt_owner_claim)
        if not isinstance(name, str) or not 0 < len(name) <= LONGEST_CLAIM or unstorable(name):
            raise Refused(f"a token without a usable {self._settings.jwt_owner_claim}")
        return known(f"{claims['iss']}|{name}", self._scopes(claims.get(self._settings.jwt_scope_claim)))

    def _scopes(self, claim: Any) -> Iterable[str]:
        """RFC 8693, section 4.2: one string with spaces. Others write a list."""
        if claim is None:
            return self._default_scopes
        said = claim.split() if isinstance(claim, str) else claim if isinstance(claim, list) else ()
        prefix = self._settings.jwt_scope_prefix
        ours = {
            each.removeprefix(prefix) for each in said if isinstance(each, str) and each.startswith(prefix)
        }
        return ours & {"read", "write", "operate"}


def issuers_of(settings: AuthSettings) -> Iterable[Issuer]:
    """The issuers that the settings name."""
    if settings.jwt_issuer:
        yield Issuer(settings.jwt_issuer, settings.jwks_url)
    if settings.oidc_issuer:
        yield Issuer(settings.oidc_issuer)
