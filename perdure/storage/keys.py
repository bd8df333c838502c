"""Keys, the part of the port for API keys. They stand outside of ownership: they say who an owner is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol


class KeyState(Enum):
    """Whether a key is good now, by the storage's clock."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True, kw_only=True)
class NewKey:
    """What `add_key` stores. `digest` as `perdure.security.keys.digest_of` gives it."""

    key_id: str
    owner: str
    scopes: Sequence[str]
    digest: bytes = field(repr=False)
    name: str = ""
    expires: float | None = None
    """Seconds until it is no longer good."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as it stands. `digests` are those of the secrets that are good now: none, one or, after a rotation, two."""

    key_id: str
    owner: str
    name: str
    scopes: Sequence[str]
    state: KeyState
    digests: Sequence[bytes] = field(repr=False)
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    overlap_until: datetime | None
    """Until then the secret before the last rotation is good as well."""
    last_used_at: datetime | None


LAST_USED_STEP = 60.0
"""Seconds. The last use is noted at most so often: it is for people, and not worth a write a request."""


class Keys(Protocol):
    """See `Storage` for the rules that hold everywhere."""

    async def add_key(self, new: NewKey) -> ApiKey:
        """Store a key. `ValueError` for an id that is there already with another digest."""

    async def load_key(self, key_id: str) -> ApiKey | None:
        """The key with this id, in whatever state."""

    async def list_keys(self) -> Sequence[ApiKey]:
        """All keys of all owners, oldest first."""

    async def rotate_key(self, key_id: str, digest: bytes, *, overlap: float) -> ApiKey | None:
        """Give an active key another secret; the present one stays good for `overlap` seconds, one before it does not. None when
        there is no such key, or it is revoked or expired."""

    async def revoke_key(self, key_id: str) -> ApiKey | None:
        """From now on it is not good; the first time counts. None when there is no such key."""

    async def note_key_used(self, key_id: str) -> None:
        """It was used just now. Nothing is written within `LAST_USED_STEP` of the last time."""
