"""API keys: what is kept of them, and for how long they are good."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure.security.keys import MintedKey, digest_of, matches, mint, parse
from perdure.storage import Storage
from perdure.storage.keys import LAST_USED_STEP, ApiKey, KeyState, NewKey
from tests.support.storages import Clock


async def added(storage: Storage, minted: MintedKey, *, expires: float | None = None) -> ApiKey:
    new = NewKey(
        key_id=minted.key_id,
        owner="ada",
        scopes=("read", "write"),
        digest=minted.digest,
        name="her laptop",
        expires=expires,
    )
    return await storage.add_key(new)


async def loaded(storage: Storage, key_id: str) -> ApiKey:
    key = await storage.load_key(key_id)
    assert key is not None
    return key


async def test_a_key_is_kept_without_its_secret(storage: Storage) -> None:
    minted = mint()
    key = await added(storage, minted, expires=60)
    assert (key.key_id, key.owner, key.name) == (minted.key_id, "ada", "her laptop")
    assert (key.scopes, key.state, key.digests) == (("read", "write"), KeyState.ACTIVE, (minted.digest,))
    assert key.expires_at is not None
    assert timedelta(seconds=59) < key.expires_at - key.created_at < timedelta(seconds=61)
    assert (key.revoked_at, key.overlap_until, key.last_used_at) == (None, None, None)
    assert await loaded(storage, minted.key_id) == key
    assert list(await storage.list_keys()) == [key]
    parts = parse(minted.text)
    assert parts is not None
    assert parts[1] not in repr(key)
    assert minted.digest.hex() not in repr(key)


async def test_an_unknown_key(storage: Storage) -> None:
    assert await storage.load_key("nobody") is None
    assert await storage.rotate_key("nobody", digest_of("x"), overlap=1) is None
    assert await storage.revoke_key("nobody") is None
    assert list(await storage.list_keys()) == []
    await storage.note_key_used("nobody")


async def test_adding_again_is_adding_once_and_another_key_is_refused(storage: Storage) -> None:
    minted = mint()
    first = await added(storage, minted)
    assert await added(storage, minted) == first
    with pytest.raises(ValueError, match="already"):
        await added(storage, mint(minted.key_id))
    assert list(await storage.list_keys()) == [first]


async def test_what_cannot_be_kept_is_refused(storage: Storage) -> None:
    with pytest.raises(ValueError, match="NUL"):
        await storage.add_key(NewKey(key_id="k", owner="a\x00b", scopes=(), digest=b"d"))


async def test_an_expired_key_is_good_for_nothing(storage: Storage, clock: Clock) -> None:
    minted = mint()
    await added(storage, minted, expires=60)
    await clock.age_key(minted.key_id, 59)
    assert (await loaded(storage, minted.key_id)).state is KeyState.ACTIVE
    await clock.age_key(minted.key_id, 2)
    key = await loaded(storage, minted.key_id)
    assert (key.state, key.digests) == (KeyState.EXPIRED, ())
    assert await storage.rotate_key(minted.key_id, digest_of("x"), overlap=60) is None


async def test_a_revoked_key_stays_revoked(storage: Storage) -> None:
    minted = mint()
    await added(storage, minted)
    key = await storage.revoke_key(minted.key_id)
    assert key is not None
    assert (key.state, key.digests) == (KeyState.REVOKED, ())
    assert await storage.revoke_key(minted.key_id) == key
    assert await storage.rotate_key(minted.key_id, digest_of("x"), overlap=60) is None
    assert await loaded(storage, minted.key_id) == key
    assert list(await storage.list_keys()) == [key]


async def test_after_a_rotation_both_secrets_are_good_for_a_while(storage: Storage, clock: Clock) -> None:
    first, second = mint(), mint()
    await added(storage, first)
    key = await storage.rotate_key(first.key_id, second.digest, overlap=60)
    assert key is not None
    assert key.digests == (second.digest, first.digest)
    assert await storage.rotate_key(first.key_id, second.digest, overlap=600) == key, "asked for again"
    await clock.age_key(first.key_id, 61)
    assert (await loaded(storage, first.key_id)).digests == (second.digest,)


async def test_without_an_overlap_the_old_secret_ends_at_once(storage: Storage) -> None:
    first, second = mint(), mint()
    await added(storage, first)
    key = await storage.rotate_key(first.key_id, second.digest, overlap=0)
    assert key is not None
    assert key.digests == (second.digest,)


async def test_a_second_rotation_ends_the_oldest_secret(storage: Storage) -> None:
    first, second, third = mint(), mint(), mint()
    await added(storage, first)
    await storage.rotate_key(first.key_id, second.digest, overlap=60)
    key = await storage.rotate_key(first.key_id, third.digest, overlap=60)
    assert key is not None
    assert key.digests == (third.digest, second.digest)


async def test_a_revoked_key_has_no_overlap(storage: Storage) -> None:
    first, second = mint(), mint()
    await added(storage, first)
    await storage.rotate_key(first.key_id, second.digest, overlap=60)
    await storage.revoke_key(first.key_id)
    assert (await loaded(storage, first.key_id)).digests == ()


async def test_the_last_use_is_noted_once_in_a_while(storage: Storage, clock: Clock) -> None:
    minted = mint()
    await added(storage, minted)
    await storage.note_key_used(minted.key_id)
    first = (await loaded(storage, minted.key_id)).last_used_at
    assert first is not None
    await storage.note_key_used(minted.key_id)
    assert (await loaded(storage, minted.key_id)).last_used_at == first
    await clock.age_key(minted.key_id, LAST_USED_STEP)
    await storage.note_key_used(minted.key_id)
    later = (await loaded(storage, minted.key_id)).last_used_at
    assert later is not None
    assert later >= first


def test_a_secret_matches_its_own_digest_only() -> None:
    minted = mint()
    parts = parse(minted.text)
    assert parts is not None
    assert parts[0] == minted.key_id
    assert matches(parts[1], [minted.digest])
    assert matches(parts[1], [digest_of("other"), minted.digest])
    assert not matches(parts[1], [digest_of("other")])
    assert not matches(parts[1], [])
    assert digest_of(parts[1]) != minted.digest, "each digest has a salt of its own"
    for wrong in ("", "pdk_", minted.text + "0", minted.text.upper(), f" {minted.text}", f"{minted.text}\n"):
        assert parse(wrong) is None
