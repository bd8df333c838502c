"""Issuers of tokens and their public keys: fetched from a JWKS (RFC 7517), found by OpenID Connect discovery, kept, and renewed.

Keys are renewed in the background once they are a few minutes old. A key id that nobody knows makes one fetch at once, for an
issuer that has begun to sign with a new key; and no more than one within a while, or anybody could make us ask without end.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import jwt
import orjson
import structlog

from ..codes import IssuerUnavailable

log = structlog.get_logger(__name__)

ALGORITHMS = ("RS256", "ES256", "EdDSA")
"""All are signatures. With a secret in common (HS256) an issuer's public key could be taken for the secret."""
FRESH = 300.0
"""Seconds until keys are fetched again."""
USABLE = 3600.0
"""Seconds that keys are used while their issuer cannot be reached."""
PAUSE = 10.0
"""Seconds between two fetches for ids that nobody knows, and after one that failed."""
TIMEOUT = 5.0
"""Seconds that a fetch may take."""
DISCOVERY = "/.well-known/openid-configuration"
MOST_BYTES = 1024 * 1024
SHORTEST_RSA = 2048
"""Bits."""

SigningKeys = Mapping[str | None, list[jwt.PyJWK]]


class Issuer:
    """One issuer. `jwks_url` is where its keys are; None: discovery tells."""

    def __init__(self, name: str, jwks_url: str | None = None) -> None:
        self.name = name
        self._jwks_url = jwks_url
        self._keys: SigningKeys = {}
        self._fetched_at = self._tried_at = self._missed_at = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def keys(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        """The keys that may have signed a token: those of its `kid` (without one, all) for its algorithm. Empty when there are
        none; `IssuerUnavailable` when nobody knows."""
        age = time.monotonic() - self._fetched_at
        if age > FRESH and time.monotonic() - self._tried_at >= PAUSE:
            self._begin()
        if age > USABLE:
            await self._fetched()
            if time.monotonic() - self._fetched_at > USABLE:
                raise IssuerUnavailable("the issuer of the token cannot be asked for its keys; try again")
        return self._matching(kid, algorithm) or await self._matching_now(kid, algorithm)

    async def _matching_now(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        """Those of an id that nobody knew until now."""
        if kid is not None and time.monotonic() - self._missed_at >= PAUSE:
            self._missed_at = time.monotonic()
            self._begin()
        await self._fetched()
        return self._matching(kid, algorithm)

    def _matching(self, kid: str | None, algorithm: str) -> list[jwt.PyJWK]:
        if kid is None:
            return [key for keys in self._keys.values() for key in keys if key.algorithm_name == algorithm]
        return [key for key in self._keys.get(kid, ()) if key.algorithm_name == algorithm]

    # ------------------------------------------------------------------ fetching

    def _begin(self) -> None:
        if self._fetching is None:
            self._tried_at = time.monotonic()
            self._fetching = asyncio.create_task(self._renew())

    async def _fetched(self) -> None:
        """Wait for the fetch that is under way, if one is."""
        if self._fetching is not None:
            await asyncio.shield(self._fetching)

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(TIMEOUT):
                self._keys = signing_keys(await self._jwks())
            self._fetched_at = time.monotonic()
            log.info("auth.keys_fetched", issuer=self.name, keys=sum(map(len, self._keys.values())))
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError, ValueError) as error:
            log.warning("auth.keys_not_fetched", issuer=self.name, error=f"{type(error).__name__}: {error}")
        finally:
            self._fetching = None

    async def _jwks(self) -> Any:
        # Made in a thread: it reads the certificates of the system, 20 ms.
        async with await asyncio.to_thread(httpx.AsyncClient, timeout=TIMEOUT) as http:
            url = self._jwks_url or await self._discovered(http)
            return await _json(http, url)

    async def _discovered(self, http: httpx.AsyncClient) -> str:
        """OpenID Connect Discovery 1.0, section 4: the document has to name the very issuer that it was asked for."""
        document = await _json(http, self.name.rstrip("/") + DISCOVERY)
        if not isinstance(document, dict) or document.get("issuer") != self.name:
            raise ValueError("the discovery document is that of another issuer")
        url = document.get("jwks_uri")
        if not isinstance(url, str) or (self.name.startswith("https://") and not url.startswith("https://")):
            raise ValueError("the discovery document has no jwks_uri, or an insecure one")
        return url


async def _json(http: httpx.AsyncClient, url: str) -> Any:
    body = b""
    async with http.stream(
        "GET", url
    ) as response:  # redirects are not followed: where keys are is configured
        response.raise_for_status()
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > MOST_BYTES:
                raise ValueError("the answer is too large")
    return orjson.loads(body)


def signing_keys(jwks: Any) -> SigningKeys:
    """The public keys of a JWK Set that can verify one of `ALGORITHMS`, by their ids. What else is in it is left out; ValueError
    where nothing is left."""
    found: dict[str | None, list[jwt.PyJWK]] = {}
    for kid, key in _usable(jwks.get("keys") if isinstance(jwks, dict) else None):
        found.setdefault(kid, []).append(key)
    if not found:
        raise ValueError("there is no key to verify tokens with")
    return found


def _usable(members: Any) -> Iterator[tuple[str | None, jwt.PyJWK]]:
    for member in members if isinstance(members, list) else ():
        if not isinstance(member, dict) or member.get("use", "sig") != "sig":
            continue
        try:
            key = jwt.PyJWK(member)
        except jwt.PyJWTError:
            continue
        kid = member.get("kid")
        if key.algorithm_name in ALGORITHMS and getattr(key.key, "key_size", SHORTEST_RSA) >= _least(key):
            yield kid if isinstance(kid, str) else None, key


def _least(key: jwt.PyJWK) -> int:
    return SHORTEST_RSA if key.key_type == "RSA" else 0
