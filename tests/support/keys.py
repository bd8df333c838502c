"""Private keys for tests, in PEM."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

_MAKERS: dict[str, Callable[[], PrivateKeyTypes]] = {
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "short RSA": lambda: rsa.generate_private_key(65537, 1024),  # noqa: S505 - one to be refused
}


@cache
def pem(kind: str, password: str = "") -> str:
    """The same key each time it is asked for: RSA ones take a while to make."""
    encryption = BestAvailableEncryption(password.encode()) if password else NoEncryption()
    made = _MAKERS[kind]()
    return str(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption), "ascii")
