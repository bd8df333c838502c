"""Secrets at rest: sealed with the first of the given keys, opened with any of them (Fernet: AES-128-CBC with HMAC-SHA256).

A key is retired by putting a new one in front of it, sealing everything anew (`perdure webhooks rotate`), and taking it away.
"""

from __future__ import annotations

from collections.abc import Sequence

from cryptography.fernet import Fernet, InvalidToken, MultiFernet

from perdure.errors import ConfigError

_MARK = "fernet:"
"""What is stored without it was stored before there were keys, and is read as it stands."""


class Vault:
    """Seals and opens texts. ConfigError for a key that is none."""

    def __init__(self, keys: Sequence[str]) -> None:
        try:
            self._keys = MultiFernet([Fernet(key) for key in keys])
        except ValueError:
            raise ConfigError(
                "WEBHOOKS__KEYS: a key is 32 bytes in base64, as `perdure webhooks key` makes them; several are divided by commas"
            ) from None

    def seal(self, text: str) -> str:
        """What to store; an empty text stays empty."""
        return f"{_MARK}{self._keys.encrypt(text.encode()).decode()}" if text else ""

    def open(self, stored: str) -> str:
        """The inverse. ConfigError if none of the keys fits."""
        if not stored.startswith(_MARK):
            return stored
        try:
            return self._keys.decrypt(stored.removeprefix(_MARK).encode()).decode()
        except InvalidToken:
            raise ConfigError(
                "WEBHOOKS__KEYS has not the key with which the webhooks of this database were stored: add it at the end"
            ) from None


def new_key() -> str:
    """A key at random."""
    return Fernet.generate_key().decode()
