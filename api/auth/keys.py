"""API keys, remembered for a few seconds: a request costs no query, and a revocation takes effect within that time."""

from __future__ import annotations

import asyncio
import time
from typing import TypeVar

import structlog

from perdure.errors import StorageUnavailable
from perdure.security.keys import digest_of, matches, parse
from perdure.security.schemes import SCOPES
from perdure.storage.keys import ApiKey, Keys

from . import Caller, known
from .credentials import Refused

log = structlog.get_logger(__name__)

MOST_REMEMBERED = 10_000
"""Ids of keys, known and unknown ones each. Somebody who tries ids out must not push the known ones from memory."""
NOTE_EVERY = 60.0
"""Seconds between two notes of a key's last use by this process."""

BOOTSTRAP_OWNER = "bootstrap"


class BootstrapKey:
    """The key that stands in the settings: always there, with every scope."""

    def __init__(self, text: str) -> None:
        self._digest = digest_of(text)
        self._caller = known(BOOTSTRAP_OWNER, SCOPES)

    def caller(self, text: str) -> Caller | None:
        """Its caller, if this is it."""
        return self._caller if matches(text, [self._digest]) else None


class KeyRing:
    """The keys of the storage. `memory` is in seconds."""

    def __init__(self, storage: Keys, *, memory: float) -> None:
        self._storage = storage
        self._memory = memory
        self._found: dict[str, tuple[float, ApiKey, Caller]] = {}
        self._missing: dict[str, float] = {}
        self._loading: dict[str, asyncio.Task[ApiKey | None]] = {}
        self._noted: dict[str, float] = {}

    async def caller(self, text: str) -> Caller | None:
        """Whose key this is; None for what does not look like one. `Refused`; the same work for an unknown id as for a wrong
        secret. `StorageUnavailable` when it has to be looked up and cannot."""
        parts = parse(text)
        if parts is None:
            return None
        key_id, secret = parts
        now = time.monotonic()
        found = self._remembered(key_id, now)
        if found is None and self._missing.get(key_id, 0.0) < now:
            found = await self._look_up(key_id)
        if not matches(secret, found[0].digests if found else ()):
            state = found[0].state.value if found else "unknown"
            raise Refused(
                "a wrong secret" if state == "active" else f"an API key that is {state}", who=key_id
            )
        assert found is not None  # noqa: S101 - nothing matches the digest of nobody
        await self._note_use(key_id, now)
        return found[1]

    def _remembered(self, key_id: str, now: float) -> tuple[ApiKey, Caller] | None:
        entry = self._found.get(key_id)
        return (entry[1], entry[2]) if entry and entry[0] > now else None

    async def _look_up(self, key_id: str) -> tuple[ApiKey, Caller] | None:
        """Once, however many ask at the same time."""
        loading = self._loading.get(key_id)
        if loading is None:
            loading = self._loading[key_id] = asyncio.create_task(self._load(key_id))
        key = await asyncio.shield(loading)  # who asks may be cancelled, the others still want to know
        return (key, known(key.owner, key.scopes)) if key else None

    async def _load(self, key_id: str) -> ApiKey | None:
        try:
            key = await self._storage.load_key(key_id)
        finally:
            del self._loading[key_id]
        until = time.monotonic() + self._memory
        if key is None:
            _bounded(self._missing)[key_id] = until
        else:
            self._missing.pop(key_id, None)
            _bounded(self._found)[key_id] = until, key, known(key.owner, key.scopes)
        return key

    async def _note_use(self, key_id: str, now: float) -> None:
        if self._noted.get(key_id, 0.0) > now:
            return
        _bounded(self._noted)[key_id] = now + NOTE_EVERY
        try:
            await self._storage.note_key_used(key_id)
        except StorageUnavailable as error:
            log.warning("auth.use_not_noted", key_id=key_id, error=str(error))


_T = TypeVar("_T")


def _bounded(memory: dict[str, _T]) -> dict[str, _T]:
    """With room for one more: what was put in first goes."""
    if len(memory) >= MOST_REMEMBERED:
        del memory[next(iter(memory))]
    return memory
