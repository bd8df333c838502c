"""API keys: what they look like, and what of them is stored.

A key is `pdk_<id>_<secret>`. The id finds the row; of the secret only a salted digest is kept. The secret is 256 bits from the
system's generator, so a fast hash is right: the slow ones are for passwords that somebody could guess in less than 2^256 tries,
and would cost each request 50 ms.
"""

from __future__ import annotations

import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b

_SHAPE = re.compile(r"pdk_([0-9a-f]{16})_([0-9a-f]{64})")
_SALT = 16
_PERSON = b"perdure api key"


@dataclass(frozen=True, slots=True)
class MintedKey:
    """A fresh secret. `text` is the whole key: shown once and kept by nobody; `digest` is what is stored."""

    key_id: str
    text: str
    digest: bytes


def mint(key_id: str | None = None) -> MintedKey:
    """A new key, or (`key_id`) a new secret of one."""
    key_id = key_id or secrets.token_hex(8)
    secret = secrets.token_hex(32)
    return MintedKey(key_id, f"pdk_{key_id}_{secret}", digest_of(secret))


def parse(text: str) -> tuple[str, str] | None:
    """The id and the secret of a text that looks like a key."""
    found = _SHAPE.fullmatch(text)
    return (found[1], found[2]) if found else None


def digest_of(secret: str, salt: bytes | None = None) -> bytes:
    """The salt and the salted hash: 48 bytes. Without a `salt` a fresh one."""
    salt = secrets.token_bytes(_SALT) if salt is None else salt
    return salt + blake2b(secret.encode(), digest_size=32, salt=salt, person=_PERSON).digest()


def matches(secret: str, digests: Iterable[bytes]) -> bool:
    """Whether it is the secret of one of them. Takes as long for a wrong one, and the same without any."""
    found = False
    for digest in tuple(digests) or (_OF_NOBODY,):
        found |= hmac.compare_digest(digest_of(secret, digest[:_SALT]), digest)
    return found


_OF_NOBODY = bytes(_SALT + 32)
"""No secret has this digest but by a chance of 1 in 2^256."""
