"""API keys in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from perdure.storage.keys import LAST_USED_STEP, ApiKey, KeyState, NewKey
from perdure.storage.memory.base import Locked
from perdure.storage.memory.drafts import to_json


@dataclass
class _KeyRow:
    new: NewKey
    digest: bytes
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None = None
    before: bytes | None = None
    overlap_until: datetime | None = None
    last_used_at: datetime | None = None

    def shown(self, now: datetime) -> ApiKey:
        state = self._state(now)
        overlaps = self.before is not None and self.overlap_until is not None and self.overlap_until > now
        good = (self.digest, self.before) if overlaps else (self.digest,)
        return ApiKey(
            key_id=self.new.key_id,
            owner=self.new.owner,
            name=self.new.name,
            scopes=tuple(self.new.scopes),
            state=state,
            digests=tuple(each for each in good if each is not None and state is KeyState.ACTIVE),
            created_at=self.created_at,
            expires_at=self.expires_at,
            revoked_at=self.revoked_at,
            overlap_until=self.overlap_until,
            last_used_at=self.last_used_at,
        )

    def _state(self, now: datetime) -> KeyState:
        if self.revoked_at is not None:
            return KeyState.REVOKED
        expired = self.expires_at is not None and self.expires_at <= now
        return KeyState.EXPIRED if expired else KeyState.ACTIVE


class Keys(Locked):
    """See `perdure.storage.keys`."""

    _keys: dict[str, _KeyRow]

    async def add_key(self, new: NewKey) -> ApiKey:
        to_json([new.owner, new.name, *new.scopes])  # refuses what Postgres would
        with self._lock:
            now = self._ledger.now()
            expires_at = None if new.expires is None else now + timedelta(seconds=new.expires)
            row = self._keys.setdefault(new.key_id, _KeyRow(new, new.digest, now, expires_at))
            if row.digest != new.digest:
                raise ValueError(f"there is a key {new.key_id} already")
            return row.shown(now)

    async def load_key(self, key_id: str) -> ApiKey | None:
        with self._lock:
            row = self._keys.get(key_id)
            return None if row is None else row.shown(self._ledger.now())

    async def list_keys(self) -> Sequence[ApiKey]:
        with self._lock:
            now = self._ledger.now()
            rows = sorted(self._keys.values(), key=lambda row: (row.created_at, row.new.key_id))
            return [row.shown(now) for row in rows]

    async def rotate_key(self, key_id: str, digest: bytes, *, overlap: float) -> ApiKey | None:
        with self._lock:
            row, now = self._keys.get(key_id), self._ledger.now()
            if row is None or row.shown(now).state is not KeyState.ACTIVE:
                return None
            if row.digest != digest:  # else it is asked for again
                row.before, row.digest = row.digest, digest
                row.overlap_until = now + timedelta(seconds=overlap)
            return row.shown(now)

    async def revoke_key(self, key_id: str) -> ApiKey | None:
        with self._lock:
            row, now = self._keys.get(key_id), self._ledger.now()
            if row is None:
                return None
            row.revoked_at = row.revoked_at or now
            return row.shown(now)

    async def note_key_used(self, key_id: str) -> None:
        with self._lock:
            row, now = self._keys.get(key_id), self._ledger.now()
            if row is None:
                return
            if row.last_used_at is None or row.last_used_at <= now - timedelta(seconds=LAST_USED_STEP):
                row.last_used_at = now
