"""API keys in Postgres."""

from __future__ import annotations

from collections.abc import Sequence

from perdure.storage.keys import LAST_USED_STEP, ApiKey, KeyState, NewKey
from perdure.storage.postgres.base import Statements
from perdure.storage.postgres.records import Row
from perdure.storage.postgres.wall import NOBODY, across
from perdure.stored.storable import require_storable

_KEY = """
key_id, owner, name, scopes, created_at, expires_at, revoked_at, overlap_until, last_used_at,
CASE WHEN revoked_at IS NOT NULL THEN 'revoked'
     WHEN expires_at <= clock_timestamp() THEN 'expired'
     ELSE 'active' END AS state,
CASE WHEN overlap_until > clock_timestamp() THEN ARRAY[digest, digest_before] ELSE ARRAY[digest] END AS digests
"""
# $1 key_id, $2 owner, $3 name, $4 scopes, $5 digest, $6 seconds until it expires or null
# The update changes nothing: it is how a conflict gives its row back.
ADD_KEY = f"""
INSERT INTO api_keys (key_id, owner, name, scopes, digest, expires_at)
VALUES ($1, $2, $3, $4, $5, clock_timestamp() + make_interval(secs => $6::float8))
ON CONFLICT (key_id) DO UPDATE SET key_id = excluded.key_id WHERE api_keys.digest = excluded.digest
RETURNING {_KEY}
"""
# Who comes with a key is known only when the key has been found: with row security its owner is asked for first.
OWNER_OF_KEY = across(
    "SELECT owner FROM api_keys WHERE key_id = $1", "SELECT perdure_owner_of_key($1) AS owner"
)
LOAD_KEY = f"SELECT {_KEY} FROM api_keys WHERE key_id = $1"
LIST_KEYS = f"SELECT {_KEY} FROM api_keys ORDER BY created_at, key_id"
# $1 key_id, $2 digest, $3 seconds of overlap. The same digest: asked for again.
ROTATE_KEY = f"""
UPDATE api_keys
   SET digest = $2,
       digest_before = CASE WHEN digest = $2 THEN digest_before ELSE digest END,
       overlap_until = CASE WHEN digest = $2 THEN overlap_until
                            ELSE clock_timestamp() + make_interval(secs => $3::float8) END
 WHERE key_id = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())
RETURNING {_KEY}
"""
REVOKE_KEY = f"""
UPDATE api_keys SET revoked_at = coalesce(revoked_at, clock_timestamp()) WHERE key_id = $1 RETURNING {_KEY}
"""
NOTE_KEY_USED = """
UPDATE api_keys SET last_used_at = clock_timestamp()
 WHERE key_id = $1
   AND (last_used_at IS NULL OR last_used_at <= clock_timestamp() - make_interval(secs => $2::float8))
"""


class Keys(Statements):
    """See `perdure.storage.keys`."""

    async def add_key(self, new: NewKey) -> ApiKey:
        require_storable([new.owner, new.name, *new.scopes])
        row = await self._row(
            ADD_KEY, new.key_id, new.owner, new.name, list(new.scopes), new.digest, new.expires
        )
        if row is None:
            raise ValueError(f"there is a key {new.key_id} already")
        return _key(row)

    async def load_key(self, key_id: str) -> ApiKey | None:
        row = await self._row(LOAD_KEY, key_id, owner=await self._owner_of(key_id))
        return None if row is None else _key(row)

    async def list_keys(self) -> Sequence[ApiKey]:
        return [_key(row) for row in await self._rows(LIST_KEYS)]

    async def rotate_key(self, key_id: str, digest: bytes, *, overlap: float) -> ApiKey | None:
        row = await self._row(ROTATE_KEY, key_id, digest, overlap)
        return None if row is None else _key(row)

    async def revoke_key(self, key_id: str) -> ApiKey | None:
        row = await self._row(REVOKE_KEY, key_id)
        return None if row is None else _key(row)

    async def note_key_used(self, key_id: str) -> None:
        await self._rows(NOTE_KEY_USED, key_id, LAST_USED_STEP, owner=await self._owner_of(key_id))

    async def _owner_of(self, key_id: str) -> str:
        if not self._database.row_security:
            return NOBODY  # it is not asked for
        row = await self._row(OWNER_OF_KEY, key_id, owner=NOBODY)
        return (row["owner"] if row else None) or NOBODY


def _key(row: Row) -> ApiKey:
    state = KeyState(row["state"])
    return ApiKey(
        key_id=row["key_id"],
        owner=row["owner"],
        name=row["name"],
        scopes=tuple(row["scopes"]),
        state=state,
        digests=tuple(row["digests"]) if state is KeyState.ACTIVE else (),
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        overlap_until=row["overlap_until"],
        last_used_at=row["last_used_at"],
    )
